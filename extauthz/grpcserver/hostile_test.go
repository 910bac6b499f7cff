package extauthz_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/policyfile"
)

// small is one API with a key in front of every path below /items.
const small = `
api: small
hosts: [small.test]
credentials: [bearer, {query: api_key}]
key_format: {prefixes: [sm_], checksum: required}
routes:
- {name: items, match: /items/, scope: none}
- {name: item, match: "GET /items/{id}", scope: none}
- {name: open, match: GET /open, public: true}
plans:
- {name: basic, limits: [{name: minute, requests: 5, per: minute}]}
errors:
  dialect: nested
  answers:
  - {on: [missing_credential, malformed_credential, unknown_key, revoked_key, wrong_environment, inactive_key, expired_key], status: 401, code: unauthorized, message: No.}
  - {on: [address_denied, scope_denied, route_denied], status: 403, code: forbidden, message: Not this.}
  - {on: [rate_limited, quota_exceeded], status: 429, code: slow_down, message: Too fast.}
  - {on: [undecided], status: 500, code: internal_error, message: Our fault.}
`

func smallFile(changes ...string) policyfile.File {
	return policyfile.File{Name: "small.yaml", Data: []byte(strings.NewReplacer(changes...).Replace(small))}
}

func smallKey() (secret string, entries []keys.Entry) {
	secret = keys.Seal("sm_", "APlainKeyOfTheSmallTestAPI0")
	return secret, []keys.Entry{{Secret: secret, Key: keys.Key{
		ID: "key_small", API: "small", Team: "team_s", Name: "plain", Plan: "basic",
		Status: keys.Active, Version: 1, LimitID: "key_small", AnchorDay: 1, CreatedAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
	}}}
}

func get(target string, headers map[string]string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: socketAddress(netip.MustParseAddr("192.0.2.1"))},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Host: "small.test", Path: target, Headers: headers,
		}},
	}}
}

// What Envoy can send and no ordinary client would: an answer to each, never an
// allow. The key in it is good, so only the oddity can be what is refused.
func TestOddChecksAreDenied(t *testing.T) {
	s := newStack(t, nil, smallFile())
	secret, entries := smallKey()
	s.use(t, newRedis(t, "embedded"), entries)
	client := authv3.NewAuthorizationClient(s.dial(t))
	good := map[string]string{"authorization": "Bearer " + secret}
	change := func(f func(*authv3.AttributeContext_HttpRequest)) *authv3.CheckRequest {
		r := get("/items/1", good)
		f(r.Attributes.Request.Http)
		return r
	}
	tests := []struct {
		name   string
		req    *authv3.CheckRequest
		reason string
	}{
		{"empty message", &authv3.CheckRequest{}, "unknown_api"},
		{"TCP connection", &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{Address: socketAddress(netip.MustParseAddr("192.0.2.1"))}, Request: &authv3.AttributeContext_Request{}}}, "unknown_api"},
		{"no host", change(func(h *authv3.AttributeContext_HttpRequest) { h.Host = "" }), "unknown_api"},
		{"two hosts", change(func(h *authv3.AttributeContext_HttpRequest) { h.Host = "small.test,small.test" }), "unknown_api"},
		{"user in host", change(func(h *authv3.AttributeContext_HttpRequest) { h.Host = "x@small.test" }), "unknown_api"},
		{"CONNECT", change(func(h *authv3.AttributeContext_HttpRequest) { h.Method, h.Path = "CONNECT", "" }), "route_denied"},
		{"OPTIONS *", change(func(h *authv3.AttributeContext_HttpRequest) { h.Method, h.Path = "OPTIONS", "*" }), "route_denied"},
		{"absolute form", change(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "http://small.test/items/1" }), "route_denied"},
		{"no method", change(func(h *authv3.AttributeContext_HttpRequest) { h.Method, h.Path = "", "/nowhere" }), "route_denied"},
		{"only a query", change(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "?api_key=" + secret }), "route_denied"},
		{"raw bytes in the path", change(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "/items/é" }), "route_denied"},
		{"control byte in the query", change(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "/items/1?a=\r\nb" }), "route_denied"},
		{"fragment", change(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "/items/1#x" }), "route_denied"},
	}
	for _, path := range []string{"//items/1", "/items//1", "/items/./1", "/items/../items/1", "/items/%2e%2e/1", "/items/%2e", "/items/a%2fb", "/items/a%5cb", "/items/a%00b", `/items/a\b`, "/items/a;b", "/items/a%3bb", "/items/a%0ab", "/items/a%", "/items/a%zz", "/items/a%252fb"} {
		tests = append(tests, struct {
			name   string
			req    *authv3.CheckRequest
			reason string
		}{path, get(path, good), "route_denied"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := client.Check(within(t), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.GetStatus().GetCode() == 0 || resp.GetDeniedResponse() == nil {
				t.Fatalf("not denied: %v", resp)
			}
			if got := resp.GetDynamicMetadata().GetFields()["reason"].GetStringValue(); got != tt.reason {
				t.Errorf("reason %q, want %q", got, tt.reason)
			}
			if code := int(resp.GetDeniedResponse().GetStatus().GetCode()); code < 400 || code > 599 {
				t.Errorf("status %d", code)
			}
		})
	}
	if resp, err := client.Check(within(t), get("/items/1", good)); err != nil || resp.GetStatus().GetCode() != 0 {
		t.Errorf("the same key on a plain request: %v, %v", resp, err)
	}
}

func TestUnknownAPIBody(t *testing.T) {
	s := newStack(t, nil, smallFile())
	resp, err := authv3.NewAuthorizationClient(s.dial(t)).Check(within(t), &authv3.CheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"error":{"code":"unknown_api","message":"No API is configured for this host."}}`
	if got := resp.GetDeniedResponse().GetBody(); got != want {
		t.Errorf("body %s, want %s", got, want)
	}
}

// 60 KiB of headers, most of them of no interest, some raw.
func TestLargeAndRawHeaders(t *testing.T) {
	s := newStack(t, nil, smallFile())
	secret, entries := smallKey()
	s.use(t, newRedis(t, "embedded"), entries)
	client := authv3.NewAuthorizationClient(s.dial(t))
	raw := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: "Authorization", RawValue: []byte("Bearer " + secret)},
		{Key: "x-junk", RawValue: []byte{0xff, 0xfe, 0}},
		{Key: "x-large", RawValue: []byte(strings.Repeat("a", 60<<10))},
		{Key: "x_consumer_id", RawValue: []byte("team_forged")},
	}}
	req := get("/items/1", nil)
	req.Attributes.Request.Http.HeaderMap = raw
	resp, err := client.Check(within(t), req)
	if err != nil || resp.GetStatus().GetCode() != 0 {
		t.Fatalf("%v, %v", resp, err)
	}
	if removed := resp.GetOkResponse().GetHeadersToRemove(); !contains(removed, "x_consumer_id") || !contains(removed, "authorization") {
		t.Errorf("removed %v", removed)
	}
	raw.Headers[0].RawValue = append(raw.Headers[0].RawValue, 0xff)
	if resp, err = client.Check(within(t), req); err != nil || resp.GetStatus().GetCode() == 0 {
		t.Errorf("a key with a raw byte behind it: %v, %v", resp, err)
	}
}

// brokenStore answers as its functions say.
type brokenStore struct {
	lookup func(context.Context) (keys.Grant, error)
	spend  func(context.Context) (limits.Result, error)
}

func (b brokenStore) Lookup(ctx context.Context, _ keys.Digest) (keys.Grant, error) {
	return b.lookup(ctx)
}

func (b brokenStore) Try(*limits.Spend, *limits.Result) bool { return false }

func (b brokenStore) Spend(ctx context.Context, _ *limits.Spend) (limits.Result, error) {
	return b.spend(ctx)
}

func found(context.Context) (keys.Grant, error) {
	_, entries := smallKey()
	return *keys.NewGrant(&entries[0].Key), nil
}

func askBroken(t *testing.T, file policyfile.File, b brokenStore, change func(*extauthz.AuthorizerConfig)) (*stack, *authv3.CheckResponse, error) {
	t.Helper()
	s := newStack(t, func(c *extauthz.AuthorizerConfig) {
		c.Keys, c.Limits = b, b
		if change != nil {
			change(c)
		}
	}, file)
	secret, _ := smallKey()
	resp, err := authv3.NewAuthorizationClient(s.dial(t)).Check(within(t), get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
	return s, resp, err
}

func TestStoreAway(t *testing.T) {
	away := func(context.Context) (keys.Grant, error) { return keys.Grant{}, errors.New("connection refused") }
	unspent := func(context.Context) (limits.Result, error) {
		return limits.Result{}, errors.New("connection refused")
	}
	t.Run("undecided: body", func(t *testing.T) {
		s, resp, err := askBroken(t, smallFile(), brokenStore{lookup: away}, nil)
		if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
			t.Fatalf("%v, %v", resp, err)
		}
		if got := resp.GetDeniedResponse().GetBody(); got != `{"error":{"code":"internal_error","message":"Our fault."}}` {
			t.Errorf("body %s", got)
		}
		if n, _ := testutil.GatherAndCount(s.registry, "tollgate_store_errors_total"); n != 1 {
			t.Errorf("%d store errors are counted", n)
		}
	})
	t.Run("undecided: rpc", func(t *testing.T) {
		_, resp, err := askBroken(t, smallFile("errors:", "undecided: rpc\nerrors:"), brokenStore{lookup: away}, nil)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%v, %v", resp, err)
		}
	})
	for mode, allowed := range map[string]bool{"closed": false, "open": true, "local": true} {
		t.Run("failure_mode: "+mode, func(t *testing.T) {
			file := smallFile("{name: basic,", "{name: basic, failure_mode: "+mode+",")
			_, resp, err := askBroken(t, file, brokenStore{lookup: found, spend: unspent}, nil)
			if err != nil || resp.GetStatus().GetCode() == 0 != allowed {
				t.Errorf("%v, %v", resp, err)
			}
			if got := resp.GetDynamicMetadata().GetFields()["failure_mode"].GetStringValue(); allowed && got != mode {
				t.Errorf("failure_mode %q in the metadata", got)
			}
		})
	}
	t.Run("corrupt record is no matter for failure_mode_allow", func(t *testing.T) {
		corrupt := func(context.Context) (keys.Grant, error) {
			return keys.Grant{}, &keys.CorruptError{ID: "key_small", Err: errors.New("unexpected end of JSON input")}
		}
		s, resp, err := askBroken(t, smallFile("errors:", "undecided: rpc\nerrors:"), brokenStore{lookup: corrupt}, nil)
		if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
			t.Fatalf("%v, %v", resp, err)
		}
		if !strings.Contains(s.log.String(), "key_small") {
			t.Errorf("the log does not name the record: %s", s.log)
		}
	})
	t.Run("nil key without an error", func(t *testing.T) {
		nothing := func(context.Context) (keys.Grant, error) { return keys.Grant{}, nil }
		if _, resp, err := askBroken(t, smallFile(), brokenStore{lookup: nothing}, nil); err != nil || resp.GetStatus().GetCode() == 0 {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("empty result without an error", func(t *testing.T) {
		nothing := func(context.Context) (limits.Result, error) { return limits.Result{}, nil }
		if _, resp, err := askBroken(t, smallFile(), brokenStore{lookup: found, spend: nothing}, nil); err == nil && resp.GetStatus().GetCode() == 0 {
			t.Errorf("allowed: %v", resp)
		}
	})
}

// A store that hangs is answered within our own deadline.
func TestDeadlineOfOurOwn(t *testing.T) {
	hang := func(ctx context.Context) (keys.Grant, error) {
		<-ctx.Done()
		return keys.Grant{}, ctx.Err()
	}
	_, resp, err := askBroken(t, smallFile(), brokenStore{lookup: hang}, func(c *extauthz.AuthorizerConfig) { c.Deadline = time.Millisecond })
	if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
		t.Errorf("%v, %v", resp, err)
	}
}

// A store that answers too late must not turn a finished call into an allow.
func TestFinishedContextIsAnError(t *testing.T) {
	late := func(ctx context.Context) (keys.Grant, error) {
		<-ctx.Done()
		return found(ctx)
	}
	spent := func(ctx context.Context) (limits.Result, error) {
		<-ctx.Done()
		return limits.Result{Allowed: true, Now: time.Now(), States: make([]limits.State, 1)}, nil
	}
	check := extauthz.CheckDirectly(t, extauthz.AuthorizerOf(t, smallFile(), brokenStore{lookup: late, spend: spent}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	secret, _ := smallKey()
	resp, err := check(ctx, get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
	if status.Code(err) != codes.Canceled || resp != nil {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	panics := func(context.Context) (keys.Grant, error) { panic("a bug that quotes sm_secret") }
	s, resp, err := askBroken(t, smallFile(), brokenStore{lookup: panics}, nil)
	if status.Code(err) != codes.Internal {
		t.Errorf("%v, %v", resp, err)
	}
	expected := "# HELP tollgate_panics_total Calls that ended in a panic and were answered with an RPC error.\n# TYPE tollgate_panics_total counter\ntollgate_panics_total 1\n"
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(expected), "tollgate_panics_total"); err != nil {
		t.Error(err)
	}
	if strings.Contains(s.log.String(), "sm_secret") {
		t.Error("the log quotes the panic's value")
	}
}

// The decoder and the decision behind it, on any bytes: never a panic, and never
// an allow without a key but on the public route.
func FuzzCheckRequest(f *testing.F) {
	secret, _ := smallKey()
	for _, r := range []*authv3.CheckRequest{
		{}, get("/items/1", map[string]string{"authorization": "Bearer " + secret}),
		get("/open?api_key="+secret, map[string]string{"x_consumer_id": "forged"}), get("/items/1?api_key=a&api_key=b", nil),
	} {
		seed, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	unknown := func(context.Context) (keys.Grant, error) { return keys.Grant{}, keys.ErrUnknown }
	check := extauthz.CheckDirectly(f, extauthz.AuthorizerOf(f, smallFile(), brokenStore{lookup: unknown}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req authv3.CheckRequest
		if proto.Unmarshal(data, &req) != nil {
			return
		}
		resp, err := check(t.Context(), &req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := proto.Marshal(resp); err != nil {
			t.Fatal(err)
		}
		if resp.GetStatus().GetCode() == 0 && resp.GetDynamicMetadata().GetFields()["route"].GetStringValue() != "open" {
			t.Errorf("allowed: %v", resp)
		}
	})
}

// Through a real Envoy: what Tollgate cannot decide and says so by failing the
// call, and what it is never asked, is refused with status_on_error.
func TestEnvoyWhenUndecided(t *testing.T) {
	// The bootstrap names the API that it belongs to.
	s := newStack(t, nil, smallFile("errors:", "undecided: rpc\nerrors:", "api: small", "api: pixelbyte"))
	client := newRedis(t, "embedded")
	secret, entries := smallKey()
	s.use(t, client, entries)
	e := startEnvoy(t, envoyVersions()[0], bootstrap(t), s.addr, s)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	resp := e.send(t, &envoytest.Request{Method: "GET", Target: "/items/1", Host: "api.pixelbyte.io",
		Headers: [][2]string{{"authorization", "Bearer " + secret}}, Source: netip.MustParseAddr("192.0.2.1")}, "h1")
	if resp.Status != 503 || len(resp.Body) != 0 {
		t.Errorf("%d %s", resp.Status, resp.Body)
	}
}

// A browser on another origin can read a refusal, and its preflight passes.
func TestBrowsers(t *testing.T) {
	file, entries, _ := apiFiles(t, "pictify")
	s := newStack(t, nil, file)
	s.use(t, newRedis(t, "embedded"), entries)
	e := startEnvoy(t, envoyVersions()[0], bootstrap(t), s.addr, s)
	from := netip.MustParseAddr("192.0.2.1")
	origin := [2]string{"origin", "https://app.example.com"}
	preflight := e.send(t, &envoytest.Request{Method: "OPTIONS", Target: "/image", Host: "api.pictify.io", Source: from,
		Headers: [][2]string{origin, {"access-control-request-method", "POST"}, {"access-control-request-headers", "authorization"}}}, "h1")
	if preflight.Status != 200 {
		t.Errorf("preflight: %d %s", preflight.Status, preflight.Body)
	}
	denied := e.send(t, &envoytest.Request{Method: "POST", Target: "/image", Host: "api.pictify.io", Source: from, Headers: [][2]string{origin}}, "h1")
	if denied.Status != 401 || !strings.Contains(string(denied.Body), "missing-auth") {
		t.Errorf("denial: %d %s", denied.Status, denied.Body)
	}
	for name, r := range map[string]*envoytest.Response{"preflight": preflight, "denial": denied} {
		if got, _ := r.Value("access-control-allow-origin"); got != "https://app.example.com" {
			t.Errorf("%s: access-control-allow-origin %q", name, got)
		}
	}
}

// Over HTTP/2 a path may hold raw bytes. Envoy shows them as exclamation marks in
// the check's path and headers, and hands them to the application as they are.
func TestRawBytesInThePathAreRefused(t *testing.T) {
	file, entries, _ := apiFiles(t, "pixelbyte")
	s := newStack(t, nil, file)
	s.use(t, newRedis(t, "embedded"), entries)
	secret := ""
	for _, e := range entries {
		if e.Key.ID == "key_pb_full" {
			secret = e.Secret
		}
	}
	for _, version := range envoyVersions() {
		t.Run(version, func(t *testing.T) {
			e := startEnvoy(t, version, bootstrap(t), s.addr, s)
			for target, status := range map[string]int{
				"/v1/jobs/job!1": 200, // a mark that the client wrote
				"/v1/jobs/\xc0\xae\xc0\xae\xc0\xafmodels": 403,
				"/v1/jobs/\xff":        403,
				"/v1/jobs/job?q=\xff":  403,
				"/v1/jobs/b\xc3\xbcro": 403, // UTF-8 without its escapes
			} {
				resp := e.send(t, &envoytest.Request{Method: "GET", Target: target, Host: "api.pixelbyte.io",
					Headers: [][2]string{{"authorization", "Bearer " + secret}}, Source: netip.MustParseAddr("192.0.2.1")}, "h2")
				if resp.Status != status {
					t.Errorf("%q: %d, want %d", target, resp.Status, status)
				}
			}
		})
	}
	// Where Envoy does not send the raw path (Istio, Envoy Gateway), a mark may be any byte.
	client := authv3.NewAuthorizationClient(s.dial(t))
	req := get("/v1/jobs/job!1", map[string]string{"authorization": "Bearer " + secret, ":path": "/v1/jobs/job!1"})
	req.Attributes.Request.Http.Host = "api.pixelbyte.io"
	if resp, err := client.Check(within(t), req); err != nil || resp.GetStatus().GetCode() == 0 {
		t.Errorf("%v, %v", resp, err)
	}
}

// failure_mode is for a store that is away, never for limits that are broken.
func TestBrokenLimitsAreNoOutage(t *testing.T) {
	for _, mode := range []string{"open", "local"} {
		s := newStack(t, nil, smallFile("{name: basic,", "{name: basic, failure_mode: "+mode+","))
		client := newRedis(t, "embedded")
		secret, entries := smallKey()
		s.use(t, client, entries)
		if err := client.HSet(within(t), "tg:v1:count:{key_small}", "minute:minute", "garbage").Err(); err != nil {
			t.Fatal(err)
		}
		resp, err := authv3.NewAuthorizationClient(s.dial(t)).Check(within(t), get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
			t.Errorf("%s: %v, %v", mode, resp, err)
		}
	}
}

// requestTraces calls test with requests whose texts must not be kept, and what finds
// such a text.
func requestTraces(test func(name, target, secret string, from brokenStore, kept func(text string) bool)) {
	secret, _ := smallKey()
	kept := func(text string) bool {
		return strings.Contains(text, secret) || strings.Contains(text, "mark") || strings.Contains(text, "consumer_id")
	}
	for name, from := range map[string]brokenStore{
		"allowed": allowing(), "unknown": {lookup: func(context.Context) (keys.Grant, error) { return keys.Grant{}, keys.ErrUnknown }},
	} {
		for _, target := range []string{"/items/1?mark=1", "/items/1?api_key=" + secret + "&mark=1", "/mark"} {
			test(name, target, secret, from, kept)
		}
	}
}

// A call that waits to be used again keeps no text of the request, and with that no
// secret.
func TestNothingIsKeptOfACall(t *testing.T) {
	requestTraces(func(name, target, secret string, from brokenStore, kept func(string) bool) {
		req := get(target, map[string]string{"authorization": "Bearer " + secret, "x-request-id": "mark", "x_consumer_id": "mark"})
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range extauthz.HeldAfterCheck(t, extauthz.AuthorizerOf(t, smallFile(), from), b, extauthz.TextsIn) {
			if kept(text) {
				t.Errorf("%s, %s: %q is kept", name, target, text)
			}
		}
	})
}

// Nor does a connection that waits for its next request.
func TestNothingIsKeptByAConnection(t *testing.T) {
	requestTraces(func(name, target, secret string, from brokenStore, kept func(string) bool) {
		sent := "GET /envoy/api=small,target=rewritten" + target + " HTTP/1.1\r\nauthorization: Bearer " + secret + "\r\nx-request-id: mark\r\nx_consumer_id: mark\r\n\r\n"
		for _, text := range extauthz.HeldByLane(extauthz.AuthorizerOf(t, smallFile(), from), []byte(sent), extauthz.TextsIn) {
			if kept(text) {
				t.Errorf("%s, %s: %q is kept", name, target, text)
			}
		}
	})
}
