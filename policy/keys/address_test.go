package keys

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// The sorted list of a Grant allows what the list of its Key allows.
func TestGrantAllowsWhatItsKeyAllows(t *testing.T) {
	address := rapid.Custom(func(t *rapid.T) netip.Addr {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0: // IPv6
			b := [16]byte{0: 0x20, 1: 0x01, 15: rapid.Byte().Draw(t, "last")}
			return netip.AddrFrom16(b).WithZone(rapid.SampledFrom([]string{"", "eth0"}).Draw(t, "zone"))
		case 1: // IPv4 in IPv6
			return netip.AddrFrom16(netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "last")}).As16())
		case 2:
			return netip.Addr{}
		default:
			return netip.AddrFrom4([4]byte{10, 0, rapid.ByteRange(0, 2).Draw(t, "third"), rapid.Byte().Draw(t, "last")})
		}
	})
	allowed := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		k := Key{}
		for range rapid.IntRange(0, 8).Draw(t, "prefixes") {
			a := address.Draw(t, "prefix").Unmap().WithZone("")
			if !a.IsValid() {
				continue
			}
			p, err := a.Prefix(a.BitLen() - rapid.IntRange(0, 10).Draw(t, "wild"))
			if err != nil {
				t.Fatal(err)
			}
			k.IPs = append(k.IPs, p)
		}
		a := address.Draw(t, "address")
		got := NewGrant(&k).Allows(a)
		if allowed[got]++; got != k.Allows(a) {
			t.Fatalf("%v in %v: %v", a, k.IPs, got)
		}
	})
	if allowed[true] < 10 || allowed[false] < 10 {
		t.Errorf("too few cases of a kind: %v", allowed)
	}
}
