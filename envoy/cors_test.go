package envoy_test

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/policyfile"
)

// page is a page of an origin that a browser shows. What it may do and read is what
// https://fetch.spec.whatwg.org/#http-cors-protocol says.
type page struct {
	origin string
	sends  func(*envoytest.Request) (*envoytest.Response, error)
}

// fetched is what the page learns of a request: nothing, if the preflight failed or the
// answer is not for it.
type fetched struct {
	preflight *envoytest.Response
	answer    *envoytest.Response // nil: not sent
	readable  bool
}

// fetch does what a browser does for fetch(target, {method, headers}), where the
// headers make it ask first.
func (p page) fetch(t *testing.T, method, target string, headers ...[2]string) (f fetched) {
	t.Helper()
	ask := func(method string, headers ...[2]string) *envoytest.Response {
		resp, err := p.sends(&envoytest.Request{Method: method, Target: target, Host: "api.pixelmagicai.com", Source: netip.MustParseAddr("192.0.2.1"),
			Headers: append([][2]string{{"origin", p.origin}, {"accept", "*/*"}}, headers...)})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	names := make([]string, len(headers))
	for i, h := range headers {
		names[i] = h[0]
	}
	f.preflight = ask("OPTIONS", [2]string{"access-control-request-method", method}, [2]string{"access-control-request-headers", strings.Join(names, ",")})
	if f.preflight.Status/100 != 2 || !p.allowed(f.preflight) || !lists(f.preflight, "access-control-allow-methods", method) {
		return f
	}
	for _, name := range names {
		if !lists(f.preflight, "access-control-allow-headers", name) {
			return f
		}
	}
	f.answer = ask(method, headers...)
	f.readable = p.allowed(f.answer)
	return f
}

func (p page) allowed(resp *envoytest.Response) bool {
	origin, _ := resp.Value("access-control-allow-origin") // two copies are none
	return origin == p.origin || origin == "*"
}

func lists(resp *envoytest.Response, header, word string) bool {
	value, _ := resp.Value(header)
	return slices.ContainsFunc(strings.Split(value, ","), func(s string) bool {
		return strings.EqualFold(strings.TrimSpace(s), word) || strings.TrimSpace(s) == "*"
	})
}

// corsPolicy is the pixelmagic policy with this said about preflights.
func corsPolicy(t *testing.T, preflight string) policyfile.File {
	t.Helper()
	file, _, _ := extauthztest.APIFiles(t, "pixelmagic")
	file.Data = []byte(strings.Replace(string(file.Data), "credentials:", preflight+"\ncredentials:", 1))
	return file
}

const ourPage, otherPage = "https://app.example.com", "https://elsewhere.example.org"

// The Envoys as we ship them answer the preflights of the pages that they name, and
// let these read a refusal; nothing has to be public for that.
func TestBrowserThroughTheShippedEnvoys(t *testing.T) {
	_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
	key := [2]string{"authorization", "Bearer " + entries[0].Secret}
	for _, d := range envoyDoors(t, corsPolicy(t, "preflight: check"), entries, nil) {
		ours, other := page{ourPage, d.sends}, page{otherPage, d.sends}
		good := ours.fetch(t, "GET", "/v1/models", key)
		if !good.readable || received(good.answer) == nil {
			t.Errorf("%s: with a key: %+v", d.name, good)
		}
		if _, asked := good.preflight.Value("x-envoy-upstream-service-time"); asked {
			t.Errorf("%s: the preflight reached the application", d.name)
		}
		if bad := ours.fetch(t, "POST", "/v1/generate", [2]string{"content-type", "application/json"}); !bad.readable || bad.answer.Status != 401 {
			t.Errorf("%s: without a key: %+v", d.name, bad)
		}
		if bad := other.fetch(t, "GET", "/v1/models", key); bad.preflight.Status != 401 || bad.answer != nil {
			t.Errorf("%s: from elsewhere: %+v", d.name, bad)
		}
	}
}

// Traefik does the same where its middleware for that stands first.
func TestBrowserThroughTraefik(t *testing.T) {
	_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
	eachOtherDoor(t, corsPolicy(t, "preflight: check"), entries, func(config string) string { return withCORS(t, config) }, func(t *testing.T, d door) {
		if d.name != "traefik" {
			return
		}
		ours := page{ourPage, d.sends}
		if good := ours.fetch(t, "GET", "/v1/models", [2]string{"x-api-key", entries[0].Secret}); !good.readable || received(good.answer) == nil || received(good.preflight) != nil {
			t.Errorf("with a key: %+v", good)
		}
		if bad := ours.fetch(t, "POST", "/v1/generate", [2]string{"content-type", "application/json"}); !bad.readable || bad.answer.Status != 401 {
			t.Errorf("without a key: %+v", bad)
		}
	})
}

// An Envoy without the filter and the other proxies hand a preflight to Tollgate, and
// with preflight: public it reaches the application, which answers it.
func TestBrowserWhereTheApplicationAnswers(t *testing.T) {
	_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
	key := [2]string{"x-api-key", entries[0].Secret}
	for preflight, passes := range map[string]bool{"preflight: public": true, "preflight: check": false} {
		eachPlainDoor(t, corsPolicy(t, preflight), func(t *testing.T, d door) {
			ours := page{ourPage, d.sends}
			good := ours.fetch(t, "GET", "/v1/models", key)
			if echo := received(good.preflight); (echo != nil) != passes || passes && echo.Method != "OPTIONS" || !passes && good.preflight.Status != 401 {
				t.Errorf("%s, %s: the preflight: %+v", d.name, preflight, good.preflight)
			}
			if good.readable != passes || passes && received(good.answer) == nil {
				t.Errorf("%s, %s: with a key: %+v", d.name, preflight, good)
			}
			// A page that has no key is refused like everybody. It can read that where somebody
			// lets it.
			if bad := ours.fetch(t, "POST", "/v1/generate", [2]string{"content-type", "text/json"}); passes && (bad.answer == nil || bad.answer.Status != 401 || bad.readable != (d.name == "nginx" || d.name == "caddy")) {
				t.Errorf("%s: without a key: %+v", d.name, bad)
			}
			// Neither does what only looks like a preflight pass, nor one of what has no route.
			for _, r := range []*envoytest.Request{
				{Method: "OPTIONS", Target: "/v1/models", Headers: [][2]string{{"origin", ourPage}}},
				{Method: "OPTIONS", Target: "/v1/models", Headers: [][2]string{{"access-control-request-method", "GET"}}},
				{Method: "OPTIONS", Target: "/admin", Headers: [][2]string{{"origin", ourPage}, {"access-control-request-method", "GET"}}},
				{Method: "OPTIONS", Target: "/v1/models", Headers: [][2]string{{"origin", ourPage}, {"access-control-request-method", "get"}}},
				{Method: "POST", Target: "/v1/models", Headers: [][2]string{{"origin", ourPage}, {"access-control-request-method", "GET"}}},
			} {
				r.Host, r.Source = "api.pixelmagicai.com", netip.MustParseAddr("192.0.2.1")
				if resp, err := d.sends(r); err != nil || resp.Status != 401 {
					t.Errorf("%s, %s: %s %s %v: %v %+v", d.name, preflight, r.Method, r.Target, r.Headers, err, resp)
				}
			}
		})
	}
}

// eachPlainDoor runs a test at the doors at which nobody but Tollgate and the
// application knows of CORS: at those of nginx and Caddy with the lines of our page that
// let pages read refusals.
func eachPlainDoor(t *testing.T, file policyfile.File, test func(t *testing.T, d door)) {
	t.Helper()
	_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
	for _, d := range envoyDoors(t, file, entries, func(bootstrap []byte) []byte { return withoutCORS(t, bootstrap) }) {
		t.Run(d.name, func(t *testing.T) { test(t, d) })
	}
	eachOtherDoor(t, file, entries, func(config string) string {
		if strings.Contains(config, "forwardAuth:") {
			return config // Traefik with its lines answers preflights itself
		}
		return withCORS(t, config)
	}, test)
}

// withCORS adds the lines of envoy/README.md to a shipped file.
func withCORS(t *testing.T, config string) string {
	t.Helper()
	data, err := os.ReadFile("../envoy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := func(file string) string {
		_, text, ok := strings.Cut(string(data), "<!-- cors: "+file+" -->\n```")
		_, text, _ = strings.Cut(text, "\n")
		text, _, end := strings.Cut(text, "```\n")
		if !ok || !end {
			t.Fatalf("envoy/README.md has no lines for %s", file)
		}
		return text
	}
	if traefik := "http:\n  middlewares:\n"; strings.Contains(config, traefik) {
		config = strings.Replace(config, traefik, traefik+"    "+strings.ReplaceAll(strings.TrimSpace(lines("traefik.yaml")), "\n", "\n    ")+"\n", 1)
		return strings.Replace(config, "middlewares: [", "middlewares: [cors, ", 1)
	}
	for place, file := range map[string]string{
		"location @denied {\n": "nginx.conf", "location @unavailable { ": "nginx.conf", "forward_auth 127.0.0.1:": "Caddyfile",
	} {
		before, after, ok := strings.Cut(config, place)
		if file == "Caddyfile" && ok { // its address ends the line
			address, rest, _ := strings.Cut(after, "\n")
			place, after = place+address+"\n", rest
		}
		if ok {
			config = before + place + lines(file) + after
		}
	}
	return config
}

// withoutCORS is a bootstrap without Envoy's cors filter, and with the headers of a
// preflight among those that Tollgate is shown.
func withoutCORS(t *testing.T, bootstrap []byte) []byte {
	return editFilters(t, bootstrap, func(filter map[string]any) bool {
		if filter["name"] == "envoy.filters.http.ext_authz" {
			allowed := filter["typed_config"].(map[string]any)["allowed_headers"].(map[string]any)
			allowed["patterns"] = append(allowed["patterns"].([]any), map[string]any{"exact": "origin"}, map[string]any{"exact": "access-control-request-method"})
		}
		return filter["name"] != "envoy.filters.http.cors"
	})
}
