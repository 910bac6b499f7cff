package envoy_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// A Tollgate that takes the request and says nothing holds nobody up for long.
func TestTollgateThatHangs(t *testing.T) {
	setup := proxySetup{tollgate: silent(t), without: map[string]string{"traefik": "Traefik waits 30 s, which no setting of ForwardAuth changes"}}
	eachProxy(t, setup, func(t *testing.T, p *otherProxy) {
		others := make(chan struct{})
		go func() {
			defer close(others)
			p.sendSecrets(t)
		}()
		began := time.Now()
		resp := p.send(t, &envoytest.Request{Method: "GET", Target: "/health", Host: "api.pixelmagicai.com"})
		if took := time.Since(began); took > extauthztest.Limit/2 {
			t.Errorf("it took %v", took)
		}
		if resp.Status < 500 || received(resp) != nil {
			t.Errorf("%d %s", resp.Status, resp.Body)
		}
		<-others
		p.mustHaveKept(t)
	})
}

// silent returns the address of a server that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts for it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// What a proxy takes from its client comes back from Tollgate without the key, and
// has to fit into what the proxy has for it.
func TestLongTargetsWithAKey(t *testing.T) {
	setup := proxySetup{without: map[string]string{"traefik": "Traefik cannot take a key out of the query"}}
	eachProxy(t, setup, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		for _, length := range []int{1000, 3800, 3900, 4000, 4096, 5000, 8000, 8100} {
			rest := "/v1/models?a=" + strings.Repeat("x", length)
			resp := p.send(t, &envoytest.Request{Method: "GET", Target: rest + "&api_key=pm_DemoAllServices00000000000047l1f4", Host: "api.pixelmagicai.com"})
			if echo := received(resp); echo == nil || echo.Path != rest {
				t.Errorf("%d bytes: %d %.100s", length, resp.Status, resp.Body)
			}
			// A refusal travels in headers behind nginx.
			resp = p.send(t, &envoytest.Request{Method: "GET", Target: "/nowhere/" + rest, Host: "api.pixelmagicai.com"})
			if resp.Status != 403 && resp.Status != 401 {
				t.Errorf("a refusal of %d bytes: %d %.100s", length, resp.Status, resp.Body)
			}
		}
	})
}
