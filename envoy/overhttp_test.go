package envoy_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/httpserver"
	"tollgate/testdata"
)

// Through real Envoys: Tollgate's failure follows failure_mode_allow, an API's own
// 5xx does not.
func TestEnvoyWhenUndecidedOverHTTP(t *testing.T) {
	if envoyVersions()[0] < oldestOverHTTP {
		t.Skip("no Envoy that is supported over HTTP")
	}
	shipped, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	careless := bytes.Replace(shipped, []byte("failure_mode_allow: false"), []byte("failure_mode_allow: true"), 1)
	for _, c := range []struct {
		undecided string
		config    []byte
		status    int
		allowed   bool
	}{
		{"body", shipped, 500, false}, {"rpc", shipped, 503, false}, {"body", careless, 500, false}, {"rpc", careless, 200, true},
	} {
		s := extauthztest.NewStack(t, nil, extauthztest.SmallFile("errors:", "undecided: "+c.undecided+"\nerrors:", "api: small", "api: pixelbyte"))
		client := extauthztest.NewRedis(t, "embedded")
		secret, entries := extauthztest.SmallKey()
		s.Use(t, client, entries)
		e := startEnvoy(t, envoyVersions()[0], c.config, extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()}), s)
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		resp := e.send(t, &envoytest.Request{Method: "GET", Target: "/items/1", Host: "api.pixelbyte.io",
			Headers: [][2]string{{"authorization", "Bearer " + secret}, {"x-tollgate-place", "api=other"}}, Source: netip.MustParseAddr("192.0.2.1")}, "h1")
		if _, reached := resp.Value("x-envoy-upstream-service-time"); resp.Status != c.status || reached != c.allowed {
			t.Errorf("undecided: %s: %d, reached %v: %s", c.undecided, resp.Status, reached, resp.Body)
		}
	}
}

// Envoy asks about no target of a client but those that begin with a slash, so what a
// client says cannot go on where the words of the place end. The words are in the
// path here, where that could do something: any of these would be the public route.
func TestEnvoyAsksAboutPathsOnly(t *testing.T) {
	if envoyVersions()[0] < oldestOverHTTP {
		t.Skip("no Envoy that is supported over HTTP")
	}
	shipped, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	words := []byte("path_prefix: /envoy/by=header")
	if !bytes.Contains(shipped, words) {
		t.Fatal("the shipped configuration says the API in another way")
	}
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile("api: small", "api: pixelbyte"))
	s.Use(t, extauthztest.NewRedis(t, "embedded"), nil)
	overHTTP := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
	e := startEnvoy(t, envoyVersions()[0], bytes.Replace(shipped, words, []byte("path_prefix: /envoy/api=pixelbyte"), 1), overHTTP, s)
	request := func(method, target string) *envoytest.Request {
		return &envoytest.Request{Method: method, Target: target, Host: "api.pixelbyte.io", Source: netip.MustParseAddr("192.0.2.1")}
	}
	for _, protocol := range []string{"h1", "h2"} {
		if resp := e.send(t, request("GET", "/open"), protocol); resp.Status != 200 {
			t.Fatalf("%s: the public route: %d %s", protocol, resp.Status, resp.Body)
		}
	}
	decided := s.Log.String()
	t.Run("targets", func(t *testing.T) {
		for _, r := range []*envoytest.Request{
			request("GET", ",route=open/x"), request("GET", ",route=open"), request("GET", ",route=open?x"), request("GET", "?,route=open/x"),
			request("GET", "http://api.pixelbyte.io,route=open/x"), request("GET", "http://api.pixelbyte.io?,route=open/x"),
			request("OPTIONS", "*"), request("OPTIONS", ",route=open/x"), request("CONNECT", ",route=open/x:1"),
		} {
			for protocol, send := range map[string]func(context.Context, string, bool) (*envoytest.Response, error){"h1": r.SendH1, "h2": r.SendH2} {
				t.Run(protocol, func(t *testing.T) {
					t.Parallel() // Envoy takes a second to end a connection that it refuses
					if resp, err := send(extauthztest.Within(t), e.envoy.Addr(), true); err == nil && resp.Status != 400 && resp.Status != 404 {
						t.Errorf("%s %s %s: %d %s", protocol, r.Method, r.Target, resp.Status, resp.Body)
					}
				})
			}
		}
	})
	if now := s.Log.String(); now != decided {
		t.Errorf("Tollgate was asked: %s", now[len(decided):])
	}
}

// oldestOverHTTP is the first line of Envoy that is supported over HTTP: 1.37.0
// gives the headers of a denial away wrongly.
const oldestOverHTTP = "1.38"

// TestScriptsOverHTTP runs the same scripts through Envoys that ask over HTTP.
// Nothing in them is left out: the query is compared byte for byte and the metadata
// field by field, as over gRPC.
func TestScriptsOverHTTP(t *testing.T) {
	shipped, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range envoyVersions() {
		if version < oldestOverHTTP {
			continue
		}
		for _, api := range testdata.APIs() {
			t.Run(api+"/envoy-"+version, func(t *testing.T) {
				file, entries, blocks := extauthztest.APIFiles(t, api)
				s := extauthztest.NewStack(t, nil, file)
				e := startEnvoy(t, version, shipped, extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()}), s)
				// The stores are told apart over gRPC; here each has one protocol.
				for i, protocol := range []string{"h1", "h2"} {
					extauthztest.RunScriptOn(t, extauthztest.Backends()[1-i], protocol, s, entries, blocks, func(t *testing.T, b *testdata.Block) *extauthztest.Answer {
						return e.ask(t, b, protocol)
					})
				}
			})
		}
	}
}
