package transfer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys/keyfile"
)

func readCase(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The files of testdata were once read wrongly, without a word.
func TestFilesOfOthers(t *testing.T) {
	check(t, Kong, readCase(t, "kong-anchored-consumer.yaml"), Options{}, "6 ,,,lena,,,,\n9 ,,,marc,,,,\n")
	check(t, Kong, readCase(t, "kong-merged-ttl.yaml"), Options{}, "8 ,,,lena,,,, 2024-12-16T06:07:25Z 2024-12-16T08:07:25Z\n")
	check(t, Authorino, readCase(t, "authorino-anchored-annotations.yaml"), Options{}, "1 ,,lena,api-key-of-lena,silver,,Secret api-key-of-lena,\n")
	restricted := readCase(t, "kong-restricted-consumer.yaml")
	check(t, Kong, restricted, Options{}, `8 ! acls: group "readonly" on line 6 narrows the key: say which scopes it stands for, with --group readonly=SCOPE`+"\n")
	check(t, Kong, restricted, Options{Groups: map[string]string{"readonly": "read|list"}},
		"8 ,,,dora,,,, scopes [read list] 10.0.0.0/8 minute=5 narrowed 2023-11-14T22:13:20Z\n")
	check(t, Kong, readCase(t, "kong-admin-api.json"), Options{}, "1 ! "+keyfile.ErrSource.Error()+": line 1: this is a page of Kong's Admin API, "+
		"which does not say what narrows its keys: use a declarative configuration (deck gateway dump, kong config db_export)\n")
}

// ignored lists what a source has that is no key and narrows none.
func ignored(f Format, text string, o Options) string {
	var b strings.Builder
	for r, err := range Read(f, strings.NewReader(text), o) {
		var ignored *keyfile.IgnoredError
		if errors.As(err, &ignored) {
			fmt.Fprintf(&b, "%d %s\n", r.Line, ignored.What)
		}
	}
	return b.String()
}

// oneKey is a file with a consumer that has one key, and what a test adds to the consumer and to
// the file.
func oneKey(consumer, rest string) string {
	if consumer != "" {
		consumer = ", " + consumer
	}
	return "consumers:\n- {username: a, keyauth_credentials: [{key: $1}]" + consumer + "}\n" + rest
}

// What Kong keeps beside a key and we cannot take over refuses the key; all the rest is counted.
func TestKongRestrictions(t *testing.T) {
	taken, cannot := "2 ,,,a,,,, secret 1", "; if the policy does the same, give --drop-plugin "
	plugin := func(name, config string) string {
		return "plugins: [{name: " + name + ", config: {" + config + "}}]"
	}
	narrows := func(line int, name, why string) string {
		return fmt.Sprintf("2 ! plugin %s on line %d narrows the key and %s%s%s", name, line, why, cannot, name)
	}
	for _, c := range []struct{ consumer, rest, want string }{
		{"", "", taken},
		// Of the consumer itself.
		{plugin("ip-restriction", "allow: [10.0.0.0/8, '2001:db8::/32'], status: 403"), "", taken + " 10.0.0.0/8 2001:db8::/32 narrowed"},
		{plugin("ip-restriction", "whitelist: [10.0.0.1]"), "", taken + " 10.0.0.1/32 narrowed"},
		{plugin("ip-restriction", "deny: [10.0.0.1], allow: [10.0.0.0/8]"), "", narrows(2, "ip-restriction", "has addresses that are denied, which a key's list cannot say")},
		{plugin("ip-restriction", "deny: 10.0.0.1"), "", narrows(2, "ip-restriction", "its deny is no list")},
		{plugin("ip-restriction", ""), "", narrows(2, "ip-restriction", "has no address that is allowed")},
		{plugin("rate-limiting", "second: 1, hour: 100, policy: redis, limit_by: credential"), "", taken + " second=1 hour=100 narrowed"},
		{plugin("rate-limiting", "minute: 5, limit_by: ip"), "", narrows(2, "rate-limiting", "counts by something else than the key or its consumer")},
		{plugin("rate-limiting", "year: 5"), "", narrows(2, "rate-limiting", "limits a year, which no plan does")},
		{plugin("rate-limiting", "minute: 017"), "", narrows(2, "rate-limiting", "its limit of a minute is not a whole number from 1")},
		{plugin("rate-limiting", "minute: '5'"), "", narrows(2, "rate-limiting", "its limit of a minute is not a whole number from 1")},
		{plugin("rate-limiting", "policy: local"), "", narrows(2, "rate-limiting", "names no limit")},
		{plugin("rate-limiting-advanced", "limit: [5, 1000], window_size: [60, 86400]"), "", taken + " minute=5 day=1000 narrowed"},
		{plugin("rate-limiting-advanced", "limit: [5], window_size: [30]"), "", narrows(2, "rate-limiting-advanced", "has a window that is no second, minute, hour or day")},
		{plugin("rate-limiting-advanced", "limit: [5, 6], window_size: [60]"), "", narrows(2, "rate-limiting-advanced", "has not as many limits as windows")},
		{plugin("request-size-limiting", "allowed_payload_size: 1"), "", narrows(2, "request-size-limiting", "is not taken over")},
		{plugin("somebodys-own", ""), "", narrows(2, "somebodys-own", "is not taken over")},
		{plugin("http-log", "http_endpoint: 'http://x'"), "", taken},
		{"plugins: [{name: ip-restriction, enabled: false, config: {deny: [10.0.0.1]}}]", "", taken},
		{"plugins: [{name: ip-restriction, enabled: 'off', config: {deny: [10.0.0.1]}}]", "", narrows(2, "ip-restriction", "has addresses that are denied, which a key's list cannot say")},
		{"plugins: [{name: rate-limiting, service: x, config: {minute: 5}}]", "", narrows(2, "rate-limiting", "is for one service or route only")},
		{"plugins: [{name: ip-restriction, config: {allow: [10.0.0.1]}}, {name: ip-restriction, config: {allow: [10.0.0.2]}}]", "", narrows(2, "ip-restriction", "is there again on line 2")},
		{"plugins: [{config: {}}]", "", "2 ! " + keyfile.ErrSource.Error() + ": line 2: a plugin without a name"},
		// decK's shared settings.
		{"plugins: [{name: rate-limiting, _config: slow}]", "_plugin_configs: {slow: {minute: 7}}", taken + " minute=7 narrowed"},
		{"plugins: [{name: rate-limiting, _config: slow, config: {minute: 3}}]", "_plugin_configs: {slow: {minute: 7}}", taken + " minute=3 narrowed"},
		{"plugins: [{name: ip-restriction, _config: gone, config: {allow: [10.0.0.1]}}]", "", narrows(2, "ip-restriction", "its _config is not in the file")},
		// Beside the consumer.
		{"", "plugins: [{name: rate-limiting, consumer: a, config: {minute: 5}}]", taken + " minute=5 narrowed"},
		{"", "plugins: [{name: rate-limiting, consumer: {username: a}, config: {minute: 5}}]", taken + " minute=5 narrowed"},
		{"", "plugins: [{name: rate-limiting, consumer: {name: a}, config: {minute: 5}}]", "3 ! " + keyfile.ErrSource.Error() + ": line 3: consumer: cannot be read, and could be any"},
		{"", "plugins: [{name: opa, consumer: other}]", taken},
		{"", "plugins: {name: opa}", "3 ! " + keyfile.ErrSource.Error() + ": line 3: plugins: must be a list"},
		// For all.
		{"", plugin("rate-limiting", "minute: 5"), taken + " minute=5 narrowed"},
		{plugin("rate-limiting", "hour: 9"), plugin("rate-limiting", "minute: 5"), taken + " hour=9 narrowed"},
		{"", plugin("cors", ""), taken},
		{"", plugin("request-size-limiting", ""), narrows(3, "request-size-limiting", "is not taken over")},
		{"", "services: [{name: s, plugins: [{name: key-auth}, {name: cors}]}]", taken},
		{"", "services:\n- name: s\n  plugins:\n  - name: rate-limiting\n    config: {minute: 5}", narrows(6, "rate-limiting", "is for one service or route only")},
		{"", "services:\n- routes:\n  - plugins:\n    - {name: ip-restriction, config: {allow: [10.0.0.1]}}", narrows(6, "ip-restriction", "is for one service or route only")},
		{"", "routes: [{plugins: [{name: bot-detection}]}]", narrows(3, "bot-detection", "is for one service or route only")},
		{"", "plugins: [{name: rate-limiting, route: {id: r}, config: {minute: 5}}]", narrows(3, "rate-limiting", "is for one service or route only")},
		// Consumer groups.
		{"groups: [{name: gold}]", "consumer_groups: [{name: gold, plugins: [{name: rate-limiting-advanced, config: {limit: [5], window_size: [60]}}]}]", taken + " minute=5 narrowed"},
		{"", "consumer_groups: [{name: gold, consumers: [{username: a}], plugins: [{name: opa}]}]", narrows(3, "opa", "is not taken over")},
		{"", "consumer_groups: [{id: g1, name: gold}]\nconsumer_group_consumers: [{consumer: a, consumer_group: g1}]\nconsumer_group_plugins: [{name: opa, consumer_group: {id: g1}}]", narrows(5, "opa", "is not taken over")},
		{"", "consumer_groups: [{name: gold, plugins: [{name: opa}]}]", taken},
		{"groups: [{name: gold}]", "", "2 ! the consumer is in a consumer group that is not in the file (line 2), and could narrow the key"},
		// ACL groups.
		{"acls: [{group: unknown}]", "", `2 ! acls: group "unknown" on line 2 narrows the key: say which scopes it stands for, with --group unknown=SCOPE`},
		{"acls: [{group: readers}, {group: writers}]", "", taken + " scopes [read write] narrowed"},
		{"acls: [{group: readers}]", plugin("acl", "deny: [readers]"), "2 ! acls: the consumer's group on line 2 is denied by an acl plugin"},
		{"", plugin("acl", "allow: [readers]"), narrows(3, "acl", "lets only groups in, of which the consumer has none")},
		{"", plugin("acl", "deny: [readers]"), taken},
		{"", "services: [{plugins: [{name: acl, config: {whitelist: [readers]}}]}]", narrows(3, "acl", "lets only groups in, of which the consumer has none")},
		{"groups: [{name: readers}]", "consumer_groups: [{name: readers}]\n" + plugin("acl", "allow: [readers], include_consumer_groups: true"), taken + " scopes [read] narrowed"},
		{"", "acls: [{consumer: a, group: readers}]", taken + " scopes [read] narrowed"},
		{"", "acls: [{consumer: a}]", "2 ! acls: line 3 names no group"},
		// What nobody knows.
		{"quota: 5", "", "2 ! the consumer on line 2 has a field quota, which is not known and could narrow its keys"},
		{"quota: ~", "", taken},
		{"basicauth_credentials: [{username: a, password: b}]", "", taken},
	} {
		check(t, Kong, oneKey(c.consumer, c.rest), Options{Groups: map[string]string{"readers": "read", "writers": "read write"}}, c.want+"\n")
	}
}

func TestKongCredentials(t *testing.T) {
	for _, c := range []struct{ credential, want string }{
		{"{key: $1, enabled: false}", "1 ,,,a,,,, secret 1 inactive\n"},
		{"{key: $1, enabled: true, id: x, consumer: ~}", "1 ,,,a,,,, secret 1\n"},
		{"{key: $1, allowed_ips: [10.0.0.1]}", "1 ! the credential has a field allowed_ips, which is not known and could narrow it\n"},
		{"{key: $1, ttl: 017, created_at: 5}", "1 ! ttl: is not a number of seconds\n"},
		{"{key: !!str 12345678901234567890}", "1 ,,,a,,,,\n"},
		{"{key: !secret x}", "1 ! not read: a tag that is not read\n"},
		{"{key: *gone}", "1 ! not read: an alias of an anchor that is not before it\n"},
		{"{key: $1, <<: 5}", "1 ! not read: what is merged is not a mapping\n"},
		{"{key: $1, <<: [{ttl: 5, created_at: 10}, {ttl: 99}], ttl: 7}", "1 ,,,a,,,, secret 1 1970-01-01T00:00:10Z 1970-01-01T00:00:17Z\n"},
		{"{key: $1, true: 5}", "1 ! not read: a field name must be plain text\n"},
	} {
		check(t, Kong, "consumers: [{username: a, keyauth_credentials: ["+c.credential+"]}]", Options{}, c.want)
	}
	check(t, Kong, "consumers: [{username: a, keyauth_credentials: {key: $1}}]", Options{}, "1 ! "+keyfile.ErrSource.Error()+": line 1: keyauth_credentials: must be a list\n")
	check(t, Kong, `{"consumers": [{"username": "a", "keyauth_credentials": [{"key": "$1", "key": "$2"}]}]}`, Options{}, "1 ! a field is named twice\n")
	check(t, Kong, `[{"consumers": [{"username": "a"}]}, {"keyauth_credentials": [{"key": "$1", "consumer": {"id": "a"}, "enabled": false}]}]`, Options{}, "1 ,,,a,,,, secret 1 inactive\n")
	// A part that cannot be read could narrow any key.
	check(t, Kong, oneKey("", "---\nplugins: [\n"), Options{}, "4 ! not YAML\n2 ! a part of the file cannot be read (line 4), and could narrow the key\n")
	// Whose it is must be sure.
	check(t, Kong, "consumers: [{username: a, custom_id: b}, {username: b}]\nkeyauth_credentials: [{key: $1, consumer: b}]", Options{}, "2 ! consumer: two of the file have this name\n")
	// Numbers as names.
	check(t, Kong, "consumers: [{username: 5, custom_id: 6}]\nkeyauth_credentials: [{key: $1, consumer: 5}]", Options{}, "2 ,,6,5,,,, secret 1\n")
}

// Kong counts a consumer's keys together unless it is told otherwise; so do we, at each import the
// same.
func TestKongCountsConsumers(t *testing.T) {
	file := "consumers: [{username: a, keyauth_credentials: [{key: $1}, {key: $2}], plugins: [{name: rate-limiting, config: {minute: 5%s}}]}]"
	shared := "counts as kong_4d9f5847dfc55dc28d6c1714"
	together := fmt.Sprintf("1 ,,,a,,,, secret 1 minute=5 %s narrowed\n1 ,,,a,,,, secret 2 minute=5 %[1]s narrowed\n", shared)
	check(t, Kong, fmt.Sprintf(file, ""), Options{API: "jobs"}, together)
	check(t, Kong, fmt.Sprintf(file, ", limit_by: credential"), Options{API: "jobs"}, "1 ,,,a,,,, secret 1 minute=5 narrowed\n1 ,,,a,,,, secret 2 minute=5 narrowed\n")
	filled := strings.NewReplacer("$1", secret(1), "$2", secret(2), "%s", "").Replace(file)
	if got := says(Kong, filled, Options{API: "other"}); strings.Contains(got, shared) || !strings.Contains(got, " counts as kong_") {
		t.Errorf("two APIs count together: %s", got)
	}
}

func TestKongDropsAndIgnores(t *testing.T) {
	text := strings.ReplaceAll(oneKey("acls: [{group: g}], plugins: [{name: opa}, {name: zipkin}, {name: cors, enabled: false}], jwt_secrets: [{key: x}]",
		"plugins: [{name: cors}, {name: opa, consumer: nobody}]\nacls: [{consumer: nobody, group: g}]\nupstreams: [{name: u}]\ncertificates: []\n"), "$1", secret(1))
	o := Options{Drop: []string{"opa", "acl"}}
	if got, want := says(Kong, text, o), "2 ,,,a,,,, secret 1\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	want := `4 its consumer is not in the file
5 upstreams: 1 not read
2 jwt_secrets: 1, which are no API keys
3 plugin cors: it narrows no key
3 plugin opa: its consumer is not in the file
2 plugin opa: dropped, as asked
2 plugin zipkin: it narrows no key
2 plugin cors: it is not enabled
`
	if got := ignored(Kong, text, o); got != want {
		t.Errorf("ignored\n%s\nwant\n%s", got, want)
	}
}

// A few aliases must not become millions of keys, and a document of brackets no gigabytes.
func TestTreesAreBounded(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"aliases": {"a: &a [" + strings.Repeat("{username: x},", 2000) + "]\nb: &b [" + strings.Repeat("*a,", 2000) + "]\n",
			"2 ! not read: its aliases stand for more than the 2097152 nodes that are read\n"},
		"merges": {"d: &d {" + names(2000) + "}\nall:\n" + strings.Repeat("- <<: *d\n", 2000),
			"3 ! not read: its aliases stand for more than the 2097152 nodes that are read\n"},
		"itself": {"a: &a [*a]\n", "1 ! not read: an alias of an anchor that is not before it\n"},
	} {
		if got := says(Kong, c.text, Options{}); got != c.want {
			t.Errorf("%s: %.200s", name, got)
		}
	}
	for _, deep := range []string{"[", "- ", "? ", "!a ", "&a ", "- ? ", "[{a: "} {
		if got := says(Kong, strings.Repeat(deep, 32000), Options{}); got != "1 ! nested too deep\n" {
			t.Errorf("%s: %.200s", deep, got)
		}
	}
	var steps strings.Builder
	for i := range 200 {
		fmt.Fprintf(&steps, "%sa:\n", strings.Repeat(" ", i))
	}
	check(t, Kong, steps.String(), Options{}, "65 ! nested too deep\n")
}

func names(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "n%d: 1,", i)
	}
	return b.String()
}

const authConfig = `
---
apiVersion: authorino.kuadrant.io/v1beta3
kind: AuthConfig
metadata: {name: c, namespace: apps}
spec:
  authentication:
    keys:
      apiKey: {selector: {matchLabels: {app: x}, matchExpressions: [{key: tier, operator: In, values: [gold]}]}%s}
`

// A Secret is a key by what selects it, whatever its type; what an AuthConfig asks for besides
// refuses it.
func TestAuthorinoSelectors(t *testing.T) {
	secrets := `kind: Secret
metadata: {name: in, namespace: apps, labels: {app: x, tier: gold}}
type: example.com/api-key
stringData: {api_key: $1}
---
kind: Secret
metadata: {name: out, namespace: apps, labels: {app: x, tier: free}}
stringData: {api_key: $2}
---
kind: Secret
metadata: {name: elsewhere, namespace: other, labels: {app: x, tier: gold}}
stringData: {api_key: $3}
---
kind: Secret
metadata: {name: cert, namespace: apps}
type: kubernetes.io/tls
data: {tls.key: YQ==}
---
kind: Secret
metadata: {name: labelled, labels: {authorino.kuadrant.io/managed-by: authorino}}
type: kubernetes.io/tls
`
	in, out := "1 ,,,in,,,Secret apps/in, secret 1\n", "6 ! no AuthConfig of the file selects the Secret\n"
	other, empty := "10 ! no AuthConfig of the file selects the Secret\n", "19 ! secret: the Secret has no entry api_key\n"
	found := "10 ,,,elsewhere,,,Secret other/elsewhere, secret 3\n"
	check(t, Authorino, secrets, Options{}, in+"6 ,,,out,,,Secret apps/out, secret 2\n"+found+empty)
	check(t, Authorino, secrets+fmt.Sprintf(authConfig, ""), Options{}, in+out+other+empty)
	check(t, Authorino, secrets+fmt.Sprintf(authConfig, ", allNamespaces: true"), Options{}, in+out+found+empty)
	check(t, Authorino, secrets+fmt.Sprintf(authConfig, ", keySelectors: [other]"), Options{}, "1 ! keySelectors on line 30 are not read\n"+out+other+empty)
	check(t, Authorino, secrets+fmt.Sprintf(authConfig, "")+"  authorization: {opa: {rego: x}}\n", Options{},
		"1 ! the rules of authorization on line 31 narrow the key; if the policy does the same, take them out of the file\n"+out+other+empty)
	if got := ignored(Authorino, secrets, Options{}); got != "14 Secret of another type, without an entry api_key\n" {
		t.Errorf("ignored %s", got)
	}
}

func TestAuthorinoWords(t *testing.T) {
	with := func(metadata string) string {
		return "kind: Secret\nmetadata: {name: a" + metadata + "}\nstringData: {api_key: $1}\n"
	}
	check(t, Authorino, with(", annotations: {kuadrant.io/groups: free}"), Options{}, `1 ! annotations: "kuadrant.io/groups" on line 2 could narrow the key: say with --label FIELD=kuadrant.io/groups what it gives`+"\n")
	check(t, Authorino, with(", annotations: {kuadrant.io/groups: free}"), Options{Labels: map[string]string{"plan": "kuadrant.io/groups"}}, "1 ,,,a,free,,Secret a, secret 1\n")
	check(t, Authorino, with(", annotations: {secret.kuadrant.io/plan-id: 5}"), Options{}, "1 ! annotations: secret.kuadrant.io/plan-id must be text; put it in quotes\n")
	check(t, Authorino, with(", deletionTimestamp: '2026-01-01T00:00:00Z'"), Options{}, "1 ! the Secret is being deleted\n")
	check(t, Authorino, with("")+"---\n"+with(""), Options{}, "1 ,,,a,,,Secret a, secret 1\n5 ! the Secret is there twice; this one is left out\n")
	check(t, Authorino, `{"kind": "List", "metadata": {"continue": "abc"}, "items": []}`, Options{}, "1 ! "+keyfile.ErrSource.Error()+": line 1: the list is only a part: its metadata says continue\n")
}

func TestEnvoyGatewayRestrictions(t *testing.T) {
	policy := func(name, rest string) string {
		return "---\nkind: SecurityPolicy\nmetadata: {name: " + name + "}\nspec: {apiKeyAuth: {credentialRefs: [{name: " + name + "}]}" + rest + "}\n"
	}
	one := "kind: Secret\nmetadata: {name: one}\nstringData: {client1: $1}\n"
	two := "---\nkind: Secret\nmetadata: {name: two}\nstringData: {client2: $2}\n"
	first, second := "3 ,,,client1,,,Secret one, secret 1\n", "7 ,,,client2,,,Secret two, secret 2\n"
	check(t, EnvoyGateway, one+policy("one", ""), Options{}, first)
	check(t, EnvoyGateway, one+policy("one", ", authorization: {defaultAction: Deny}"), Options{},
		"3 ! authorization of the SecurityPolicy on line 7 narrows the key; if the policy does the same, take it out of the file\n")
	here, there := ", targetRefs: [{kind: HTTPRoute, name: here}]", ", targetRefs: [{kind: HTTPRoute, name: there}]"
	check(t, EnvoyGateway, one+two+policy("one", here)+policy("two", here), Options{}, first+second)
	check(t, EnvoyGateway, one+two+policy("one", here)+policy("two", there), Options{},
		"3 ! the SecurityPolicy on line 15 is for something that the client is kept from; import the Secrets of each policy by themselves\n"+
			"7 ! the SecurityPolicy on line 11 is for something that the client is kept from; import the Secrets of each policy by themselves\n")
	check(t, EnvoyGateway, "kind: Secret\nmetadata: {name: one, deletionTimestamp: x}\nstringData: {c: $1}\n", Options{}, "3 ! the Secret is being deleted\n")
	got := ignored(EnvoyGateway, one+two+policy("one", "")+"---\nkind: ConfigMap\n---\nkind: Secret\ntype: kubernetes.io/tls\n", Options{})
	if want := "13 ConfigMap is no Secret\n15 Secret of another type\n5 Secret that no SecurityPolicy refers to\n"; got != want {
		t.Errorf("ignored\n%s", got)
	}
}

// A cell with signs and no item says something that would be lost.
func TestCellsWithoutItems(t *testing.T) {
	check(t, CSV, "secret,ips,scopes,limits\n$1,|,,\n$2,,|,\n$3,,,|\n$4,,,\n", Options{}, `2 ! ips: holds no item
3 ! scopes: holds no item
4 ! limits: holds no item
5 ,,,,,,, secret 4
`)
}

func TestLargeFile(t *testing.T) {
	var b strings.Builder
	b.WriteString("consumers:\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "- {username: u%d, plugins: [{name: rate-limiting, config: {minute: 5}}], keyauth_credentials: [{key: %s}]}\n", i, secret(i))
	}
	began, n := time.Now(), 0
	for r, err := range Read(Kong, strings.NewReader(b.String()), Options{}) {
		if n++; err != nil || !r.Narrowed {
			t.Fatal(r.Line, err)
		}
	}
	if spent := time.Since(began); n != 5000 || spent > 20*time.Second {
		t.Errorf("%d records in %v", n, spent)
	}
}
