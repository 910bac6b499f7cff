package envoy_test

import (
	"net/netip"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// Through a real Envoy: what Tollgate cannot decide and says so by failing the
// call, and what it is never asked, is refused with status_on_error.
func TestEnvoyWhenUndecided(t *testing.T) {
	// The bootstrap names the API that it belongs to.
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile("errors:", "undecided: rpc\nerrors:", "api: small", "api: pixelbyte"))
	client := extauthztest.NewRedis(t, "embedded")
	secret, entries := extauthztest.SmallKey()
	s.Use(t, client, entries)
	e := startEnvoy(t, envoyVersions()[0], bootstrap(t), s.Addr, s)
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
	file, entries, _ := extauthztest.APIFiles(t, "pictify")
	s := extauthztest.NewStack(t, nil, file)
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	e := startEnvoy(t, envoyVersions()[0], bootstrap(t), s.Addr, s)
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
	file, entries, _ := extauthztest.APIFiles(t, "pixelbyte")
	s := extauthztest.NewStack(t, nil, file)
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	secret := ""
	for _, e := range entries {
		if e.Key.ID == "key_pb_full" {
			secret = e.Secret
		}
	}
	for _, version := range envoyVersions() {
		t.Run(version, func(t *testing.T) {
			e := startEnvoy(t, version, bootstrap(t), s.Addr, s)
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
	client := authv3.NewAuthorizationClient(s.Dial(t))
	req := extauthztest.Get("/v1/jobs/job!1", map[string]string{"authorization": "Bearer " + secret, ":path": "/v1/jobs/job!1"})
	req.Attributes.Request.Http.Host = "api.pixelbyte.io"
	if resp, err := client.Check(extauthztest.Within(t), req); err != nil || resp.GetStatus().GetCode() == 0 {
		t.Errorf("%v, %v", resp, err)
	}
}
