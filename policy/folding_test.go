package policy_test

import (
	"slices"
	"strings"
	"testing"
	"tollgate/policy"
)

// Envoy hands a method on as the client wrote it, and servers then show the application its
// upper-case form: what is not in that form has no route here.
func TestMethodsAreNotFolded(t *testing.T) {
	routes := shop + "" // the method-less route is /any/
	for method, want := range map[string]policy.Reason{
		"GET": policy.Allowed, "DELETE": policy.Allowed, "M-SEARCH": policy.Allowed, "X1!#$%&'*+-.^_`|~": policy.Allowed,
		"delete": policy.RouteDenied, "Delete": policy.RouteDenied, "DELETe": policy.RouteDenied, "get": policy.RouteDenied,
		"G ET": policy.RouteDenied, "GET,POST": policy.RouteDenied, "G\u00c9T": policy.RouteDenied, "G\x00": policy.RouteDenied, "\u0130": policy.RouteDenied, "G\u017fT": policy.RouteDenied,
	} {
		for _, named := range []bool{false, true} {
			w := goodWorld()
			w.request.Method, w.request.Target = method, "/any/x"
			if named {
				w.request.Route = policy.Named{Value: "wide", Given: true}
			}
			if d := w.decide(t, compiled(t, routes+shopAnswers())); d.Reason != want {
				t.Errorf("%q, route named %v: %s, want %s", method, named, d.Reason, want)
			}
		}
	}
}

// What a CGI-like application reads as the name of a header that only we may set is removed,
// whatever stands between its words; a name that only begins like one stays.
func TestAliasesOfHeadersAreRemoved(t *testing.T) {
	names := []string{
		"x-consumer-id", "x-consumer-username", "x-credential-identifier", "x-authenticated-scope", "x-consumer-plan",
		"x-envoy-auth-failure-mode-allowed", "x-http-method-override", "x-http-method", "x-method-override",
	}
	var sent, want []string
	for _, name := range names {
		for _, c := range "!#$%&'*+.^_`|~" {
			sent = append(sent, strings.ReplaceAll(name, "-", string(c)), strings.Replace(name, "-", string(c), 1))
		}
	}
	want = append(slices.Clone(names), sent...)
	stay := []string{"x-consumer-idle", "x.consumer.idle", "x-consumer-id.", "my-x-consumer-id", "xconsumerid", "x--consumer--id", "x-http-method-overrides", "x.request.id"}
	set := shopSet(t)
	for _, target := range []string{"/items", "/health"} { // a key's route and a public one
		w := goodWorld()
		w.request.Target = target
		for _, name := range append(slices.Clone(sent), stay...) {
			if known := set.HeaderName([]byte(strings.ToUpper(name))); known != "" {
				w.request.Headers = append(w.request.Headers, policy.Header{known, "forged"})
			}
		}
		d := w.decide(t, set)
		if !d.Allow {
			t.Fatalf("%s: %s", target, d.Reason)
		}
		for _, name := range want {
			if !slices.Contains(d.Remove, name) && header(d.Request, name) == "" {
				t.Errorf("%s: %s reaches the application", target, name)
			}
		}
		for _, name := range stay {
			if slices.Contains(d.Remove, name) {
				t.Errorf("%s: %s is removed", target, name)
			}
		}
	}
}
