package alerts_test

import (
	"fmt"
	"testing"

	"tollgate/policy/alerts"
)

// People read what programs do, in the same order.
func TestReadMessage(t *testing.T) {
	text, err := alerts.ReadMessage(reached(760, 0, 1000)[0].Alert().Message())
	if err != nil {
		t.Fatal(err)
	}
	const want = "{a key has reached a share of its limit [{api jobs} {team acme} {key key_0001} {plan free} {limit month} {per month} {percent 75} {spent 760} {size 1000} {resets 2026-12-01T00:00:00Z}]}"
	if got := fmt.Sprint(text); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if text.About("key") != "key_0001" || text.About("network") != "" {
		t.Errorf("%q, %q", text.About("key"), text.About("network"))
	}
	if text, err := alerts.ReadMessage([]byte(`{"type":"of.a_version_to_come","data":{}}`)); err != nil || text.Headline != "of.a_version_to_come" {
		t.Errorf("%v, %v", text, err)
	}
	for _, broken := range []string{"", "{}", "[]", `{"type":"a"}`, `{"type":"a","data":[]}`, `{"type":"a","data":{"b":{}}}`, `{"type":"a","data":{"b":[1]}}`, `{"type":"a","data":7}`} {
		if text, err := alerts.ReadMessage([]byte(broken)); err == nil {
			t.Errorf("%s is read as %v", broken, text)
		}
	}
}
