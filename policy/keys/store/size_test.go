package store

import (
	"fmt"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// wide lets the keys of one API have 2000 addresses.
type wide struct{ keys.Rules }

func (wide) MaxAddresses(api string) int { return map[string]int{"wide": 2000}[api] }

func TestCheckGrowth(t *testing.T) {
	k := keystest.Sample(func(k *keys.Key) { k.IPs, k.API = keystest.Addresses(2000), "wide" })
	if err := CheckGrowth(nil, k, wide{}); err != nil {
		t.Errorf("the policy says more: %v", err)
	}
	for i := range 1000 {
		k.Scopes = append(k.Scopes, fmt.Sprintf("%0100d", i))
	}
	k.IPs, k.API = nil, "pictify"
	if err := CheckGrowth(nil, k, wide{}); err == nil || !strings.HasPrefix(err.Error(), "scopes: the record would have 10") {
		t.Error(err)
	}
}
