package testdata

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"tollgate/policy/keys"
)

// Every script parses, every key in it exists, and every key is used.
func TestScriptsAndKeysFit(t *testing.T) {
	for _, api := range APIs() {
		t.Run(api, func(t *testing.T) {
			secrets := secretsOf(t, api)
			blocks, err := Script(api)
			if err != nil {
				t.Fatal(err)
			}
			var sent strings.Builder
			known := maps.Clone(secrets)
			for _, name := range Tokens() {
				known[name] = "token"
			}
			for _, b := range blocks {
				fmt.Fprintln(&sent, b.Target, b.Headers)
				if err := b.Expand(known, func(string) string { return "handle" }); err != nil {
					t.Error(err)
				}
				checkBody(t, b)
			}
			for id := range secrets {
				if !strings.Contains(sent.String(), "${"+id+"}") {
					t.Errorf("no block sends %s", id)
				}
			}
		})
	}
}

// A body that is meant to be JSON is JSON, and HEAD has none.
func checkBody(t *testing.T, b Block) {
	t.Helper()
	if b.WantBody == nil || b.GRPC() {
		return
	}
	if b.Method == "HEAD" {
		if *b.WantBody != "" {
			t.Errorf("script.txt:%d: HEAD with a body", b.Line)
		}
		return
	}
	if !json.Valid([]byte(*b.WantBody)) {
		t.Errorf("script.txt:%d: the body is not JSON: %s", b.Line, *b.WantBody)
	}
}

// The demo of each API shows an allowed request and every error code that the
// API documents.
func TestDemoShowsEveryCode(t *testing.T) {
	codes := map[string][]string{
		"pixelbyte": {"UNAUTHORIZED", "INVALID_API_KEY", "API_KEY_INACTIVE", "API_KEY_EXPIRED",
			"IP_NOT_WHITELISTED", "OPERATION_NOT_ALLOWED", "INTERNAL_ERROR"},
		"pixelmagic": {"unauthorized", "forbidden", "rate_limit_exceeded", "internal_error"},
		"genapi": {"MISSING_API_KEY", "INVALID_API_KEY", "EXPIRED_API_KEY", "INSUFFICIENT_PERMISSIONS",
			"RATE_LIMIT_EXCEEDED", "INTERNAL_ERROR"},
		"pictify": {"missing-auth", "invalid-api-key", "rate-limit"},
	}
	for _, api := range APIs() {
		blocks, err := Script(api)
		if err != nil {
			t.Fatal(err)
		}
		allowed, demos, bodies := false, 0, ""
		for _, b := range blocks {
			if !b.Demo {
				continue
			}
			demos++
			allowed = allowed || b.Allowed()
			if b.WantBody != nil {
				bodies += *b.WantBody
			}
		}
		if !allowed || demos < 6 {
			t.Errorf("%s: %d demo blocks, one of them allowed: %v; want 6 and one", api, demos, allowed)
		}
		for _, code := range codes[api] {
			if !strings.Contains(bodies, code+`"`) {
				t.Errorf("%s: no demo block shows %s", api, code)
			}
		}
	}
}

// A secret that is meant to be looked up has the checksum that a made one has.
func TestSecretsHaveTheirChecksum(t *testing.T) {
	prefix := regexp.MustCompile(`^(pb_|pm_|ga_|pk_live_|pk_test_)`)
	for _, api := range APIs() {
		for id, secret := range secretsOf(t, api) {
			if !keys.HasChecksum(secret, prefix.FindString(secret)) {
				t.Errorf("%s: %s has no right checksum", api, id)
			}
		}
	}
}

// The variant of pictify for its SDKs is its policy with extension members, and
// nothing else.
func TestTheSDKVariantOnlyAddsExtensions(t *testing.T) {
	read := func(name string) (whole map[string]any, byReason map[string]any) {
		data, err := File("pictify", name)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(data, &whole); err != nil {
			t.Fatal(err)
		}
		byReason = map[string]any{}
		errors := whole["errors"].(map[string]any)
		for _, entry := range errors["answers"].([]any) {
			answer := entry.(map[string]any)
			reasons := answer["on"].([]any)
			if _, extended := answer["extensions"]; extended == (name == "policy.yaml") {
				t.Errorf("%s: %v: extensions: %v", name, reasons, extended)
			}
			delete(answer, "on")
			delete(answer, "extensions")
			for _, reason := range reasons {
				byReason[reason.(string)] = answer
			}
		}
		delete(errors, "answers")
		return whole, byReason
	}
	policy, answers := read("policy.yaml")
	variant, variantAnswers := read("sdk.yaml")
	if !reflect.DeepEqual(policy, variant) || !reflect.DeepEqual(answers, variantAnswers) {
		t.Errorf("sdk.yaml is not policy.yaml with extensions:\n%v\n%v\n%v\n%v", policy, variant, answers, variantAnswers)
	}
}

// Each bad policy says first what its error must say; small.yaml, on which they
// are built, stays the short example that the README shows.
func TestBadPoliciesSayWhatTheyWant(t *testing.T) {
	want := regexp.MustCompile(`^# want: [1-9][0-9]*:[1-9][0-9]*: \S`)
	names, err := filepath.Glob("bad/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no bad policies: %v", err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !want.Match(data) {
			t.Errorf("%s: the first line is not `# want: LINE:COL: SUBSTRING`", name)
		}
	}
	small, err := os.ReadFile("small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(small), "\n"); lines > 25 {
		t.Errorf("small.yaml has %d lines, want no more than 25", lines)
	}
}

func TestFileNamesWhatIsMissing(t *testing.T) {
	if _, err := File("pixelbyte", "nothing.yaml"); err == nil || !strings.Contains(err.Error(), "nothing.yaml") {
		t.Errorf("error %v, want one that names nothing.yaml", err)
	}
}

func secretsOf(t *testing.T, api string) map[string]string {
	t.Helper()
	entries, err := Keys(api)
	if err != nil {
		t.Fatal(err)
	}
	secrets := make(map[string]string, len(entries))
	for _, e := range entries {
		secrets[e.Key.ID] = e.Secret
	}
	return secrets
}
