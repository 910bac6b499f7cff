package keyfile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// A field of a key that the form forgets comes back empty.
func TestEveryFieldIsInTheJSONForm(t *testing.T) {
	want := keystest.FullKey()
	want.Other = keys.Digest{} // no part of an export
	f := FieldsOf(want)
	line, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseFields(line)
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := again.Entry()
	if err != nil || !reflect.DeepEqual(&fromJSON.Key, want) {
		t.Errorf("%s came back as %+v, %v", line, fromJSON.Key, err)
	}
}

func TestParseFieldsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{"name":5}`:                    "name: must be a string, not number",
		`{"limits":[{"requests":1.5}]}`: "limits.requests: must be a int64, not number",
		`[]`:                            "must be a JSON object",
		`"text"`:                        "must be a JSON object",
		`{"nam":""}`:                    `unknown field "nam"`,
		`{"` + strings.Repeat("aB3", 9) + `":""}`: "unknown field (a name not shown: it could hold a secret)",
		`{"name":"a","name":"b"}`:                 `unknown or repeated field "name"`,
		`{"NAME":"a"}`:                            `unknown or repeated field "NAME"`,
		`{"name":"a"} {}`:                         "text after the end of the JSON object",
		`{"name":`:                                "not JSON: it ends too early",
		`{"name"~}`:                               "not JSON: invalid character '~' after object key",
		"{\"name\":\"\xff\"}":                     "not UTF-8",
	} {
		if _, err := ParseFields([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	for f, want := range map[*Fields]string{
		{Secret: "short"}:                       "secret: is shorter than 16 bytes",
		{}:                                      "secret: is missing, and so is hash; give one of the two",
		{Secret: keys.NewSecret(""), Hash: "x"}: "hash: stands beside a secret; give one of the two",
		{Hash: "md5:1"}:                         "hash: is not hmac-sha256: or sha256: followed by 64 hexadecimal digits",
		{Secret: keys.NewSecret(""), IPs: []string{"::1", "10.0.0.1/8"}}: `ips[1]: "10.0.0.1/8" has bits set beyond its length; did you mean 10.0.0.0/8?`,
		{Secret: keys.NewSecret(""), ExpiresAt: "tomorrow"}:              `expires_at: "tomorrow" is not a time like 2026-01-31T12:00:00Z`,
		{Secret: keys.NewSecret(""), CreatedAt: "0001-01-01T00:00:00Z"}:  `created_at: "0001-01-01T00:00:00Z" is not a time like 2026-01-31T12:00:00Z`,
	} {
		if _, err := f.Entry(); err == nil || err.Error() != want {
			t.Errorf("%+v:\n got %v\nwant %s", *f, err, want)
		}
	}
}

func TestFieldsHideSecrets(t *testing.T) {
	secret := keys.NewSecret("pk_")
	f := Fields{ID: "key_abcd", Secret: secret}
	if text := fmt.Sprintf("%v %+v %#v %s", f, f, f, f.LogValue()); strings.Contains(text, secret) {
		t.Error(text)
	}
}

// Items are read each for itself, whether a whole file or a part of its list; what is wrong with
// one stops nothing.
func TestParseItem(t *testing.T) {
	const items = "- {id: key_abcd, name: n, weak: true, secret: " + testSecret + "}\n- {id: key_abce, weak: 5}\n- {scopes: [], hash: " + testHash + "}\n"
	for _, text := range []string{items, "keys:\n" + items} {
		var got []string
		ParseItem(text, 7, func(line int, e Entry, err error) bool {
			got = append(got, fmt.Sprint(line, " ", e.Key.ID, " ", e.Plaintext(), " ", e.Key.Scopes != nil, " ", err))
			return true
		})
		first := 7 + strings.Count(text, "\n") - 3
		want := []string{
			fmt.Sprint(first, " key_abcd true false <nil>"),
			fmt.Sprint(first+1, "  false false weak: must be true or false, not a number"),
			fmt.Sprint(first+2, "  false true <nil>"),
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
	}
	taken := 0
	ParseItem(items, 1, func(int, Entry, error) bool { taken++; return false })
	if taken != 1 {
		t.Errorf("%d items were taken by one that stops", taken)
	}
	for text, want := range map[string]string{
		"":                  "",
		"keys:\n":           "",
		"- a\n- \xff\n":     "8 not UTF-8",
		"keys: [\n":         "7 not YAML: sequence end token ']' not found",
		"teams: []\n":       "7 is not one list of keys under the name keys",
		"- {}\n---\n- {}\n": "7 is not one list of keys under the name keys",
	} {
		var got string
		ParseItem(text, 7, func(line int, _ Entry, err error) bool { got += fmt.Sprint(line, " ", err); return true })
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
