package policy_test

import (
	"strings"
	"testing"
	"tollgate/policy"
)

// A refusal that the proxy's configuration may be to blame for says what it said and what the
// policy or the key has.
func TestRefusalsSayWhatTheRequestSaid(t *testing.T) {
	given := func(s string) policy.Named { return policy.Named{Value: s, Given: true} }
	for _, c := range []struct {
		name     string
		set      func(*world)
		reason   policy.Reason
		unplaced bool
		meta     string // joined, of those that are looked at
	}{
		{"no environment and a host of none", func(w *world) { w.request.API, w.request.Host = given("shop"), "elsewhere" }, policy.WrongEnvironment, true, "host=elsewhere key_environment=live"},
		{"an environment that there is not", func(w *world) { w.request.Environment = given("prod") }, policy.WrongEnvironment, true, "host=shop.example.com asked_environment=prod key_environment=live"},
		{"the other environment", func(w *world) { w.request.Environment = given("test") }, policy.WrongEnvironment, false, "host=shop.example.com asked_environment=test key_environment=live"},
		{"the other host", func(w *world) { w.request.Host = "sandbox.example.com" }, policy.WrongEnvironment, false, "host=sandbox.example.com key_environment=live"},
		{"an unknown host", func(w *world) { w.request.Host = "nowhere.example.com" }, policy.UnknownAPI, false, "host=nowhere.example.com"},
		{"an unknown name", func(w *world) { w.request.API = given("shoop") }, policy.UnknownAPI, false, "host=shop.example.com asked_api=shoop"},
		{"a long host", func(w *world) { w.request.Host = strings.Repeat("a", 5000) }, policy.UnknownAPI, false, "host=" + strings.Repeat("a", 253)},
		{"allowed", func(w *world) {}, policy.Allowed, false, ""},
		{"another refusal", func(w *world) { w.key.Scopes = nil }, policy.ScopeDenied, false, ""},
	} {
		w := goodWorld()
		c.set(w)
		w.check = &policy.Check{}
		d := w.decide(t, shopSet(t))
		var said []string
		for _, m := range d.Metadata {
			switch m.Name {
			case "host", "asked_api", "asked_environment", "key_environment":
				said = append(said, m.Name+"="+m.Value)
			}
		}
		if d.Reason != c.reason || strings.Join(said, " ") != c.meta || w.check.Unplaced() != c.unplaced {
			t.Errorf("%s: %s, %q, unplaced %v; want %s, %q, %v", c.name, d.Reason, said, w.check.Unplaced(), c.reason, c.meta, c.unplaced)
		}
	}
}
