package policy

import "testing"

// A preflight carries no key and asks about the request that follows it. Where the
// policy says so it passes as a public request does, if that request has a route.
func TestPreflight(t *testing.T) {
	ask := func(method string) []Header {
		return []Header{{"origin", "https://app.example.com"}, {"access-control-request-method", method}}
	}
	for _, c := range []struct {
		name    string
		method  string
		target  string
		headers []Header
		public  Reason // with preflight: public
		check   Reason // with preflight: check, which is the default
	}{
		{"of a route", "OPTIONS", "/items", ask("POST"), Allowed, MissingCredential},
		{"of a HEAD on a GET route", "OPTIONS", "/items", ask("HEAD"), Allowed, MissingCredential},
		{"of a route without a method", "OPTIONS", "/any/x", ask("DELETE"), Allowed, MissingCredential},
		{"from a page without an origin of its own", "OPTIONS", "/items", []Header{{"origin", "null"}, {"access-control-request-method", "GET"}}, Allowed, MissingCredential},
		{"with the query of the request", "OPTIONS", "/items?a=1", ask("GET"), Allowed, MissingCredential},
		{"of a public route", "OPTIONS", "/health", ask("GET"), Allowed, MissingCredential},
		{"of no route", "OPTIONS", "/nothing", ask("GET"), MissingCredential, MissingCredential},
		{"of another method", "OPTIONS", "/items", ask("PUT"), MissingCredential, MissingCredential},
		{"of a method in lower case", "OPTIONS", "/any/x", ask("patch"), MissingCredential, MissingCredential},
		{"of two methods", "OPTIONS", "/any/x", append(ask("GET"), Header{"access-control-request-method", "POST"}), MissingCredential, MissingCredential},
		{"of CONNECT", "OPTIONS", "/any/x", ask("CONNECT"), MissingCredential, MissingCredential},
		{"of an odd path", "OPTIONS", "/any/../items", ask("GET"), MissingCredential, MissingCredential},
		{"of everything", "OPTIONS", "*", ask("GET"), MissingCredential, MissingCredential},
		{"without an origin", "OPTIONS", "/items", ask("GET")[1:], MissingCredential, MissingCredential},
		{"with an empty origin", "OPTIONS", "/items", []Header{{"origin", ""}, {"access-control-request-method", "GET"}}, MissingCredential, MissingCredential},
		{"without a method to ask about", "OPTIONS", "/any/x", ask("GET")[:1], MissingCredential, MissingCredential},
		{"with another method", "GET", "/items", ask("GET"), MissingCredential, MissingCredential},
		{"with a method in lower case", "options", "/items", ask("GET"), MissingCredential, MissingCredential},
		{"with a key", "OPTIONS", "/any/x", append(ask("POST"), Header{"authorization", "Bearer " + secret("sk_live_")}), Allowed, Allowed},
	} {
		for extra, want := range map[string]Reason{"preflight: public\n": c.public, "preflight: check\n": c.check, "": c.check} {
			w := goodWorld()
			w.request.Method, w.request.Target, w.request.Headers = c.method, c.target, c.headers
			d := w.decide(t, shopSet(t, extra))
			if d.Reason != want {
				t.Errorf("%s, %q: %s, want %s", c.name, extra, d.Reason, want)
			}
			// Nobody has shown a key, and the log says why that was enough.
			if asked := d.Meta("preflight"); (asked == "true") != (extra == "preflight: public\n" && want == Allowed) {
				t.Errorf("%s, %q: preflight %q in the metadata", c.name, extra, asked)
			}
			if extra == "preflight: public\n" && want == Allowed && (w.looked != 0 || w.spend != nil || len(d.Request) != 0) {
				t.Errorf("%s: looked up %d, spent %v, tells the application %v", c.name, w.looked, w.spend, d.Request)
			}
		}
	}
	for extra, want := range map[string]string{"preflight: public\n": "origin", "preflight: check\n": ""} {
		if got := shopSet(t, extra).HeaderName([]byte("Origin")); got != want {
			t.Errorf("%q: Origin is %q, want %q", extra, got, want)
		}
	}
}

// A route that the proxy names is the one that the preflight asks about.
func TestPreflightOfANamedRoute(t *testing.T) {
	for route, want := range map[string]Reason{"add": Allowed, "nope": MissingCredential} {
		w := goodWorld()
		w.request.Method, w.request.Target, w.request.Route = "OPTIONS", "/elsewhere", Named{Value: route, Given: true}
		w.request.Headers = []Header{{"origin", "null"}, {"access-control-request-method", "POST"}}
		if d := w.decide(t, shopSet(t, "preflight: public")); d.Reason != want {
			t.Errorf("%s: %s, want %s", route, d.Reason, want)
		}
	}
}
