package grpcserver_test

import (
	"context"
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

	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// What Envoy can send and no ordinary client would: an answer to each, never an
// allow. The key in it is good, so only the oddity can be what is refused.
func TestOddChecksAreDenied(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	client := authv3.NewAuthorizationClient(s.Dial(t))
	good := map[string]string{"authorization": "Bearer " + secret}
	change := func(f func(*authv3.AttributeContext_HttpRequest)) *authv3.CheckRequest {
		r := extauthztest.Get("/items/1", good)
		f(r.Attributes.Request.Http)
		return r
	}
	tests := []struct {
		name   string
		req    *authv3.CheckRequest
		reason string
	}{
		{"empty message", &authv3.CheckRequest{}, "unknown_api"},
		{"TCP connection", &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{Address: extauthztest.SocketAddress(netip.MustParseAddr("192.0.2.1"))}, Request: &authv3.AttributeContext_Request{}}}, "unknown_api"},
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
		}{path, extauthztest.Get(path, good), "route_denied"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := client.Check(extauthztest.Within(t), tt.req)
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
	if resp, err := client.Check(extauthztest.Within(t), extauthztest.Get("/items/1", good)); err != nil || resp.GetStatus().GetCode() != 0 {
		t.Errorf("the same key on a plain request: %v, %v", resp, err)
	}
}

func TestUnknownAPIBody(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	resp, err := authv3.NewAuthorizationClient(s.Dial(t)).Check(extauthztest.Within(t), &authv3.CheckRequest{})
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
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	client := authv3.NewAuthorizationClient(s.Dial(t))
	raw := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: "Authorization", RawValue: []byte("Bearer " + secret)},
		{Key: "x-junk", RawValue: []byte{0xff, 0xfe, 0}},
		{Key: "x-large", RawValue: []byte(strings.Repeat("a", 60<<10))},
		{Key: "x_consumer_id", RawValue: []byte("team_forged")},
	}}
	req := extauthztest.Get("/items/1", nil)
	req.Attributes.Request.Http.HeaderMap = raw
	resp, err := client.Check(extauthztest.Within(t), req)
	if err != nil || resp.GetStatus().GetCode() != 0 {
		t.Fatalf("%v, %v", resp, err)
	}
	if removed := resp.GetOkResponse().GetHeadersToRemove(); !extauthztest.ContainsFold(removed, "x_consumer_id") || !extauthztest.ContainsFold(removed, "authorization") {
		t.Errorf("removed %v", removed)
	}
	raw.Headers[0].RawValue = append(raw.Headers[0].RawValue, 0xff)
	if resp, err = client.Check(extauthztest.Within(t), req); err != nil || resp.GetStatus().GetCode() == 0 {
		t.Errorf("a key with a raw byte behind it: %v, %v", resp, err)
	}
}

// A store that answers too late must not turn a finished call into an allow.
func TestFinishedContextIsAnError(t *testing.T) {
	late := func(ctx context.Context) (keys.Grant, error) {
		<-ctx.Done()
		return extauthztest.Found(ctx)
	}
	spent := func(ctx context.Context) (limits.Result, error) {
		<-ctx.Done()
		return limits.Result{Allowed: true, Now: time.Now(), States: make([]limits.State, 1)}, nil
	}
	check := grpcserver.CheckDirectly(t, extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: late, OnSpend: spent}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	secret, _ := extauthztest.SmallKey()
	resp, err := check(ctx, extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
	if status.Code(err) != codes.Canceled || resp != nil {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	panics := func(context.Context) (keys.Grant, error) { panic("a bug that quotes sm_secret") }
	s, resp, err := extauthztest.AskBroken(t, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: panics}, nil)
	if status.Code(err) != codes.Internal {
		t.Errorf("%v, %v", resp, err)
	}
	expected := "# HELP tollgate_panics_total Calls that ended in a panic and were answered with an RPC error.\n# TYPE tollgate_panics_total counter\ntollgate_panics_total 1\n"
	if err := testutil.GatherAndCompare(s.Registry, strings.NewReader(expected), "tollgate_panics_total"); err != nil {
		t.Error(err)
	}
	if strings.Contains(s.Log.String(), "sm_secret") {
		t.Error("the log quotes the panic's value")
	}
}

// The decoder and the decision behind it, on any bytes: never a panic, and never
// an allow without a key but on the public route.
func FuzzCheckRequest(f *testing.F) {
	secret, _ := extauthztest.SmallKey()
	for _, r := range []*authv3.CheckRequest{
		{}, extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}),
		extauthztest.Get("/open?api_key="+secret, map[string]string{"x_consumer_id": "forged"}), extauthztest.Get("/items/1?api_key=a&api_key=b", nil),
	} {
		seed, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	unknown := func(context.Context) (keys.Grant, error) { return keys.Grant{}, keys.ErrUnknown }
	check := grpcserver.CheckDirectly(f, extauthztest.AuthorizerOf(f, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: unknown}))
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

// A call that waits to be used again keeps no text of the request, and with that no
// secret.
func TestNothingIsKeptOfACall(t *testing.T) {
	extauthztest.RequestTraces(func(name, target, secret string, from extauthztest.BrokenStore, kept func(string) bool) {
		req := extauthztest.Get(target, map[string]string{"authorization": "Bearer " + secret, "x-request-id": "mark", "x_consumer_id": "mark"})
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range grpcserver.HeldAfterCheck(t, extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), from), b, extauthztest.TextsIn) {
			if kept(text) {
				t.Errorf("%s, %s: %q is kept", name, target, text)
			}
		}
	})
}
