package keys

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
	"unsafe"
)

// fullKey leaves nothing empty that a Grant has.
func fullKey() *Key {
	return sample(withIPs("10.0.0.0/8", "2001:db8::1"), func(k *Key) {
		k.Environment, k.Plan, k.LimitID, k.Status = "live", "pro", "key_first", Inactive
		k.Scopes, k.Limits = []string{"read", "write"}, []Override{{"minute", 0}, {"day", 5}}
		k.Extras = []Extra{{"day", 50, time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)}}
		k.CreatedAt, k.AnchorDay = time.Date(2026, 1, 15, 12, 0, 0, 500, time.UTC), 31
	})
}

func TestGrantHoldsWhatADecisionNeeds(t *testing.T) {
	k := fullKey()
	g := NewGrant(k)
	want := &Profile{
		API: k.API, Environment: k.Environment, Plan: k.Plan, Status: k.Status,
		Scopes: []string{"read", "write"}, IPs: k.IPs, Limits: []Override{{"minute", 0}, {"day", 5}},
		Extras: []Extra{{"day", 50, time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)}},
	}
	if !reflect.DeepEqual(g.Profile, want) {
		t.Errorf("%+v", g.Profile)
	}
	if g.ID() != k.ID || g.Name() != k.Name || g.LimitID() != k.LimitID || int(g.AnchorDay) != k.AnchorDay || g.Team() != k.Team || int64(g.CreatedMinute) != k.CreatedAt.Unix()/60 {
		t.Errorf("%+v", g)
	}
	k.Scopes[0], k.Limits[0].Requests, k.Extras[0].Requests, k.IPs[0] = "other", 9, 9, netip.Prefix{}
	if g.Scopes[0] != "read" || g.Limits[0].Requests != 0 || g.Extras[0].Requests != 50 || !g.IPs[0].IsValid() {
		t.Error("a change of the key changes the grant")
	}
	if g := NewGrant(sample()); g.LimitID() != "key_pb_full" || unsafe.StringData(g.LimitID()) != unsafe.StringData(g.ID()) {
		t.Error("the limit id takes memory of its own")
	}
}

func TestGrantEnds(t *testing.T) {
	at := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name             string
		expires, retires time.Time
		end              time.Time
	}{
		{"never", time.Time{}, time.Time{}, time.Time{}},
		{"expires", at, time.Time{}, at},
		{"retires", time.Time{}, at, at},
		{"retires first", at.Add(time.Hour), at, at},
		{"expires first", at, at.Add(time.Hour), at},
		{"before 1970", time.Unix(-5, 0), time.Time{}, time.Unix(-5, 0).UTC()},
		{"at the start of 1970", time.Unix(0, 0), time.Time{}, time.Unix(0, 0).UTC()},
		{"in the year 9999", time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), time.Time{}, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)},
	} {
		k := sample(func(k *Key) { k.ExpiresAt, k.RetiresAt = test.expires, test.retires })
		g := NewGrant(k)
		if got := g.End(); !got.Equal(test.end) || got.IsZero() != test.end.IsZero() {
			t.Errorf("%s: ends %v, want %v", test.name, got, test.end)
		}
		for _, now := range []time.Time{at.Add(-time.Millisecond), at, at.Add(time.Millisecond), time.Unix(-6, 0), {}} {
			if g.Expired(now) != k.Expired(now) {
				t.Errorf("%s: Expired(%v) = %v", test.name, now, g.Expired(now))
			}
		}
	}
}

func TestGrantAllows(t *testing.T) {
	g := NewGrant(sample(withIPs("10.0.0.0/8")))
	for text, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "11.1.2.3": false} {
		if g.Allows(netip.MustParseAddr(text)) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
	if g.Allows(netip.Addr{}) || !NewGrant(sample()).Allows(netip.Addr{}) {
		t.Error("an unknown address")
	}
}

func TestProfileSum(t *testing.T) {
	same := fullKey()
	same.ID, same.Name, same.Team, same.Digest = "key_other", "Other", "other", Digest{9}
	if ProfileSum(fullKey()) != ProfileSum(same) {
		t.Error("keys with equal profiles have two sums")
	}
	shifted := fullKey()
	shifted.Environment, shifted.Plan = shifted.Environment+shifted.Plan, ""
	if ProfileSum(fullKey()) == ProfileSum(shifted) {
		t.Error("two profiles have one sum")
	}
}
