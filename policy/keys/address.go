package keys

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseAddress reads one entry of an address list: a single address or a CIDR. IPv4 inside IPv6
// becomes IPv4. The text of an error starts with the value.
func ParseAddress(s string) (netip.Prefix, error) {
	refuse := func(why string) (netip.Prefix, error) { return netip.Prefix{}, fmt.Errorf("%s %s", Quote(s), why) }
	if strings.Contains(s, "%") {
		return refuse("has a zone, which means nothing on another machine")
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return refuse("is not an IP address or CIDR")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return refuse("is not an IP address or CIDR")
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	if masked := prefix.Masked(); masked != prefix {
		return refuse(fmt.Sprintf("has bits set beyond its length; did you mean %s?", masked))
	}
	return prefix, nil
}

// ParseAddresses reads a list. An error is a *FieldError.
func ParseAddresses(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, s := range list {
		prefix, err := ParseAddress(s)
		if err != nil {
			return nil, &FieldError{fmt.Sprintf("ips[%d]", i), err.Error()}
		}
		out = append(out, prefix)
	}
	return out, nil
}

func prefixProblem(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "is not an IP address or CIDR"
	case p.Addr().Is4In6():
		return Quote(p.String()) + " must be written as IPv4"
	case p != p.Masked():
		return Quote(p.String()) + " has bits set beyond its length"
	}
	return ""
}
