package alerts_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"tollgate/policy/alerts"
	"tollgate/policy/keys"
)

// Who is told of what fails, is refused or comes from elsewhere reads this, and each kind has a
// headline.
func TestOtherMessages(t *testing.T) {
	k := &keys.Key{ID: "key_0002", API: "jobs", Team: "acme", Plan: "free", LimitID: "key_0001"}
	for want, a := range map[string]*alerts.Alert{
		`{"type":"error_rate.exceeded","timestamp":"2026-11-30T18:00:00Z","data":{"api":"jobs","key":"key_0001","failed":5,"requests":50,"percent":10,"minutes":10}}`:              alerts.Failing("jobs", "key_0001", 5, 50, 10, now()),
		`{"type":"denied.spiked","timestamp":"2026-11-30T18:00:00Z","data":{"api":"jobs","denied":500,"before":3,"reason":"unknown_key","minutes":10}}`:                            alerts.Spiked("jobs", "", 500, 3, "unknown_key", now()),
		`{"type":"key.new_network","timestamp":"2026-11-30T18:00:00Z","data":{"api":"jobs","team":"acme","key":"key_0002","plan":"free","network":"203.0.113.0/24","networks":3}}`: alerts.NewNetwork(k, "203.0.113.0/24", 3, now()),
		`{"type":"releases.lost","timestamp":"2026-11-30T18:00:00Z","data":{"api":"jobs"}}`:                                                                                        alerts.LostReleases("jobs", now()),
	} {
		if got := string(a.Message()); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		if a.Headline() == a.Type || !a.Until.After(now()) {
			t.Errorf("%s: %q, until %v", a.Type, a.Headline(), a.Until)
		}
	}
	if mark := alerts.NewNetwork(k, "203.0.113.0/24", 3, now()).Marks[0]; !strings.HasPrefix(mark, "key_0001/network/203.0.113.0/24/") {
		t.Errorf("%s is not that of all keys that share limits", mark)
	}
}

// For a quarter of a day the same is told of once, and each key and kind by itself.
func TestQuiet(t *testing.T) {
	failing := func(key string, after time.Duration) string {
		return alerts.Failing("jobs", key, 5, 50, 10, now().Add(after)).ID()
	}
	first := failing("key_0001", 0)
	if failing("key_0001", alerts.Quiet-1) != first || failing("key_0001", alerts.Quiet) == first || failing("", 0) == first {
		t.Error("not once in a quarter of a day")
	}
	if alerts.Spiked("jobs", "key_0001", 5, 50, "", now()).ID() == first {
		t.Error("two kinds are one")
	}
}

func TestNetworkOf(t *testing.T) {
	for address, want := range map[string]string{"203.0.113.7": "203.0.113.0/24", "2001:db8:1:2::3": "2001:db8:1::/48"} {
		if got := alerts.NetworkOf(netip.MustParseAddr(address)).String(); got != want {
			t.Errorf("%s is in %s, want %s", address, got, want)
		}
	}
}
