package envoytest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"tollgate/envoy"
	"tollgate/policy/connect/redistest"
)

// oldest is the first Envoy version that the bootstraps must load on.
const oldest = "1.36.4"

// limit bounds every wait of a test.
const limit = 20 * time.Second

// eachEnvoy runs test with the Envoy that Find finds and with the oldest one; with ENVOY_BIN set,
// with that one alone.
func eachEnvoy(t *testing.T, test func(t *testing.T, binary string)) {
	t.Run("default", func(t *testing.T) { test(t, requireEnvoy(t, Find)) })
	if os.Getenv("ENVOY_BIN") == "" {
		t.Run(oldest, func(t *testing.T) {
			test(t, requireEnvoy(t, func() (string, error) { return FindVersion(oldest) }))
		})
	}
}

// requireEnvoy returns the binary, or skips the test loudly, or fails it where CI says that Envoy
// must be there.
func requireEnvoy(t *testing.T, find func() (string, error)) string {
	t.Helper()
	path, err := find()
	if err == nil {
		return path
	}
	if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "envoy") {
		t.Fatal(err)
	}
	t.Skipf("SKIPPED, NOT TESTED: %v", err)
	return ""
}

// deadline returns a context that ends with the test, or at the limit.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ready says so.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	redistest.Await(t, what, func(context.Context) bool { return ready() })
}

// authority is the smallest ext_authz server: it refuses /denied, allows the rest, and keeps what
// it was asked.
type authority struct {
	authv3.UnimplementedAuthorizationServer
	mu     sync.Mutex
	checks []*authv3.CheckRequest
}

// Check implements ext_authz v3.
func (a *authority) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checks = append(a.checks, r)
	response := &authv3.CheckResponse{
		Status: &status.Status{},
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"key_id": structpb.NewStringValue("key_fixture"),
		}},
	}
	if strings.HasPrefix(r.GetAttributes().GetRequest().GetHttp().GetPath(), "/denied") {
		response.Status.Code = int32(codes.Unauthenticated)
		response.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized},
			Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{
				Key: "content-type", Value: "application/json"}}},
			Body: `{"no":true}`,
		}}
	}
	return response, nil
}

// last returns the latest check and how many there were.
func (a *authority) last() (*authv3.CheckRequest, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.checks) == 0 {
		return nil, 0
	}
	return a.checks[len(a.checks)-1], len(a.checks)
}

// header returns the values that the latest check has for a header, joined with "|".
func (a *authority) header(name string) string {
	check, _ := a.last()
	var values []string
	for _, h := range check.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		if h.GetKey() == name {
			values = append(values, string(h.GetRawValue()))
		}
	}
	return strings.Join(values, "|")
}

// edge is a running Envoy with both its neighbours.
type edge struct {
	envoy     *Envoy
	authority *authority
	accessLog string
	proxy     bool
}

// newEdge starts an Envoy with the shipped bootstrap between an authority and an Upstream, and ends
// all three with the test. change may adjust the settings.
func newEdge(t *testing.T, binary string, change func(*Settings)) *edge {
	t.Helper()
	upstream, err := Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() })
	shipped, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{authority: &authority{}, accessLog: filepath.Join(t.TempDir(), "access.log")}
	settings := Settings{Binary: binary, Bootstrap: shipped, Tollgate: e.authority.serve(t),
		Upstream: upstream.Addr(), AccessLog: e.accessLog}
	if change != nil {
		change(&settings)
	}
	e.proxy = settings.ProxyProtocol
	e.envoy, err = Start(deadline(t), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.envoy.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(e.envoy.Log())
		}
	})
	return e
}

// serve runs the authority on a free port until the test ends, and returns its address.
func (a *authority) serve(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, a)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// send sends the request in both protocols' way by name, "h1" or "h2".
func (e *edge) send(t *testing.T, protocol string, r *Request) (*Response, error) {
	t.Helper()
	if protocol == "h2" {
		return r.SendH2(deadline(t), e.envoy.Addr(), e.proxy)
	}
	return r.SendH1(deadline(t), e.envoy.Addr(), e.proxy)
}

// get returns a GET request with a test key.
func get(host, target string, headers ...[2]string) *Request {
	return &Request{Method: "GET", Target: target, Host: host, Headers: headers}
}

// address parses an IP address.
func address(text string) netip.Addr { return netip.MustParseAddr(text) }
