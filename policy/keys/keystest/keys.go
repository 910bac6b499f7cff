package keystest

import (
	"net/netip"
	"time"

	"tollgate/policy/keys"
)

// Sample returns a valid key; edits make it another one.
func Sample(edits ...func(*keys.Key)) *keys.Key {
	k := &keys.Key{
		ID: "key_pb_full", API: "pixelbyte", Team: "team_orbit", Name: "Render farm", LimitID: "key_pb_full",
		Status: keys.Active, AnchorDay: 1, Version: 1, Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.Digest{1, 2, 3},
	}
	for _, edit := range edits {
		edit(k)
	}
	return k
}

// WithIPs is an edit that adds to the addresses of a key: single ones, or ranges without bits
// beyond their length.
func WithIPs(list ...string) func(*keys.Key) {
	return func(k *keys.Key) {
		for _, s := range list {
			prefix, err := netip.ParsePrefix(s)
			if err != nil {
				a := netip.MustParseAddr(s).Unmap()
				prefix = netip.PrefixFrom(a, a.BitLen())
			}
			k.IPs = append(k.IPs, prefix)
		}
	}
}

// FullKey returns a key that leaves no field empty but LastUsed.
func FullKey() *keys.Key {
	at := time.Date(2026, 1, 15, 12, 0, 0, 500, time.UTC)
	return Sample(WithIPs("10.0.0.0/8", "2001:db8::1"), func(k *keys.Key) {
		k.Note, k.Environment, k.Plan, k.LimitID, k.CreatedBy = "été", "live", "pro", "key_first", "ada"
		k.RotatedFrom, k.RotatedTo, k.Status = "key_first", "key_third", keys.Inactive
		k.Scopes, k.Limits = []string{"read", "write"}, []keys.Override{{Name: "minute", Requests: 0}, {Name: "day", Requests: 5}}
		k.Extras = []keys.Extra{{Name: "day", Requests: 50, Until: at.Add(4)}, {Name: "day", Requests: 1, Until: at.Add(5)}}
		k.ExpiresAt, k.RetiresAt, k.CreatedAt, k.UpdatedAt = at, at.Add(1), at.Add(2), at.Add(3)
		k.AnchorDay, k.Version, k.Other = 31, 7, keys.Digest{4, 5}
	})
}
