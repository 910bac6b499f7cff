package alerts

import (
	"fmt"
	"net/netip"
	"time"

	"tollgate/policy/keys"
)

// NetworkOf returns the network that an address counts with: its /24, or its /48 of IPv6.
func NetworkOf(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 48
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// NewNetwork says that a key is used from a network for the first time, which is the n-th from
// which it or those it was rotated from were used. k has no more than the message says.
func NewNetwork(k *keys.Key, network string, n int, now time.Time) *Alert {
	return &Alert{
		Type: KeyNewNetwork, API: k.API, Team: k.Team, Key: k.ID, Plan: k.Plan, At: now,
		Details: []Detail{{"network", network}, {"networks", n}},
		Marks:   []string{fmt.Sprint(k.LimitID, "/network/", network, "/", now.Unix()/int64(day/time.Second))}, Until: now.Add(day), // it is noted long before
	}
}
