package policy_test

import (
	"testing"
	"tollgate/policy"
)

// A preflight carries no key and asks about the request that follows it. Where the policy says so
// it passes as a public request does, if that request has a route.
func TestPreflight(t *testing.T) {
	ask := func(method string) []policy.Header {
		return []policy.Header{{"origin", "https://app.example.com"}, {"access-control-request-method", method}}
	}
	for _, c := range []struct {
		name    string
		method  string
		target  string
		headers []policy.Header
		public  policy.Reason // with preflight: public
		check   policy.Reason // with preflight: check, which is the default
	}{
		{"of a route", "OPTIONS", "/items", ask("POST"), policy.Allowed, policy.MissingCredential},
		{"of a HEAD on a GET route", "OPTIONS", "/items", ask("HEAD"), policy.Allowed, policy.MissingCredential},
		{"of a route without a method", "OPTIONS", "/any/x", ask("DELETE"), policy.Allowed, policy.MissingCredential},
		{"from a page without an origin of its own", "OPTIONS", "/items", []policy.Header{{"origin", "null"}, {"access-control-request-method", "GET"}}, policy.Allowed, policy.MissingCredential},
		{"with the query of the request", "OPTIONS", "/items?a=1", ask("GET"), policy.Allowed, policy.MissingCredential},
		{"of a public route", "OPTIONS", "/health", ask("GET"), policy.Allowed, policy.MissingCredential},
		{"of no route", "OPTIONS", "/nothing", ask("GET"), policy.MissingCredential, policy.MissingCredential},
		{"of another method", "OPTIONS", "/items", ask("PUT"), policy.MissingCredential, policy.MissingCredential},
		{"of a method in lower case", "OPTIONS", "/any/x", ask("patch"), policy.MissingCredential, policy.MissingCredential},
		{"of two methods", "OPTIONS", "/any/x", append(ask("GET"), policy.Header{"access-control-request-method", "POST"}), policy.MissingCredential, policy.MissingCredential},
		{"of CONNECT", "OPTIONS", "/any/x", ask("CONNECT"), policy.MissingCredential, policy.MissingCredential},
		{"of an odd path", "OPTIONS", "/any/../items", ask("GET"), policy.MissingCredential, policy.MissingCredential},
		{"of everything", "OPTIONS", "*", ask("GET"), policy.MissingCredential, policy.MissingCredential},
		{"without an origin", "OPTIONS", "/items", ask("GET")[1:], policy.MissingCredential, policy.MissingCredential},
		{"with an empty origin", "OPTIONS", "/items", []policy.Header{{"origin", ""}, {"access-control-request-method", "GET"}}, policy.MissingCredential, policy.MissingCredential},
		{"without a method to ask about", "OPTIONS", "/any/x", ask("GET")[:1], policy.MissingCredential, policy.MissingCredential},
		{"with another method", "GET", "/items", ask("GET"), policy.MissingCredential, policy.MissingCredential},
		{"with a method in lower case", "options", "/items", ask("GET"), policy.MissingCredential, policy.MissingCredential},
		{"with a key", "OPTIONS", "/any/x", append(ask("POST"), policy.Header{"authorization", "Bearer " + secret("sk_live_")}), policy.Allowed, policy.Allowed},
	} {
		for extra, want := range map[string]policy.Reason{"preflight: public\n": c.public, "preflight: check\n": c.check, "": c.check} {
			w := goodWorld()
			w.request.Method, w.request.Target, w.request.Headers = c.method, c.target, c.headers
			d := w.decide(t, shopSet(t, extra))
			if d.Reason != want {
				t.Errorf("%s, %q: %s, want %s", c.name, extra, d.Reason, want)
			}
			// Nobody has shown a key, and the log says why that was enough.
			if asked := d.Meta("preflight"); (asked == "true") != (extra == "preflight: public\n" && want == policy.Allowed) {
				t.Errorf("%s, %q: preflight %q in the metadata", c.name, extra, asked)
			}
			if extra == "preflight: public\n" && want == policy.Allowed && (w.looked != 0 || w.spend != nil || len(d.Request) != 0) {
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
	for route, want := range map[string]policy.Reason{"add": policy.Allowed, "nope": policy.MissingCredential} {
		w := goodWorld()
		w.request.Method, w.request.Target, w.request.Route = "OPTIONS", "/elsewhere", policy.Named{Value: route, Given: true}
		w.request.Headers = []policy.Header{{"origin", "null"}, {"access-control-request-method", "POST"}}
		if d := w.decide(t, shopSet(t, "preflight: public")); d.Reason != want {
			t.Errorf("%s: %s, want %s", route, d.Reason, want)
		}
	}
}
