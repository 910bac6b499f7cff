package policy

import (
	"net/netip"
	"strings"
)

// AddressSource says which address of a request is the client's.
type AddressSource struct {
	From    string
	Hops    int            // entries of X-Forwarded-For that are proxies
	Proxies []netip.Prefix // empty: every peer is believed
}

// The words of policy files for where a client's address stands: AddressSource.From.
const (
	FromPeer     = "peer"
	FromExternal = "external-address"
	FromXFF      = "xff"
)

const (
	headerExternalAddress = "x-envoy-external-address"
	headerForwardedFor    = "x-forwarded-for"
)

// of returns the client's address, or the invalid one where it cannot be trusted: then a key with
// an IP list is refused.
func (s *AddressSource) of(r *Request) netip.Addr {
	peer := plainAddr(r.Peer)
	if s.From == FromPeer || !s.believes(peer) {
		return peer
	}
	if s.From == FromExternal {
		value, _ := r.header(headerExternalAddress)
		return parseAddr(value)
	}
	value, _ := r.header(headerForwardedFor)
	for range s.Hops {
		cut := strings.LastIndexByte(value, ',')
		if cut < 0 {
			return netip.Addr{}
		}
		value = value[:cut]
	}
	return parseEntry(value[strings.LastIndexByte(value, ',')+1:])
}

func (s *AddressSource) believes(peer netip.Addr) bool {
	if len(s.Proxies) == 0 {
		return true
	}
	for _, p := range s.Proxies {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// parseEntry reads one entry of X-Forwarded-For. Some load balancers write the port too, as
// IPv4:port or [IPv6]:port; every other text is no address, as with parseAddr.
func parseEntry(s string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(strings.Trim(s, " \t")); err == nil {
		return plainAddr(withPort.Addr())
	}
	return parseAddr(s)
}

// parseAddr reads one bare address. Ports, brackets, lists and anything else that two parsers could
// read differently make it invalid.
func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(strings.Trim(s, " \t"))
	if err != nil {
		return netip.Addr{}
	}
	return plainAddr(a)
}

func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
