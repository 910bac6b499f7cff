// Package guard judges the addresses that messages go to: none inside the network, unless the
// operator allows it.
package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// refused are the networks that are not the public internet, by IANA's registries of special
// addresses, and those that carry IPv4 addresses of which they could be any.
// Sources: https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry.
func refused() []netip.Prefix {
	var all []netip.Prefix
	for text := range strings.FieldsSeq(`
		0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
		192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
		224.0.0.0/4 240.0.0.0/4
		::/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20
		5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8`) {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// Guard judges the addresses that connections go to.
type Guard struct{ allowed, refused []netip.Prefix }

// New returns a Guard that refuses all that is not the public internet, but for what is
// allowed.
func New(allowed []netip.Prefix) *Guard { return &Guard{slices.Clone(allowed), refused()} }

// ParseAllowed reads addresses and CIDRs that are joined with commas.
func ParseAllowed(text string) (allowed []netip.Prefix, err error) {
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		p, err := netip.ParsePrefix(part)
		if a, wrong := netip.ParseAddr(part); wrong == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Masked() != p || p.Addr().Zone() != "" || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is neither an address nor a CIDR such as 10.1.0.0/16", part)
		}
		allowed = append(allowed, p)
	}
	return allowed, nil
}

// Judge returns why no connection may go to an address, nil if one may. An IPv4 address that is
// written as an IPv6 one is judged as what it is.
func (g *Guard) Judge(a netip.Addr) error {
	a = a.Unmap()
	holds := func(p netip.Prefix) bool { return p.Contains(a) }
	switch {
	case !a.IsValid() || a.Zone() != "":
		return fmt.Errorf("%v is no address of the public internet", a)
	case slices.ContainsFunc(g.allowed, holds):
		return nil
	case slices.ContainsFunc(g.refused, holds):
		return fmt.Errorf("%v is no address of the public internet, and not allowed", a)
	}
	return nil
}

// Control is net.Dialer's: it sees the address that a connection really goes to, after all names
// were resolved, so a name that changes its mind gains nothing.
func (g *Guard) Control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return g.Judge(to.Addr())
}
