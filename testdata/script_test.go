package testdata

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const goodScript = `# A comment.

--- first block [demo]
at 2026-01-15T12:00:00.1Z
> GET /v1/jobs?x=1&y=
> host: api.test
> Authorization: Bearer   ${key_a}
> x-raw: a\xff\t\\b
> x-empty:
< 200
< X-RateLimit-Limit: 60
< !Retry-After
< upstream x-consumer-id: team: a
< upstream !authorization
< upstream :path /v1/jobs?x=${key_a}
< meta key_id: key_a
< meta !plan

--- second block
from ::ffff:203.0.113.7
times 3
> HEAD /v1/jobs/${key_a}
> host: api.test
> content-type: application/grpc+proto
< 401
< body 

--- third block
at 2026-01-15T12:00:01.05Z
> POST /v1/jobs
> host: api.test
< 429
< body {"id":"${handle:key_a}","other":"${handle:plain}","requestId":"${request_id}"}`

func TestParseScript(t *testing.T) {
	blocks, err := ParseScript([]byte(goodScript))
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) != 3 {
		t.Fatalf("%d blocks, want 3", len(blocks))
	}
	noon := time.Date(2026, 1, 15, 12, 0, 0, 100_000_000, time.UTC)
	first, second, third := blocks[0], blocks[1], blocks[2]
	equal(t, "name", first.Name, "first block")
	equal(t, "demo", []bool{first.Demo, second.Demo}, []bool{true, false})
	equal(t, "line", []int{first.Line, second.Line}, []int{3, 19})
	equal(t, "at", first.At, noon)
	equal(t, "at carried on", second.At, noon)
	equal(t, "at moved on", third.At, noon.Add(950*time.Millisecond))
	equal(t, "source", first.Source, netip.MustParseAddr("192.0.2.1"))
	equal(t, "v4-in-v6 source", second.Source.String(), "::ffff:203.0.113.7")
	equal(t, "source is not carried on", third.Source, netip.MustParseAddr("192.0.2.1"))
	equal(t, "times", []int{first.Times, second.Times, third.Times}, []int{1, 3, 1})
	equal(t, "request line", first.Method+" "+first.Target, "GET /v1/jobs?x=1&y=")
	equal(t, "headers", first.Headers, [][2]string{{"host", "api.test"}, {"Authorization", "Bearer   ${key_a}"},
		{"x-raw", "a\xff\t\\b"}, {"x-empty", ""}})
	equal(t, "host", first.Host(), "api.test")
	equal(t, "status", []int{first.Status, second.Status}, []int{200, 401})
	equal(t, "response", first.WantHeaders, []Want{{Name: "x-ratelimit-limit", Value: "60"}, {Name: "retry-after", Absent: true}})
	equal(t, "upstream", first.WantUpstream, []Want{{Name: "x-consumer-id", Value: "team: a"},
		{Name: "authorization", Absent: true}, {Name: ":path", Value: "/v1/jobs?x=${key_a}"}})
	equal(t, "meta", first.WantMeta, []Want{{Name: "key_id", Value: "key_a"}, {Name: "plan", Absent: true}})
	equal(t, "grpc", []bool{first.GRPC(), second.GRPC()}, []bool{false, true})
	if first.WantBody != nil || second.WantBody == nil || *second.WantBody != "" {
		t.Error("want no body for the first block and the empty one for the second")
	}
}

func TestExpand(t *testing.T) {
	blocks, err := ParseScript([]byte(goodScript))
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"key_a": "SECRET"}
	handle := func(s string) string { return "handle of " + s }
	for i := range blocks {
		b := blocks[i]
		if err := b.Expand(secrets, handle); err != nil {
			t.Fatal(err)
		}
		switch i {
		case 0:
			equal(t, "header", b.Headers[1][1], "Bearer   SECRET")
			equal(t, "expectation", b.WantUpstream[2].Value, "/v1/jobs?x=SECRET")
			equal(t, "header of the parsed block", blocks[i].Headers[1][1], "Bearer   ${key_a}")
		case 1:
			equal(t, "target", b.Target, "/v1/jobs/SECRET")
		case 2:
			equal(t, "body", *b.WantBody, `{"id":"handle of SECRET","other":"handle of plain","requestId":"${request_id}"}`)
		}
	}
}

func TestExpandRefuses(t *testing.T) {
	for _, tc := range []struct{ name, header, body, want string }{
		{"unknown key", "${key_b}", "", `unknown name ${key_b}`},
		{"unknown key in the body", "", "${key_b}", `unknown name ${key_b}`},
		{"handle of an unknown key", "", "${handle:key_b}", `unknown key "key_b"`},
		{"request id in a request", "${request_id}", "", "unknown name ${request_id}"},
		{"open reference", "", "${key_a", "without }"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := Block{Name: "n", Line: 7, Headers: [][2]string{{"h", tc.header}}, WantBody: &tc.body}
			err := b.Expand(map[string]string{"key_a": "SECRET"}, func(s string) string { return s })
			if err == nil || !strings.HasPrefix(err.Error(), "script.txt:7: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want script.txt:7: … %s", err, tc.want)
			}
		})
	}
}

func TestParseScriptRefuses(t *testing.T) {
	const head = "--- a\nat 2026-01-15T12:00:00Z\n" // two lines
	const request = head + "> GET /\n> host: h\n"   // four lines
	for _, tc := range []struct {
		name, script string
		line         int
		want         string
	}{
		{"empty", "# nothing\n", 2, "no block"},
		{"before the first block", "> GET /\n", 1, "before the first block"},
		{"nameless block", "--- [demo]\n", 1, "without a name"},
		{"unknown directive", head + "sleep 3\n", 3, `unknown directive "sleep"`},
		{"block mark without a space", request + "< 200\n---b\n", 6, `unknown directive "---b"`},
		{"name twice", request + "< 200\n--- a\n", 6, "at line 1 already"},
		{"no request", head, 1, "no request"},
		{"no request before the next block", head + "--- b\n", 1, "no request"},
		{"no status", request, 1, "no status"},
		{"no host", head + "> GET /\n< 200\n", 1, "0 host lines"},
		{"two hosts", request + "> Host: h\n< 200\n", 1, "2 host lines"},
		{"no at", "--- a\n> GET /\n> host: h\n< 200\n", 1, "no `at`"},
		{"bad at", "--- a\nat noon\n", 2, `at "noon"`},
		{"at goes back", head + "at 2026-01-15T11:59:59Z\n", 3, "before the last"},
		{"at after the request", request + "at 2026-01-15T12:00:00Z\n", 5, "after the request"},
		{"bad from", head + "from here\n", 3, `from "here"`},
		{"bad times", head + "times x\n", 3, `times "x"`},
		{"times 0", head + "times 0\n", 3, "times 0"},
		{"beside 0", head + "beside 0\n", 3, "beside 0"},
		{"beside and times", "--- a\nat 2026-01-15T12:00:00Z\nbeside 2\ntimes 2\n> GET /\n> host: h\n< 200\n", 1, "sent once"},
		{"demo with beside", "--- a [demo]\nat 2026-01-15T12:00:00Z\nbeside 2\n> GET /\n> host: h\n< 200\n", 1, "and alone"},
		{"bad request line", head + "> GET\n", 3, "request line"},
		{"relative path", head + "> GET x\n", 3, "request line"},
		{"fragment", head + "> GET /#x\n", 3, "request line"},
		{"header without a colon", request + "> x\n", 5, "want NAME: VALUE"},
		{"header without a space", request + "> x:y\n", 5, "space after the colon"},
		{"header with an underscore", request + "> x_y: z\n", 5, "underscore"},
		{"unknown escape", request + "> x: \\r\n", 5, "bad escape"},
		{"short escape", request + "> x: \\xf\n", 5, "bad escape"},
		{"expectation before the request", head + "< 200\n", 3, "before the request"},
		{"no status first", request + "< x: y\n", 5, "want the status first"},
		{"odd status", request + "< 2000\n", 5, "want the status first"},
		{"request line after an expectation", request + "< 200\n> x: y\n", 6, "after an expectation"},
		{"unknown expectation", request + "< 200\n< up x: y\n", 6, "want NAME: VALUE"},
		{"absence of nothing", request + "< 200\n< !\n", 6, "no field name"},
		{"expectation twice", request + "< 200\n< x: y\n< !X\n", 7, "second expectation"},
		{"body twice", request + "< 400\n< body a\n< body b\n", 7, "second body"},
		{"denial without a body", request + "< 401\n", 1, "without a body line"},
		{"denial with an upstream", request + "< 401\n< body x\n< upstream a: b\n", 1, "never reaches"},
		{"demo with times", "--- a [demo]\nat 2026-01-15T12:00:00Z\ntimes 2\n> GET /\n> host: h\n< 200\n", 1, "sent once"},
		{"demo with from", "--- a [demo]\nat 2026-01-15T12:00:00Z\nfrom 192.0.2.2\n> GET /\n> host: h\n< 200\n", 1, "source address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseScript([]byte(tc.script))
			prefix := fmt.Sprintf("script.txt:%d: ", tc.line)
			if err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %s… %s", err, prefix, tc.want)
			}
		})
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		t.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}
