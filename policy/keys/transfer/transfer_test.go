package transfer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
)

// secret returns a strong secret that is easy to tell from others.
func secret(n int) string { return keys.Seal("pk_", fmt.Sprintf("q7Zr%023d", n)) }

// says reads a source and writes each record as one line: its line, then the error or what the key
// says. What is ignored is left out.
func says(f Format, text string, o Options) string {
	var b strings.Builder
	for r, err := range Read(f, strings.NewReader(text), o) {
		var ignored *keyfile.IgnoredError
		if errors.As(err, &ignored) {
			continue
		}
		fmt.Fprintf(&b, "%d ", r.Line)
		if err != nil {
			fmt.Fprintf(&b, "! %v\n", err)
			continue
		}
		k := r.Key
		for _, part := range []string{k.ID, k.API, k.Team, k.Name, k.Plan, k.Environment, k.Note} {
			fmt.Fprintf(&b, "%s,", part)
		}
		for n := range 10 {
			if r.Secret == secret(n) {
				fmt.Fprintf(&b, " secret %d", n)
			}
		}
		if k.Digest != (keys.Digest{}) {
			fmt.Fprintf(&b, " hash %s", k.Algorithm)
		}
		if k.Scopes != nil {
			fmt.Fprintf(&b, " scopes %v", k.Scopes)
		}
		for _, p := range k.IPs {
			fmt.Fprintf(&b, " %s", p)
		}
		for _, l := range k.Limits {
			fmt.Fprintf(&b, " %s=%d", l.Name, l.Requests)
		}
		if k.LimitID != "" {
			fmt.Fprintf(&b, " counts as %s", k.LimitID)
		}
		if k.Status != "" {
			fmt.Fprintf(&b, " %s", k.Status)
		}
		if r.Narrowed {
			b.WriteString(" narrowed")
		}
		for _, t := range []time.Time{k.CreatedAt, k.ExpiresAt} {
			if !t.IsZero() {
				fmt.Fprintf(&b, " %s", t.Format(time.RFC3339))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func check(t *testing.T, f Format, text string, o Options, want string) {
	t.Helper()
	// $1 is a secret, @1 the same in base64.
	for n := range 10 {
		text = strings.ReplaceAll(text, fmt.Sprintf("$%d", n), secret(n))
		text = strings.ReplaceAll(text, fmt.Sprintf("@%d", n), base64.StdEncoding.EncodeToString([]byte(secret(n))))
	}
	if got := says(f, text, o); got != want {
		text = strings.ReplaceAll(text, strings.Repeat("x", maxLine), "(long)")
		t.Errorf("%s:\n%s\ngot\n%s\nwant\n%s", f, text, got, want)
	}
}

const hash = "hmac-sha256:00000000000000000000000000000000000000000000000000000000000000ab"

func TestJSONLines(t *testing.T) {
	check(t, JSONLines, "\ufeff"+`{"id":"key_a123","api":"pictify","name":"CI","secret":"$1","scopes":[],"ips":["10.0.0.1"]}

{"secret":"$2","limits":[{"name":"minute","requests":5}],"expires_at":"2030-01-02T03:04:05Z"}`+"\r"+`
broken $3
{"secret":"$3","unknown":1}
{"hash":"`+hash+`"}
{"id":"key_b123","note":"`+strings.Repeat("x", maxLine)+`","secret":"$3"}
{"secret":"$4"}`, Options{}, `1 key_a123,pictify,,CI,,,, secret 1 scopes [] 10.0.0.1/32
3 ,,,,,,, secret 2 minute=5 2030-01-02T03:04:05Z
4 ! not JSON: invalid character 'b' looking for beginning of value
5 ! unknown field "unknown"
6 ,,,,,,, hash hmac-sha256
7 ! the line is longer than 1 MiB
8 ,,,,,,, secret 4
`)
}

func TestCSV(t *testing.T) {
	check(t, CSV, "\ufeff"+`secret,name, scopes,ips,limits,team,anchor_day,version,weak
$1,CI,read write,10.0.0.0/8|::1,minute=5|per day=9,orbit,7,2,true
$2,"a ""quoted"", name",read|,,,,,,

$3,unclosed "quote,,,,,,,
$3,"never closed,,,,,,,
$3,few
$3,n,,,minute,,,,
$3,n,,,minute=x,,,,
$3,n,,,,,seven,,
$3,n,,,,,,,maybe
$3,n,,1.2.3,,,,,
$4,n,,,,,,,`, Options{}, `2 ,,orbit,CI,,,, secret 1 scopes [read write] 10.0.0.0/8 ::1/128 minute=5 per day=9
3 ,,,a "quoted", name,,,, secret 2 scopes [read]
5 ! not CSV: byte 47: bare " in non-quoted-field
6 ! not CSV: byte 58: extraneous or missing " in quoted-field
7 ! has 2 columns, the first line has 9
8 ! limits[0]: is not a limit's name, = and a number
9 ! limits[0].requests: is not a whole number
10 ! anchor_day: is not a whole number
11 ! weak: is not true or false
12 ! ips[0]: "1.2.3" is not an IP address or CIDR
13 ,,,n,,,, secret 4
`)
	check(t, CSV, "name;secret\na,b;$1\n", Options{}, "2 ,,,a,b,,,, secret 1\n")
	source := keyfile.ErrSource.Error() + ": "
	check(t, CSV, "$1,x\n$2,y\n", Options{}, "1 ! "+source+"column 1: the first line must name the columns, as the keys file does: it is not a field of a key\n")
	check(t, CSV, "name,secret,name\n", Options{}, "1 ! "+source+"columns 1 and 3 are both name\n")
	check(t, CSV, "name,\"secret\n", Options{}, "1 ! "+source+"not CSV: byte 13: extraneous or missing \" in quoted-field\n")
	check(t, CSV, "", Options{}, "")
}

func TestYAML(t *testing.T) {
	check(t, YAML, `# keys
---
keys: # of orbit
  # the first
  - id: key_a123
    name: "two
      lines"
    # within
    secret: $1
    scopes: []
  - {id: key_b123, secret: $2, team: orbit,
     plan: free}

  - id: key_c123
    note: |
      text

      - no item
    hash: `+hash+`
  - id: key_d123
    name: 5
  - id: key_d123
    name: [unclosed
  - secret: $3
    "`+strings.Repeat("x", maxLine)+`": 1
  -
    secret: $4
  - secret: $5
`, Options{}, `5 key_a123,,,two lines,,,, secret 1 scopes []
11 key_b123,,orbit,,free,,, secret 2
14 key_c123,,,,,,text

- no item
, hash hmac-sha256
20 ! name: must be text, not a number; put it in quotes
23 ! not YAML: sequence end token ']' not found
25 ! the line is longer than 1 MiB
24 ! the item is too long
27 ,,,,,,, secret 4
28 ,,,,,,, secret 5
`)
	check(t, YAML, "keys:\n- secret: $1\nplans: []\n- secret: $2\n...\n", Options{}, `2 ,,,,,,, secret 1
3 ! is not part of the list of keys
4 ,,,,,,, secret 2
`)
	check(t, YAML, "{keys: [{secret: $1}, {name: 1},\n {secret: $2}]}\n", Options{}, `1 ,,,,,,, secret 1
1 ! name: must be text, not a number; put it in quotes
2 ,,,,,,, secret 2
`)
	check(t, YAML, "- secret: $1\n", Options{}, "1 ,,,,,,, secret 1\n")
	check(t, YAML, "keys: []\n", Options{}, "")
	check(t, YAML, "keys:\n", Options{}, "")
	check(t, YAML, "keys:\n  a: b\n", Options{}, "2 ! is not one list of keys under the name keys\n")
	check(t, YAML, "plans: []\n", Options{}, "1 ! is not one list of keys under the name keys\n")
	check(t, YAML, "keys:\n- secret: $1\xff\n- secret: $2\n", Options{}, "2 ! not UTF-8\n3 ,,,,,,, secret 2\n")
}

func TestAuthorino(t *testing.T) {
	check(t, Authorino, `apiVersion: v1
kind: Secret
metadata:
  name: alice
  namespace: apps
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels: {authorino.kuadrant.io/managed-by: authorino, env: live}
  annotations:
    secret.kuadrant.io/user-id: orbit
    secret.kuadrant.io/plan-id: gold
    scopes: read write
stringData:
  api_key: $1
type: Opaque
---
kind: ConfigMap
metadata: {name: other}
---
kind: Secret
metadata: {name: broken
---
kind: Secret
metadata: {name: tls}
type: kubernetes.io/tls
data: {api_key: "@3"}
---
kind: List
items:
- kind: Secret
  metadata: {name: bob}
  data: {api_key: "@2"}
- kind: Secret
  metadata: {name: empty}
- kind: Secret
  metadata: {name: bad}
  data: {api_key: "%%"}
- kind: Secret
  metadata: {name: number}
  stringData: {api_key: 12345678901234567890}
- kind: Secret
  metadata: {name: newline}
  stringData: {api_key: "$3\n"}
`, Options{Labels: map[string]string{"environment": "env", "scopes": "scopes"}}, `20 ! not YAML
1 ,,orbit,alice,gold,live,Secret apps/alice, secret 1 scopes [read write] 2026-01-02T03:04:05Z
22 ,,,tls,,,Secret tls, secret 3
29 ,,,bob,,,Secret bob, secret 2
32 ! secret: the Secret has no entry api_key
34 ! secret: is not base64
37 ! secret: must be text; put it in quotes
40 ! secret: has a byte outside A-Z a-z 0-9 . _ ~ + / = -
`)
	check(t, Authorino, `{"kind": "SecretList", "items": [
	{"metadata": {"name": "alice", "labels": {"who": "acme"}},
	 "data": {"api_key": "@1"}},
	{"metadata": {"name": "bob"}, "data": null}
]}`, Options{Labels: map[string]string{"team": "who", "plan": ""}}, `2 ,,acme,alice,,,Secret alice, secret 1
4 ! secret: the Secret has no entry api_key
`)
	check(t, Authorino, `{"kind": "Secret", "metadata": {"name": "a", "labels": {"x": "y"}}, "stringData": {"api_key": "$1"}}
{"kind": "Secret", "metadata": {"name": "b"}, "stringData": {"api_key": "$2"}}
{"kind": "Sec`, Options{Labels: map[string]string{"secret": "x"}}, `3 ! not JSON
1 ! labels cannot give "secret"
2 ,,,b,,,Secret b, secret 2
`)
}

func TestEnvoyGateway(t *testing.T) {
	secrets := `kind: Secret
metadata: {name: one, namespace: apps}
data:
  client1: @1
  client2: @2
stringData: {client2: $3}
---
kind: Secret
metadata: {name: two, namespace: apps}
stringData:
  client1: $4
  client3: 5
---
kind: Secret
metadata: {name: two, namespace: apps}
---
kind: Secret
metadata: {name: elsewhere, namespace: other}
stringData: {client9: $9}
`
	check(t, EnvoyGateway, secrets, Options{}, `14 ! the Secret is there twice; this one is left out
4 ,,,client1,,,Secret apps/one, secret 1
5 ,,,client2,,,Secret apps/one, secret 3
11 ,,,client1,,,Secret apps/two, secret 4
12 ! secret: must be text; put it in quotes
19 ,,,client9,,,Secret other/elsewhere, secret 9
`)
	check(t, EnvoyGateway, secrets+`---
kind: SecurityPolicy
metadata: {name: keys, namespace: apps}
spec:
  apiKeyAuth:
    credentialRefs:
    - {group: "", kind: Secret, name: two}
    - name: one
    - name: gone
---
kind: SecurityPolicy
metadata: {name: again, namespace: apps}
spec: {apiKeyAuth: {credentialRefs: [{name: two}]}}
---
kind: SecurityPolicy
metadata: {name: cors, namespace: apps}
spec: {cors: {}}
`, Options{}, `14 ! the Secret is there twice; this one is left out
11 ,,,client1,,,Secret apps/two, secret 4
12 ! secret: must be text; put it in quotes
4 ! the policy has a client of this id on line 11 already, and the first counts
5 ,,,client2,,,Secret apps/one, secret 3
26 ! the SecurityPolicy refers to Secret gone, which is not in the source
`)
}

func TestKong(t *testing.T) {
	config := `_format_version: "3.0"
services: [{name: x, url: "http://x"}]
consumers:
- username: orbit-app
  custom_id: orbit
  keyauth_credentials:
  - key: $1
    tags: [ci, blue]
    created_at: 1700000000
    ttl: 3600
  - key: 123456789012345678
  - tags: ~
  - key: $2
    ttl: ~
- id: 59d1ef15-24a5-4373-b957-e8192c15ff6e
  custom_id: only-id
keyauth_credentials:
- key: $3
  consumer: 59d1ef15-24a5-4373-b957-e8192c15ff6e
  ttl: 60
- {key: $4, consumer: {username: orbit-app}, ttl: 1900000000.5}
- {key: $5, consumer: nobody}
- {key: $5}
- {key: $5, consumer: orbit-app, ttl: soon}
- {key: $5, consumer: orbit-app, created_at: -1}
`
	check(t, Kong, config, Options{AsOf: time.Unix(1800000000, 0)}, `7 ,,orbit,orbit-app,,,Kong tags: ci, blue, secret 1 2023-11-14T22:13:20Z 2023-11-14T23:13:20Z
11 ! secret: the key must be text; put it in quotes
12 ! secret: the credential has no key; Kong would make one up
13 ,,orbit,orbit-app,,,, secret 2
18 ,,only-id,only-id,,,, secret 3 2027-01-15T08:01:00Z
21 ,,orbit,orbit-app,,,, secret 4 2030-03-17T17:46:40Z
22 ! consumer: is not in the file
23 ! consumer: is not in the file
24 ! ttl: is not a number of seconds
25 ! created_at: is not a number of seconds
`)
	check(t, Kong, `consumers: [{username: a, keyauth_credentials: [{key: $1, ttl: 5}]}]`, Options{},
		"1 ! ttl: counts from a moment that the file does not say; say when it was written\n")
	check(t, Kong, "{\"consumers\": [\n\t{\"username\": \"a\", \"keyauth_credentials\": [{\"key\": \"$1\"}]}]}", Options{}, "2 ,,,a,,,, secret 1\n")
}

func TestTreesThatCannotBeRead(t *testing.T) {
	deepYAML, deepJSON := strings.Repeat("[", 200), "{\"a\":"+strings.Repeat("[", 200)
	for _, f := range []Format{Kong, Authorino, EnvoyGateway} {
		check(t, f, deepYAML, Options{}, "1 ! nested too deep\n")
		check(t, f, strings.Repeat("- ", 200), Options{}, "1 ! nested too deep\n")
		check(t, f, deepJSON, Options{}, "1 ! not JSON\n")
		check(t, f, "a: \xff", Options{}, "0 ! "+keyfile.ErrSource.Error()+": it is not UTF-8\n")
		check(t, f, "a: b\na: c\n", Options{}, "2 ! not YAML\n")
		check(t, f, "a: b\n...\nc: d\n", Options{}, "1 ! not YAML: a second document without a line of ---\n")
		check(t, f, "--- # nothing\n---\n", Options{}, "")
		check(t, f, "text", Options{}, "")
		want := ""
		if f == Kong {
			want = "1 ! " + keyfile.ErrSource.Error() + ": line 1: consumers: must be a list\n"
		}
		check(t, f, "{\"kind\": 1, \"consumers\": {\"a\": true}}", Options{}, want)
	}
}

func TestSourcesThatFail(t *testing.T) {
	for _, f := range append(Formats(), "xml") {
		n := 0
		for _, err := range Read(f, iotest.ErrReader(errors.New("disk")), Options{}) {
			if n++; !errors.Is(err, keyfile.ErrSource) {
				t.Errorf("%s: %v", f, err)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d records", f, n)
		}
		if _, err := Survey(f, iotest.ErrReader(errors.New("disk"))); err == nil {
			t.Errorf("%s: no error", f)
		}
	}
}

// Whoever has enough stops.
func TestReadStops(t *testing.T) {
	for f, text := range map[Format]string{
		YAML:         "keys:\n- {}\n- {}\n- x\nkeys: []\n- {}\n",
		JSONLines:    "{}\n{}\nx\n" + strings.Repeat("x", 2*maxLine) + "\n{}\n",
		CSV:          "name\na\n\"\nb,c\n" + strings.Repeat("x", 2*maxLine) + "\nb\n",
		Authorino:    "a: [\n---\nb: [\n---\nkind: Secret\n---\nkind: Secret\n",
		EnvoyGateway: "a: [\n---\nkind: Secret\nmetadata: {name: a}\ndata: {a: b, c: d}\n---\nkind: Secret\nmetadata: {name: a}\n---\nkind: SecurityPolicy\nspec: {apiKeyAuth: {credentialRefs: [{name: b}, {name: a}, {name: a}]}}\n",
		Kong:         "a: [\n---\nkeyauth_credentials: [{}, {}]\nconsumers: [{keyauth_credentials: [{}, {}]}]\n",
	} {
		all := strings.Count(says(f, text, Options{}), "\n")
		if all < 4 {
			t.Fatalf("%s: only %d records", f, all)
		}
		for most := range all {
			n := 0
			for range Read(f, strings.NewReader(text), Options{}) {
				if n++; n > most {
					break
				}
			}
			if n != most+1 {
				t.Errorf("%s: %d records after %d", f, n, most+1)
			}
		}
	}
}

func TestFormats(t *testing.T) {
	for _, f := range Formats() {
		if got, err := ParseFormat(string(f)); err != nil || got != f {
			t.Errorf("%s: %v", f, err)
		}
	}
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("xml is a format")
	}
	for name, want := range map[string]Format{"a.yml": YAML, "A.YAML": YAML, "k.jsonl": JSONLines, "k.ndjson": JSONLines, "x.csv": CSV, "x.json": "", "x": ""} {
		if got, ok := FormatOf(name); got != want || ok != (want != "") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestSurvey(t *testing.T) {
	for _, c := range []struct {
		f       Format
		text    string
		records int
	}{
		{JSONLines, "{}\n\n{}", 2}, {CSV, "name\n\na\nb\n", 2}, {CSV, "", 0}, {YAML, "keys:\n  - a: b\n    c: d\n  - e: f\n", 2}, {Kong, "a\nb\n", 0},
	} {
		s, err := Survey(c.f, strings.NewReader(c.text))
		if err != nil || s.Records != c.records || s.Bytes != int64(len(c.text)) || len(s.SHA256) != 64 {
			t.Errorf("%s %q: %+v, %v", c.f, c.text, s, err)
		}
	}
	s, _ := Survey(JSONLines, strings.NewReader("abc"))
	if s.SHA256 != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Error(s.SHA256)
	}
}
