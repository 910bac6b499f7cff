package policy_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
)

// With rate_headers on usable, the 401 of a key that is inactive or expired is that of an unknown
// one, and costs no question to the store; other answers have the headers.
func TestRateHeadersOfUsableKeys(t *testing.T) {
	const line = "rate_headers: {family: x-ratelimit, ietf: true}"
	same := strings.NewReplacer(line, "rate_headers: {family: x-ratelimit, ietf: true, on: usable}").Replace(shop + nestedErrors)
	set := compiled(t, same)
	answer := func(change func(*world)) *policy.Decision {
		w := goodWorld()
		change(w)
		d := w.decide(t, set)
		if d.Status == 401 && w.spend != nil {
			t.Errorf("%s: the counters were read", d.Reason)
		}
		return d
	}
	unknown := answer(func(w *world) { w.keyErr = keys.ErrUnknown })
	for _, change := range []func(*world){
		func(w *world) { w.key.Status = keys.Inactive },
		func(w *world) { w.key.ExpiresAt = clock().Add(-time.Second) },
		func(w *world) { w.key.RetiresAt = clock().Add(-time.Second) },
		func(w *world) { w.key.Status = keys.Revoked },
	} {
		d := answer(change)
		if d.Status != 401 || !reflect.DeepEqual(d.Response, unknown.Response) || string(d.Body) != string(unknown.Body) {
			t.Errorf("%s: %d %v %s\nwant %d %v %s", d.Reason, d.Status, d.Response, d.Body, unknown.Status, unknown.Response, unknown.Body)
		}
	}
	for name, change := range map[string]func(*world){
		"allowed": func(*world) {}, "scope": func(w *world) { w.key.Scopes = nil }, "spent": func(w *world) { w.spent = 10 },
	} {
		d := answer(change)
		if header(d.Response, "x-ratelimit-limit") == "" || header(d.Response, "ratelimit") == "" {
			t.Errorf("%s: no headers: %v", name, d.Response)
		}
	}
}
