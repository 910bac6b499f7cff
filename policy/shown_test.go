package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"tollgate/policy"
	"tollgate/policy/keys"
)

// What a log may say of a request has no query, and nothing that may be a key.
func TestShown(t *testing.T) {
	set := shopSet(t, "client_address: {from: peer}")
	key := secret("sk_live_")
	for _, c := range []struct{ target, want string }{
		{"/items", "/items"}, {"/items?api_key=" + key, "/items"}, {"/any/a%20b/c", "/any/a%20b/c"}, {"/any/", "/any/"}, {"/", "/"},
		{"/any/" + key, "/any/***"}, {"/any/" + key + "/x", "/any/***/x"}, {"/any/x-" + key, "/any/***"}, {"/any/%73k_live_" + key[8:], "/any/***"},
		{"/any/sk_live_ofAnotherForm12345", "/any/***"}, {"/any/key=sk_live_ofAnotherForm12345", "/any/***"}, {"/any/%3dsk_live_ofAnotherForm%31", "/any/***"}, {"/any/sk_live_1", "/any/sk_live_1"},
		{"/items%3fapi_key=" + key, ""}, {"/items;" + key, ""}, {"//items", ""}, {"items", ""}, {"/a!b", ""}, {"/" + strings.Repeat("a", 1024), ""},
	} {
		w := goodWorld()
		w.request.Target = c.target
		w.check = &policy.Check{}
		w.decide(t, set)
		got := w.check.Shown()
		if want := (policy.Shown{Method: "GET", Host: "shop.example.com", Path: c.want, Address: "192.0.2.1", RequestID: "r-1"}); got != want {
			t.Errorf("%s: %+v, want %+v", c.target, got, want)
		}
	}
	masked := goodWorld()
	masked.check = &policy.Check{}
	masked.decide(t, shopSet(t, "client_address: {from: peer}\nerror_log: {addresses: network}"))
	if got := masked.check.Shown().Address; got != "192.0.2.0/24" {
		t.Errorf("%s", got)
	}
	w := goodWorld()
	w.request.Method, w.request.Host, w.request.Headers[1].Value = strings.Repeat("M", 99), strings.Repeat("h", 999), strings.Repeat("i", 999)
	w.request.Peer, w.check = netip.Addr{}, &policy.Check{}
	w.decide(t, set)
	if got := w.check.Shown(); len(got.Method) != 32 || len(got.Host) != 253 || len(got.RequestID) != 128 || got.Path != "" || got.Address != "" {
		t.Errorf("%+v", got)
	}
}

// A client can write its key where nobody looks for one.
func TestShownHoldsNoKeyElsewhere(t *testing.T) {
	set, key := shopSet(t, "client_address: {from: peer}"), secret("sk_live_")
	for _, text := range []string{key, "req-" + key, strings.Repeat("M", 24) + key, "sk_live_ofAnotherForm12345"} {
		w := goodWorld()
		w.request.Method, w.request.Host, w.request.Headers[1].Value = text, "shop.example.com", text
		w.check = &policy.Check{}
		w.decide(t, set)
		if got := w.check.Shown(); got.Method != "***" || got.RequestID != "***" {
			t.Errorf("%s: %+v", text, got)
		}
		if got := w.check.Refusal().RequestID; got != "" {
			t.Errorf("%s: the error log has %s", text, got)
		}
		w = goodWorld() // the metadata of which names the place that it came to
		w.request.API, w.request.Environment, w.request.Host = policy.Named{Value: "shop", Given: true}, policy.Named{Value: "test", Given: true}, text
		w.check = &policy.Check{}
		w.decide(t, set)
		if d := w.check.Decision(); d.Reason != policy.WrongEnvironment || d.Meta("host") != "***" || w.check.Shown().Host != "***" {
			t.Errorf("%s: %v, host %s", text, d.Reason, d.Meta("host"))
		}
	}
}

// Where keys have no prefix, whatever is as long as one may be a key.
func TestShownWithoutPrefix(t *testing.T) {
	set := compiled(t, strings.NewReplacer("environments:\n- {name: live, prefix: sk_live_, hosts: [shop.example.com], context: live}\n- {name: test, prefix: sk_test_, hosts: [sandbox.example.com], context: test, quota: false}\n", "").Replace(shop)+shopAnswers())
	w := goodWorld()
	w.key = keys.Key{}
	w.request.Target, w.check = "/any/0123456789012345678/01234567890123456789", &policy.Check{}
	w.decide(t, set)
	if got := w.check.Shown().Path; got != "/any/0123456789012345678/***" {
		t.Errorf("%s", got)
	}
}
