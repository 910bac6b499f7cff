package transfer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
)

// reads checks what holds for every source: lines that exist, in the end an end, and either a key
// with one credential or an error, which tells nothing of the secret that the seeds have.
func reads(t *testing.T, f Format, text string) {
	lines := strings.Count(text, "\n") + strings.Count(text, "\r") + 1 // a lone \r ends a line of YAML
	over := false
	for r, err := range Read(f, strings.NewReader(text), Options{AsOf: time.Unix(1_800_000_000, 0)}) {
		if over {
			t.Fatal("records after the end")
		}
		over = errors.Is(err, keyfile.ErrSource)
		if r.Line < 1 && !over || r.Line > lines {
			t.Fatalf("line %d of %d", r.Line, lines)
		}
		if err != nil {
			if strings.Contains(err.Error(), "q7Zr0000") {
				t.Fatalf("a secret in %q", err)
			}
			continue
		}
		if r.Plaintext() == (r.Key.Digest != keys.Digest{}) {
			t.Fatalf("%v has no credential, or two", r)
		}
	}
}

func fuzz(f *testing.F, format Format, seeds ...string) {
	for _, seed := range seeds {
		for from, to := range map[string]string{"$1": secret(1), "$2": secret(2)} {
			seed = strings.ReplaceAll(seed, from, to)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { reads(t, format, text) })
}

func FuzzYAML(f *testing.F) {
	fuzz(f, YAML, "keys:\n- id: key_a123\n  secret: $1\n  note: |\n    a\n\n- {secret: $2}\n...\n", "{keys: [{secret: $1}]}", "- [", "keys:\n  x", "- &a\n- *a",
		// The parser quoted a part of the secret that is too short to be taken for one.
		"keys:0001\n- id: x secret: q7Zr0000\n b\n  note: |{secret: pk_q7Zr000000\x1a000")
}

func FuzzJSONLines(f *testing.F) {
	fuzz(f, JSONLines, `{"secret":"$1","scopes":["a"]}`+"\n"+`{"$1":1}`, `{"limits":[{"name":"a","requests":1e9}]}`)
}

func FuzzCSV(f *testing.F) {
	fuzz(f, CSV, "name,secret,scopes\na,$1,x|y\n\"b\"\"\",$2,\n", "secret;limits\n$1;a=5\n", "secret\n\"$1\n", "$1\n")
}

func FuzzKong(f *testing.F) {
	fuzz(f, Kong, "consumers:\n- username: a\n  keyauth_credentials:\n  - {key: $1, ttl: 5, tags: [x], created_at: 1.5}\nkeyauth_credentials:\n- {key: $2, consumer: {id: a}}\n",
		`{"consumers":[{"username":"a","keyauth_credentials":[{"key":"$1"}]}]}`, "a: &x [*x]\n--- !t\nb: <<")
}

func FuzzKubernetes(f *testing.F) {
	for _, seed := range []string{
		"kind: Secret\nmetadata: {name: a, labels: {x: y}}\ndata: {api_key: cGtfcTdacjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAxNExpYmpw}\n---\nkind: List\nitems:\n- kind: Secret\n  stringData: {api_key: " + secret(1) + "}\n",
		`{"kind":"SecretList","items":[{"metadata":{"name":"a"},"data":{"api_key":"!"}}]}`,
		"kind: SecurityPolicy\nspec: {apiKeyAuth: {credentialRefs: [{name: a}, 5]}}\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		reads(t, Authorino, text)
		reads(t, EnvoyGateway, text)
	})
}
