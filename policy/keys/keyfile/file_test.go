package keyfile

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/strictyaml"
)

const testSecret = "pb_0123456789ABCDEFGHIJabcdefg" // no checksum: imported keys have none

const fullFile = `# Keys of pixelbyte.
keys:
- {id: key_pb_full, api: pixelbyte, name: Render farm, secret: pb_0123456789ABCDEFGHIJabcdefg}
- id: key_pb_hash
  api: pixelbyte
  team: team_orbit
  name: "Nightly"
  note: 'été'
  environment: live
  hash: hmac-sha256:0102030000000000000000000000000000000000000000000000000000000000
  scopes: [submit_job, check_status]
  ips: [198.51.100.7, "2001:db8::/32", "::ffff:10.0.0.0/104"]
  plan: pro
  limits: [{name: minute, requests: 0}, {name: day, requests: 500}]
  status: inactive
  expires_at: 2026-01-15T13:00:00+01:00
  retires_at: "2026-02-01T00:00:00Z"
  created_at: 2025-12-31T23:30:00-01:00
  limit_id: key_first
- {id: key_pb_anchor, api: pixelbyte, name: c, secret: "~another-secret+/=.", anchor_day: 31, created_at: 2026-01-15T00:00:00Z, status: revoked, scopes: [], ips: [], limits: []}
`

func TestParseFile(t *testing.T) {
	for name, text := range map[string]string{"plain": fullFile, "CRLF": strings.ReplaceAll(fullFile, "\n", "\r\n"), "BOM": "\ufeff" + fullFile} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseFile("keys.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			want := wantedEntries()
			if len(got) != len(want) {
				t.Fatalf("%d entries", len(got))
			}
			for i := range want {
				if !reflect.DeepEqual(got[i].Key, want[i].Key) || got[i].Secret != want[i].Secret {
					t.Errorf("entry %d:\n got %+v\nwant %+v", i, got[i].Key, want[i].Key)
				}
			}
			if !got[0].Plaintext() || got[1].Plaintext() {
				t.Error("secret and hash are taken for each other")
			}
		})
	}
	if entries, err := ParseFile("k", []byte("keys: []\n")); err != nil || len(entries) != 0 {
		t.Errorf("no keys: %v, %v", entries, err)
	}
}

func wantedEntries() []Entry {
	at := func(s string) time.Time { v, _ := time.Parse(time.RFC3339, s); return v.UTC() }
	plain := keys.Key{ID: "key_pb_full", API: "pixelbyte", Name: "Render farm", LimitID: "key_pb_full", Status: keys.Active,
		AnchorDay: 1, Version: 1, Algorithm: "hmac-sha256"}
	hashed := *keystest.Sample(keystest.WithIPs("198.51.100.7", "2001:db8::/32", "10.0.0.0/8"), func(k *keys.Key) {
		k.ID, k.Name, k.Note, k.Environment, k.Plan, k.LimitID = "key_pb_hash", "Nightly", "été", "live", "pro", "key_first"
		k.Scopes, k.Limits, k.Status = []string{"submit_job", "check_status"}, []keys.Override{{Name: "minute", Requests: 0}, {Name: "day", Requests: 500}}, keys.Inactive
		k.ExpiresAt, k.RetiresAt, k.CreatedAt = at("2026-01-15T12:00:00Z"), at("2026-02-01T00:00:00Z"), at("2026-01-01T00:30:00Z")
		k.UpdatedAt = k.CreatedAt
	})
	anchor := plain
	anchor.ID, anchor.LimitID, anchor.Name, anchor.AnchorDay, anchor.Status = "key_pb_anchor", "key_pb_anchor", "c", 31, keys.Revoked
	anchor.CreatedAt = at("2026-01-15T00:00:00Z")
	anchor.UpdatedAt = anchor.CreatedAt
	return []Entry{{plain, testSecret}, {hashed, ""}, {anchor, "~another-secret+/=."}}
}

func TestAnchorDayDefaultsToTheDayOfCreationInUTC(t *testing.T) {
	for created, want := range map[string]int{"2026-01-31T12:00:00Z": 31, "2026-01-31T23:30:00-01:00": 1} {
		got, err := ParseFile("k", fmt.Appendf(nil, "keys: [{id: key_abcd, api: a, name: n, secret: %s, created_at: %s}]", testSecret, created))
		if err != nil || got[0].Key.AnchorDay != want {
			t.Errorf("%s: %v, %v, want %d", created, got, err, want)
		}
	}
}

// one is a file with one key in flow form: more stands before its closing brace and starts in
// column 73.
func one(more string) string {
	return "keys:\n- {id: key_abcd, api: a, name: n, secret: " + testSecret + more + "}\n"
}

type refusal struct{ text, want string }

const testHash = "hmac-sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

// yamlBlock is a file with one key in block form, whose last field stands in line 5.
func yamlBlock(field string) string {
	return "keys:\n- id: key_abcd\n  api: a\n  name: n\n  " + field + "\n"
}

func expectRefused(t *testing.T, refusals []refusal) {
	t.Helper()
	for _, test := range refusals {
		_, err := ParseFile("k", []byte(test.text))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s\n got %v\nwant %s", test.text, err, test.want)
		}
	}
}

func TestParseFileRefusesForm(t *testing.T) {
	expectRefused(t, []refusal{
		{"", "k:1:1: keys is missing"},
		{"# nothing\n", "k:1:1: keys is missing"},
		{"{}\n", "k:1:1: keys is missing"},
		{"keys:\n", "k:1:7: keys: must be a list, not nothing"},
		{"keys: {}\n", "k:1:7: keys: must be a list, not a mapping"},
		{"[]\n", "k:1:1: the file must be a mapping of fields, not a list"},
		{"hello\n", "k:1:1: the file must be a mapping of fields, not text"},
		{"keys: []\nkeys: []\n", `k:2:1: field "keys" again, first on line 1`},
		{"keys: []\nteams: []\n", `k:2:1: unknown field "teams"`},
		{"keys: []\n---\nkeys: []\n", "k:2:1: a second document"},
		{"keys: [\n", "k:1:7: not YAML: sequence end token ']' not found"},
		{"keys:\n- a: b: c\n", "k:2:6: not YAML: mapping value is not allowed in this context"},
		{"keys:\n- \xff\n", "k:2:3: not UTF-8"},
		{"1: 2\n", "k:1:1: a field name must be plain text, not a number"},
		{"keys:\n- 5\n", "k:2:3: a key must be a mapping of fields, not a number"},
		{"keys:\n- *x\n", "k:2:3: a key must be a mapping of fields, not an anchor, alias, tag or merge, which this file does not know"},
		{"keys:\n- {api: a, name: n, secret: " + testSecret + "}\n", "k:2:3: id: is missing"},
		{"keys:\n- id: key_abcd\n  name: n\n  secret: " + testSecret + "\n", "k:2:3: api: is missing"},
		{"keys:\n- {id: key_abcd, api: a, secret: " + testSecret + "}\n", "k:2:3: name: is missing"},
		{"keys:\n- {id: key_abcd, api: a, name: n}\n", "k:2:3: secret: is missing, and so is hash; give one of the two"},
	})
}

func TestParseFileRefusesTexts(t *testing.T) {
	expectRefused(t, []refusal{
		{one(", hash: " + testHash), "k:2:81: hash: stands beside a secret; give one of the two"},
		{one(", colour: red"), `k:2:75: unknown field "colour"`},
		{one(", secret" + testSecret + ": x"), `k:2:75: unknown field (a name not shown: it could hold a secret)`},
		{one(", secret_abcdefghij: x"), `k:2:75: unknown field (a name not shown: it could hold a secret)`},
		{one(", id: key_abce"), `k:2:75: field "id" again, first on line 2`},
		{one(", <<: {}"), "k:2:75: a field name must be plain text, not an anchor, alias, tag or merge, which this file does not know"},
		{one(", team: 5"), "k:2:81: team: must be text, not a number; put it in quotes"},
		{one(", team: yes, plan: true"), "k:2:92: plan: must be text, not true or false; put it in quotes"},
		{one(", team: "), "k:2:80: team: must be text, not nothing"},
		{one(", team: !!str x"), "k:2:81: team: must be text, not an anchor, alias, tag or merge, which this file does not know"},
		{one(`, team: "a\nb"`), "k:2:81: team: has a control character"},
		{one(`, limit_id: "a}b"`), `k:2:85: limit_id: "a}b" is not 1 to 64 of 0-9 A-Z a-z _ -`},
		{one(", status: gone"), `k:2:83: status: "gone" is not active, inactive, revoked or deleted`},
		{one(", status: deleted"), `k:2:83: status: "deleted" is not active, inactive or revoked`},
		{one(`, status: ""`), `k:2:83: status: "" is not active, inactive, revoked or deleted`},
		{one(", expires_at: 2026-01-15"), `k:2:87: expires_at: "2026-01-15" is not a time like 2026-01-31T12:00:00Z`},
		{one(`, expires_at: "2026-02-30T00:00:00Z"`), `k:2:87: expires_at: "2026-02-30T00:00:00Z" is not a time like 2026-01-31T12:00:00Z`},
		{one(`, created_at: "0001-01-01T00:00:00Z"`), `k:2:87: created_at: "0001-01-01T00:00:00Z" is not a time like 2026-01-31T12:00:00Z`},
		{one(", retires_at: 5"), "k:2:87: retires_at: must be text, not a number; put it in quotes"},
	})
}

func TestParseFileRefusesNumbersAndLists(t *testing.T) {
	expectRefused(t, []refusal{
		{one(", anchor_day: 0"), "k:2:87: anchor_day: 0 is not a day from 1 to 31"},
		{one(", anchor_day: 32"), "k:2:87: anchor_day: 32 is not a day from 1 to 31"},
		{one(", anchor_day: 1.5"), "k:2:87: anchor_day: must be a whole number, not a fraction"},
		{one(", anchor_day: 18446744073709551615"), `k:2:87: anchor_day: "18446744073709551615" is too large`},
		{one(", scopes: read"), "k:2:83: scopes: must be a list, not text"},
		{one(", scopes: [read, 5]"), "k:2:90: scopes[1]: must be text, not a number; put it in quotes"},
		{one(", scopes: [read, read]"), `k:2:90: scopes[1]: "read" is named twice`},
		{one(", scopes: [{}, write, write]"), "k:2:84: scopes[0]: must be text, not a mapping\nk:2:95: scopes[2]: \"write\" is named twice"},
		{one(", ips: [10.0.0.1, 10.0.0.1/8]"), `k:2:91: ips[1]: "10.0.0.1/8" has bits set beyond its length; did you mean 10.0.0.0/8?`},
		{one(", ips: [10.0.0.0/33]"), `k:2:81: ips[0]: "10.0.0.0/33" is not an IP address or CIDR`},
		{one(`, ips: ["fe80::1%eth0"]`), `k:2:81: ips[0]: "fe80::1%eth0" has a zone, which means nothing on another machine`},
		{one(", ips: [5]"), "k:2:81: ips[0]: must be text, not a number; put it in quotes"},
		{one(", ips: 10.0.0.1"), "k:2:80: ips: must be a list, not text"},
		{one(", limits: [{name: minute}]"), "k:2:84: limits[0].requests: is missing"},
		{one(", limits: [{requests: 5}]"), "k:2:84: limits[0].name: is missing"},
		{one(", limits: [minute]"), "k:2:84: limits[0] must be a mapping of fields, not text"},
		{one(", limits: [{name: minute, requests: -1}]"), "k:2:109: limits[0].requests: -1 is not 0 to 1125899906842624"},
		{one(", limits: [{name: minute, requests: many}]"), "k:2:109: limits[0].requests: must be a whole number, not text"},
		{one(", limits: [{name: minute, requests: 1, per: day}]"), `k:2:112: unknown field "per"`},
		{one(", limits: [{name: a, requests: 1}, {name: a, requests: 2}]"), `k:2:115: limits[1].name: "a" is named twice`},
		{one(", limits: 5"), "k:2:83: limits: must be a list, not a number"},
		{one(", extras: [{name: minute, requests: 5}]"), "k:2:84: extras[0].until: is missing"},
		{one(", extras: [{name: minute, requests: 5, until: soon}]"), `k:2:119: extras[0].until: "soon" is not a time like 2026-01-31T12:00:00Z`},
		{one(", extras: [{name: minute, requests: 0, until: 2026-12-31T00:00:00Z}]"), "k:2:109: extras[0].requests: 0 is not 1 to 1125899906842624"},
		{one(", extras: [{name: minute, requests: 5, until: 2026-12-31T00:00:00Z, per: day}]"), `k:2:141: unknown field "per"`},
		{one(", extras: minute"), "k:2:83: extras: must be a list, not text"},
	})
}

func TestParseFileRefusesSecretsAndDuplicates(t *testing.T) {
	expectRefused(t, []refusal{
		{yamlBlock("secret: short"), "k:5:11: secret: is shorter than 16 bytes"},
		{yamlBlock(`secret: ""`), "k:5:11: secret: is shorter than 16 bytes"},
		{yamlBlock("secret: pb_" + strings.Repeat("a", 510)), "k:5:11: secret: is longer than 512 bytes"},
		{yamlBlock("secret: pb_01234 56789ABCDEFG"), "k:5:11: secret: has a byte outside A-Z a-z 0-9 . _ ~ + / = -"},
		{yamlBlock(`secret: "'pb_0123456789ABCDEFG'"`), "k:5:11: secret: has a byte outside A-Z a-z 0-9 . _ ~ + / = -"},
		{yamlBlock("secret: pb_0123456789ABCDEFGé"), "k:5:11: secret: has a byte outside A-Z a-z 0-9 . _ ~ + / = -"},
		{yamlBlock("secret: |\n    pb_0123456789ABCDEFG"), "k:5:11: secret: has a byte outside A-Z a-z 0-9 . _ ~ + / = -"},
		{yamlBlock("secret: 1234567890123456"), "k:5:11: secret: must be text, not a number; put it in quotes"},
		{yamlBlock("hash: 12"), "k:5:9: hash: must be text, not a number; put it in quotes"},
		{yamlBlock("hash: " + testHash[1:]), "k:5:9: hash: is not hmac-sha256: or sha256: followed by 64 hexadecimal digits"},
		{yamlBlock("hash: hmac-sha256:" + strings.Repeat("0", 64)), "k:5:9: hash: is all zeroes"},
		{"keys:\n- {id: " + testSecret + ", api: a, name: n, secret: " + testSecret + "}\n", "k:2:8: id: a value (not shown: it could be a secret) is not key_ followed by 4 to 60 of 0-9 A-Z a-z _"},
		{"keys:\n- {id: key_a, api: A, name: n, secret: " + testSecret + "}\n", "k:2:8: id: \"key_a\" is not key_ followed by 4 to 60 of 0-9 A-Z a-z _\nk:2:20: api: \"A\" is not a lower-case letter followed by a-z 0-9 -"},
		{one("") + "- {id: key_abcd, api: a, name: n, hash: " + testHash + "}\n", `k:3:8: id: "key_abcd" again, first on line 2`},
		{one("") + "- {id: key_abce, api: a, name: n, secret: " + testSecret + "}\n", `k:3:43: secret: the same as that of "key_abcd" on line 2`},
		{yamlBlock("hash: "+testHash) + "- {id: key_abce, api: a, name: n, hash: " + strings.ToUpper(testHash[12:]) + "}\n", "k:6:41: hash: is not hmac-sha256: or sha256: followed by 64 hexadecimal digits"},
		{yamlBlock("hash: "+testHash) + "- {id: key_abce, api: a, name: n, hash: hmac-sha256:" + strings.ToUpper(testHash[12:]) + "}\n", `k:6:41: hash: the same as that of "key_abcd" on line 5`},
	})
}

func TestParseFileStopsAfterTenErrors(t *testing.T) {
	for _, text := range []string{
		"keys:\n" + strings.Repeat("- {colour: red}\n", 100),
		"keys:\n- {scopes: [" + strings.Repeat("5, ", 30) + "]}\n", // and everything else is missing
	} {
		_, err := ParseFile("k", []byte(text))
		if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != 10 {
			t.Errorf("%d errors", n)
		}
	}
}

// A syntax error must not quote the line that it is in.
func TestParseFileNeverShowsASecret(t *testing.T) {
	for _, text := range []string{
		"keys:\n- secret: \"" + testSecret + "\n",
		"keys:\n- secret: " + testSecret + ": x\n",
		"keys:\n- {secret:" + testSecret + " {\n",
		"keys:\n- " + testSecret + "\n",
		"keys:\n- ? " + testSecret + "\n",
		testSecret + "\n",
		testSecret + ": " + testSecret + "\n",
		"keys: *" + testSecret + "\n",
		"keys: !" + testSecret + " x\n",
		"%" + testSecret + "\n---\nkeys: []\n",
		one(", plan: [" + testSecret + "]"), one(", status: " + testSecret), one(", scopes: ['" + testSecret + ",']"),
		one(", ips: [" + testSecret + "]"), one(", expires_at: " + testSecret), one(", limit_id: '" + testSecret + "!'"),
		one(", limits: [{name: n, requests: " + testSecret + "}]"), one(", anchor_day: " + testSecret), one(", " + testSecret + ": x"),
		one("") + one("")[6:],
	} {
		entries, err := ParseFile("k", []byte(text))
		if err == nil {
			t.Errorf("%s: no error, %v", text, entries)
		} else if strings.Contains(err.Error(), testSecret) {
			t.Errorf("%s: the error shows the secret: %v", text, err)
		}
	}
}

func TestSyntaxErrorTakesNothingFromTheFile(t *testing.T) {
	for _, test := range []struct {
		message string
		want    string
	}{
		{"no end of list", "k:1:1: not YAML: no end of list"},
		{"no end of " + testSecret, "k:1:1: not YAML: the text here does not fit"},
		{`no end of "` + testSecret[:8], "k:1:1: not YAML: the text here does not fit"},
	} {
		p := &fileReader{name: "k"}
		p.syntaxError(&strictyaml.Fault{Line: 1, Column: 1, Message: test.message, Quotes: true})
		if got := p.errs[0].Error(); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(fullFile))
	f.Add([]byte(one(", limits: [{name: a, requests: 1}]")))
	f.Add([]byte("keys:\n- secret: \"" + testSecret + "\n"))
	f.Add([]byte("keys: [&a {id: *a}, !!map {}, ? x, |\n x]\n"))
	f.Add([]byte("\ufeffkeys:\r\n- id: \xff\r\n"))
	f.Add([]byte("---\n...\n---\n%YAML 1.2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseFile("k", data)
		if err != nil {
			if strings.Contains(err.Error(), testSecret) {
				t.Fatalf("the error shows the secret: %v", err)
			}
			for line := range strings.Lines(err.Error()) {
				var at place
				if _, err := fmt.Sscanf(line, "k:%d:%d: ", &at.line, &at.col); err != nil || at.line < 1 || at.col < 1 {
					t.Fatalf("no place in %q", line)
				}
			}
			return
		}
		h := keys.NewHasher(nil)
		for _, e := range entries {
			if e.Plaintext() {
				e.Key.Algorithm, e.Key.Digest = keys.AlgorithmHMACSHA256, h.Digest(e.Secret)
			}
			if err := e.Key.Validate(); err != nil {
				t.Fatalf("the file takes what the store does not: %v", err)
			}
			line, err := json.Marshal(FieldsOf(&e.Key))
			if err != nil {
				t.Fatal(err)
			}
			f, err := ParseFields(line)
			if err != nil {
				t.Fatalf("%s does not come back: %v", line, err)
			}
			if back, err := f.Entry(); err != nil || !reflect.DeepEqual(back.Key.IPs, e.Key.IPs) {
				t.Fatalf("%s does not come back: %v", line, err)
			}
		}
	})
}

// The file form in the documentation of the package must stay readable from disk, with its name in
// errors.
func TestParseFileNamesTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(name, []byte("keys: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseFile(name, data); err == nil || !strings.HasPrefix(err.Error(), name+":1:7: ") {
		t.Errorf("ParseFile = %v", err)
	}
}

// Time and memory grow with a file, whatever it holds.
func TestFilesOfBracketsAndLongLists(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, deep := range []string{"[", "- ", "? ", "&a ", "!a ", "[{a: "} {
		text := "keys:\n- id: " + strings.Repeat(deep, 64_000)
		if _, err := ParseFile("k", []byte(text)); err == nil || !strings.Contains(err.Error(), "nested too deep") {
			t.Errorf("%s: %.200v", deep, err)
		}
		ParseItem(text, 1, func(_ int, _ Entry, err error) bool {
			if err == nil || !strings.Contains(err.Error(), "nested too deep") {
				t.Errorf("%s: %.200v", deep, err)
			}
			return true
		})
	}
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 12*64<<20 {
		t.Errorf("%d MiB for 12 files of brackets", spent>>20)
	}
	if _, err := ParseFile("k", []byte("keys: ["+strings.Repeat("a,", 600_000)+"]")); err == nil || !strings.Contains(err.Error(), "words and signs that are read") {
		t.Errorf("%.200v", err)
	}
}
