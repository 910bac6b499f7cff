package policy_test

import (
	"net/netip"
	"testing"

	"tollgate/policy"
)

func TestAddressForms(t *testing.T) {
	for address, want := range map[string][3]string{
		"203.0.113.77":     {"203.0.113.77", "203.0.113.0/24", ""},
		"2001:db8:1:2::77": {"2001:db8:1:2::77", "2001:db8:1::/48", ""},
	} {
		for form, want := range want {
			if got := policy.AddressForm(form).Text(netip.MustParseAddr(address)); got != want {
				t.Errorf("%s in form %d: %q, want %q", address, form, got, want)
			}
		}
	}
	if got := policy.AddressFull.Text(netip.Addr{}); got != "" {
		t.Errorf("no address: %q", got)
	}
}
