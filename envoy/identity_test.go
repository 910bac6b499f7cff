package envoy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// identityHeaders are what only Tollgate may say about a caller.
func identityHeaders() []string {
	return []string{
		"X-Consumer-ID", "X-Consumer-Username", "X-Credential-Identifier", "X-Authenticated-Scope", "X-Consumer-Plan",
		"X-Envoy-Auth-Failure-Mode-Allowed",
	}
}

// withheldHeaders are the headers that no client can send the application: those, and
// the ones that ask it for another method than the one that was checked.
func withheldHeaders() []string {
	return append(identityHeaders(), "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
}

// aliases are the names that a CGI-like application takes for this one, made of what
// may stand in a header name (RFC 9110 section 5.6.2).
func aliases(name string) []string {
	names := []string{name, strings.ToUpper(name)}
	for _, c := range "!#$%&'*+.^_`|~" {
		names = append(names, strings.ReplaceAll(name, "-", string(c)), strings.Replace(name, "-", string(c), 1))
	}
	return names
}

// received is what the echoing application got; nil if the request did not get there.
func received(resp *envoytest.Response) *envoytest.Received {
	var echo envoytest.Received
	if json.Unmarshal(resp.Body, &echo) != nil || echo.Method == "" {
		return nil
	}
	return &echo
}

// X.Consumer.ID reaches a CGI-like application as HTTP_X_CONSUMER_ID, as the true one
// does.
func TestAliasesOfIdentityHeadersBehindOtherProxies(t *testing.T) {
	var forged [][2]string
	for _, header := range withheldHeaders() {
		for _, name := range aliases(header) {
			forged = append(forged, [2]string{name, "forged"})
		}
	}
	innocent := [][2]string{{"X-Consumer-Idle", "stays"}, {"X-My-Consumer-ID", "stays"}, {"X-Consumer-ID-2", "stays"}, {"XConsumerID", "stays"}}
	eachOtherProxy(t, proxySetup{}, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		for _, r := range []*envoytest.Request{
			{Method: "GET", Target: "/health"}, // nothing is known about the caller
			{Method: "GET", Target: "/v1/models", Headers: [][2]string{{"X-API-Key", "pm_DemoNoServices00000000000002YFOzx"}}},
		} {
			r.Host = "api.pixelmagicai.com"
			key := r.Headers
			for part := range 4 { // nginx takes 100 headers in one piece, and no more
				r.Headers = append(append(key[:len(key):len(key)], innocent...), forged[part*len(forged)/4:(part+1)*len(forged)/4]...)
				echo := received(p.send(t, r))
				if echo == nil {
					t.Fatalf("%s did not get through", r.Target)
				}
				for _, h := range echo.Headers {
					if h[1] == "forged" {
						t.Errorf("%s: %s reached the application", r.Target, h[0])
					}
				}
				for _, h := range innocent {
					if value, _ := echo.Value(strings.ToLower(h[0])); value != h[1] {
						t.Errorf("%s: %s did not reach the application", r.Target, h[0])
					}
				}
			}
		}
	})
}

// Connection lists headers that end at the next server, and a proxy that takes its
// client's list for its own loses what it has set itself.
func TestConnectionTakesNoHeaderOfOurs(t *testing.T) {
	eachProxy(t, proxySetup{}, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		for _, connection := range []string{
			"close, " + strings.Join(identityHeaders(), ", "), "keep-alive," + strings.ToLower(strings.Join(identityHeaders(), ",")),
		} {
			r := &envoytest.Request{Method: "GET", Target: "/v1/models", Host: "api.pixelmagicai.com", Headers: [][2]string{
				{"X-API-Key", "pm_DemoAllServices00000000000047l1f4"}, {"Connection", connection}, {"X-Consumer-ID", "forged"}}}
			resp := p.send(t, r)
			echo := received(resp)
			if echo == nil {
				if resp.Status < 400 {
					t.Errorf("Connection: %s: %d %s", connection, resp.Status, resp.Body)
				}
				continue // refused
			}
			for name, want := range map[string]string{"x-consumer-id": "team_prism", "x-consumer-plan": "basic", "x-credential-identifier": "key_pm_full"} {
				if value, _ := echo.Value(name); value != want {
					t.Errorf("Connection: %s: %s is %q, want %q", connection, name, value, want)
				}
			}
		}
		// What the proxy tells Tollgate does not get lost either.
		for _, connection := range []string{"X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-Host, X-Forwarded-For", "X-Original-URI, X-Original-Method, X-Real-IP, Host", "x-envoy-external-address, x-tollgate-place, :path"} {
			r := &envoytest.Request{Method: "GET", Target: "/v1/models", Host: "api.pixelmagicai.com", Headers: [][2]string{
				{"Connection", connection}, {"X-Forwarded-Uri", "/health"}, {"X-Original-URI", "/health"}}}
			if resp := p.send(t, r); resp.Status/100 != 4 || received(resp) != nil {
				t.Errorf("Connection: %s: %d %s", connection, resp.Status, resp.Body)
			}
		}
	})
}
