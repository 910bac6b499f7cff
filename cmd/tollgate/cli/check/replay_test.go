package check

import (
	"strconv"
	"strings"
	"testing"
	"unicode"

	"tollgate/extauthz/extauthztest"
	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

func newReplay(t *testing.T) *replay {
	t.Helper()
	set, places, err := policyfile.CompilePlaced(extauthztest.SmallFile())
	if err != nil {
		t.Fatal(err)
	}
	return &replay{set: set, places: places, keys: map[string]*keys.Key{}, byKind: map[change]*changed{}}
}

// A log is what others have written. What is wrong with it has a line, and its texts are
// nothing that a terminal obeys.
func TestReplayOfAnything(t *testing.T) {
	const hostile = `\u001b[2J\u009b31m\u202e\u0000\n\t`
	texts := map[string]string{
		"unknown API":  `{"decision_id":"` + hostile + `","reason":"allowed","api":"` + hostile + `","route":"` + hostile + `","method":"` + hostile + `","path":"` + hostile + `"}`,
		"unknown path": `{"decision_id":"1","reason":"missing_credential","api":"small","route":"` + hostile + `","method":"GET","path":"` + hostile + `"}`,
	}
	for name, text := range texts {
		r := newReplay(t)
		if err := r.read(t.Context(), nil, strings.NewReader(text)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Changed != 1 {
			t.Errorf("%s: %d changed", name, r.Changed)
		}
		var b strings.Builder
		if err := r.print(&b); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(b.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%s: %q", name, b.String())
		}
	}
	for name, text := range map[string]string{
		"line 2: is longer than 256 KiB":                                      "\n" + strings.Repeat("x", maxLine+1),
		"line 1: is no JSON of a log":                                         `{"decision_id":{}}`,
		`line 1: unknown reason ""`:                                           `{"decision_id":"1"}`,
		"line 1: unknown reason " + strconv.Quote(strings.Repeat("\x1b", 64)): `{"decision_id":"1","reason":"` + strings.Repeat(`\u001b`, 1000) + `"}`,
	} {
		if err := newReplay(t).read(t.Context(), nil, strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", name, err)
		}
	}
	// What the log hides is not known: then the name of the route says which it was.
	r := newReplay(t)
	line := `{"decision_id":"1","reason":"missing_credential","api":"small","route":"items","method":"***","host":"***","path":"/items/***"}`
	if err := r.read(t.Context(), nil, strings.NewReader(line)); err != nil || r.Changed != 0 || r.ByRoute != 1 {
		t.Errorf("%v, %+v", err, r)
	}
	// Lines that say next to nothing.
	for _, text := range []string{`{}`, `null`, `{"decision_id":"1","reason":"allowed"}`, `{"decision_id":"1","reason":"allowed","api":"small"}`,
		`{"decision_id":"1","reason":"allowed","api":"small","path":"*","method":""}`, `{"decision_id":"1","reason":"scope_denied","api":"small","plan":"x"}`,
		`{"decision_id":"1","reason":"concurrency_exceeded","shadow":"allowed","api":"small","path":"//?api_key=x&api_key=y","address":"fe80::1%x"}`} {
		if err := newReplay(t).read(t.Context(), nil, strings.NewReader(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
