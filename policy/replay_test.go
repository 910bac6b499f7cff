package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"tollgate/policy"
	"tollgate/policy/keys"
)

// Past decisions by the policy that made them, and by others.
func TestReplay(t *testing.T) {
	key := goodWorld().key
	list := policy.Past{API: "shop", Host: "shop.example.com", Method: "GET", Path: "/items", Route: "list", Address: netip.MustParseAddr("192.0.2.1")}
	with := func(change func(*policy.Past)) policy.Past {
		p := list
		change(&p)
		return p
	}
	for _, c := range []struct {
		name   string
		oldNew []string // what is changed of the policy
		past   policy.Past
		key    func(*keys.Key) // nil for a request without a known key
		want   policy.Replayed
	}{
		{"the same", nil, list, func(*keys.Key) {}, policy.Replayed{Route: "list"}},
		{"in shadow mode", []string{"api: shop\n", "api: shop\nshadow_mode: true\n"}, list, func(k *keys.Key) { k.Scopes = nil }, policy.Replayed{Route: "list", Reason: policy.ScopeDenied}},
		{"route gone", []string{`match: "GET /items"`, `match: "GET /things"`}, list, func(*keys.Key) {}, policy.Replayed{Reason: policy.RouteDenied}},
		{"another route", []string{`"GET /items", scope: read}`, `"GET /items", scope: read}` + "\n" + `- {name: head, match: "HEAD /items", scope: read}`}, with(func(p *policy.Past) { p.Method = "HEAD" }), func(*keys.Key) {}, policy.Replayed{Route: "head"}},
		{"another scope", []string{`"GET /items", scope: read`, `"GET /items", scope: admin`}, list, func(*keys.Key) {}, policy.Replayed{Route: "list", Reason: policy.ScopeDenied}},
		{"plan gone", []string{"{name: closed,", "{name: other,"}, list, func(*keys.Key) {}, policy.Replayed{Route: "list", Reason: policy.CorruptKey}},
		{"environment gone", []string{"- {name: live, prefix: sk_live_, hosts: [shop.example.com], context: live}\n", ""}, list, func(*keys.Key) {}, policy.Replayed{Route: "list", Reason: policy.CorruptKey}},
		{"api gone", []string{"api: shop\n", "api: store\n"}, list, func(*keys.Key) {}, policy.Replayed{Reason: policy.UnknownAPI}},
		{"address", nil, list, func(k *keys.Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }, policy.Replayed{Route: "list", Reason: policy.AddressDenied}},
		{"address behind a balancer", []string{"scopes: [", "client_address: {from: xff, trusted_hops: 1}\nscopes: ["}, list, func(k *keys.Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, policy.Replayed{Route: "list"}},
		{"no address", nil, with(func(p *policy.Past) { p.Address = netip.Addr{} }), func(k *keys.Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, policy.Replayed{Route: "list", Reason: policy.AddressDenied}},
		{"revoked since", nil, list, func(k *keys.Key) { k.Status, k.ExpiresAt = keys.Revoked, clock() }, policy.Replayed{Route: "list"}},
		{"expired then", nil, with(func(p *policy.Past) { p.Reason = policy.ExpiredKey }), func(*keys.Key) {}, policy.Replayed{Route: "list", Reason: policy.ExpiredKey}},
		{"no key then", nil, with(func(p *policy.Past) { p.Reason = policy.MissingCredential }), nil, policy.Replayed{Route: "list", Reason: policy.MissingCredential}},
		{"no key needed now", []string{`"GET /items", scope: read`, `"GET /items", public: true`}, with(func(p *policy.Past) { p.Reason = policy.UnknownKey }), nil, policy.Replayed{Route: "list"}},
		{"a key needed now", []string{`"GET /health", public: true`, `"GET /health", scope: none`}, with(func(p *policy.Past) { p.Path, p.Route = "/health", "health" }), nil, policy.Replayed{Route: "health", Reason: policy.MissingCredential}},
		{"by the route's name", nil, with(func(p *policy.Past) { p.Method, p.Path = "", "" }), func(*keys.Key) {}, policy.Replayed{Route: "list"}},
		{"by no route", nil, with(func(p *policy.Past) { p.Method, p.Path, p.Route = "", "", "" }), func(*keys.Key) {}, policy.Replayed{Reason: policy.RouteDenied}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var k *keys.Key
			if c.key != nil {
				one := key
				c.key(&one)
				k = &one
			}
			got := shadowShop(t, c.oldNew...).Replay(c.past, k)
			if got.Route != c.want.Route || got.Reason != c.want.Reason {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if got.Reason == policy.ScopeDenied && got.Rule.Section != policy.ScopesSection && got.Rule.Section != policy.EmptyScopesSection {
				t.Errorf("the rule is %+v", got.Rule)
			}
		})
	}
}

// What no policy decided about is not judged again.
func TestWhatCanBeJudgedAgain(t *testing.T) {
	var not []string
	for _, r := range policy.Reasons() {
		if !r.Judgeable() {
			not = append(not, r.String())
		}
	}
	if got := strings.Join(not, " "); got != "unknown_api corrupt_key lookup_refused undecided" {
		t.Errorf("not judged: %s", got)
	}
}
