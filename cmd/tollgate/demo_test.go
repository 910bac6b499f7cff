package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tollgate/envoy/envoytest"
	"tollgate/policy/keys"
	"tollgate/testdata"
)

// screen is an output that can be read while it is written.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Every printed line, pasted into a shell, is answered with the status above it,
// and Ctrl-C leaves nothing behind.
func TestDemoLines(t *testing.T) {
	_, err := envoytest.Find()
	require(t, "envoy", err, "no Envoy (make tools)")
	before := leaks()
	tmp := shortDir(t)
	t.Setenv("TMPDIR", tmp)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, stderr := &screen{}, &screen{}
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"demo", "--port", "0"}, strings.NewReader(""), out, stderr) }()
	// The demo bounds each part of its start by itself, and says which one took too long. This wait is longer than all of them.
	ended := false
	shown := within(ctx, 2*(demoStart+shotTimeout), func() bool {
		ended = len(code) > 0
		return ended || strings.Contains(out.String(), "# 500 internal-error")
	})
	if !shown || ended {
		t.Fatalf("no curl lines; ended: %t, printed %q and %q", ended, out.String(), stderr.String())
	}

	lines := strings.Split(out.String(), "\n")
	tried := 0
	for i, line := range lines {
		if !strings.HasPrefix(line, "curl ") {
			continue
		}
		tried++
		want := strings.Fields(strings.TrimPrefix(lines[i-1], "# "))[0]
		got, err := exec.Command("sh", "-c", line+" -sS -o /dev/null -w '%{http_code}'").Output()
		if err != nil || !strings.HasSuffix(string(got), strings.TrimSuffix(want, ":")) {
			t.Errorf("%s\n%s: got %s, %v", lines[i-1], line, got, err)
		}
	}
	if tried < 4*4 {
		t.Errorf("only %d lines:\n%s", tried, out.String())
	}
	interrupt()
	if got := <-code; got != exitOK || stderr.String() != "" {
		t.Errorf("exit %d, stderr %q", got, stderr.String())
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
	before.check(t)
}

// The demo's keys are added like those of a keys file: between two lines of the audit stream.
func TestDemoKeysAreAudited(t *testing.T) {
	d := &demo{hasher: keys.NewHasher([]byte(demoPepper))}
	if err := d.load(); err != nil {
		t.Fatal(err)
	}
	if err := d.openStore(t.Context(), filepath.Join(shortDir(t), "store.sock")); err != nil {
		t.Fatal(err)
	}
	defer d.close()
	told, _, err := keys.NewAudit(d.store.client, 0).Read(t.Context(), "", 10, keys.OldestFirst)
	if err != nil || len(told) != 2 || told[0].Action != keys.ActionSeed || told[0].Who != "tollgate demo" ||
		told[1].Result != fmt.Sprintf("done: added %d", len(d.entries)) {
		t.Errorf("%+v, %v", told, err)
	}
}

func TestDemoWithoutEnvoy(t *testing.T) {
	t.Setenv("ENVOY_BIN", "/nonexistent/envoy")
	code, stdout, stderr := command(t, "demo")
	if code != exitFailure || stdout != "" || !strings.Contains(stderr, "ENVOY_BIN") {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
}

func TestWrongAnswersAreSeen(t *testing.T) {
	denied := func(status int, body string) *shot {
		return &shot{block: testdata.Block{Status: status, WantBody: &body}}
	}
	answer := func(status int, body string) *envoytest.Response {
		return &envoytest.Response{Status: status, Body: []byte(body), Headers: [][2]string{{"x-request-id", "id-1"}}}
	}
	for _, c := range []struct {
		name string
		want *shot
		got  *envoytest.Response
		ok   bool
	}{
		{"the same", denied(401, `{"a":1}`), answer(401, `{"a":1}`), true},
		{"another status", denied(401, `{"a":1}`), answer(403, `{"a":1}`), false},
		{"another body", denied(401, `{"a":1}`), answer(401, `{"a":2}`), false},
		{"request id", denied(500, `{"id":"${request_id}"}`), answer(500, `{"id":"id-1"}`), true},
		{"another request id", denied(500, `{"id":"${request_id}"}`), answer(500, `{"id":"id-2"}`), false},
		{"seconds in a 429", denied(429, `{"retry_after":1}`), answer(429, `{"retry_after":42}`), true},
		{"seconds in a text", denied(429, `wait 1 seconds`), answer(429, `wait 42 seconds`), true},
		{"other numbers in a 429", denied(429, `{"limit":1,"retry_after":1}`), answer(429, `{"limit":2,"retry_after":1}`), false},
		{"seconds in a 403", denied(403, `{"retry_after":1}`), answer(403, `{"retry_after":42}`), false},
		{"allowed", &shot{block: testdata.Block{Status: 200}}, answer(200, "anything"), true},
		{"denied instead", &shot{block: testdata.Block{Status: 200}}, answer(403, "anything"), false},
	} {
		if got := c.want.right(c.got); got != c.ok {
			t.Errorf("%s: %v, want %v", c.name, got, c.ok)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"": "''", "plain-1.2/x:y=z": "plain-1.2/x:y=z", "two words": "'two words'", "it's": `'it'\''s'`,
		"$(id)": "'$(id)'", "a&b?c=1": "'a&b?c=1'", "\xff0'\\": `$'\3770\'\\'`, "\n": `$'\012'`,
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}
