package policy

import (
	"net/netip"
	"strings"
)

// Request is what a decision needs to know of a request. It holds plain text as the client sent it;
// nothing in it is trusted but the Named values and Peer.
type Request struct {
	// API, Route and Environment are the names that the proxy's own configuration gave the request
	// (Envoy: context_extensions).
	API, Route, Environment Named
	// HTTP is false for a connection that carries no HTTP request.
	HTTP   bool
	Method string
	Host   string
	// Target is the path with its query, undecoded.
	Target string
	// TargetVerbatim says that Target is what the client sent, byte for byte. Else each of its
	// exclamation marks may stand for a byte that is not UTF-8, as Envoy writes them, while the
	// application gets the byte itself.
	TargetVerbatim bool
	// TargetImmutable says that the target cannot be changed on its way to the application, so that
	// a key in its query is refused.
	TargetImmutable bool
	// Headers holds those that Set.HeaderName names, with lower-case names, in order.
	Headers []Header
	// Peer is the address of the connection's other end; invalid when unknown.
	Peer netip.Addr
	// Certificate is the client's, in PEM and percent-encoded as Envoy has it (source.certificate);
	// "" where the connection has none, or no API asks for it.
	Certificate string
}

// Forget empties r but for the memory of its list, for a host that keeps r for later: a secret must
// not be kept alive with it.
func (r *Request) Forget() {
	clear(r.Headers)
	*r = Request{Headers: r.Headers[:0]}
}

// Named is a name that may be given or not. A name that is given and unknown is a denial, never a
// fallback, so the empty text is not the absent one.
type Named struct {
	Value string
	Given bool
}

// Header is a header field, or a field of the dynamic metadata.
type Header struct{ Name, Value string }

// header returns the values of a header joined with commas, as Envoy joins them, and whether the
// header is there at all.
func (r *Request) header(name string) (value string, present bool) {
	for _, h := range r.Headers {
		if h.Name != name {
			continue
		}
		if present {
			value += "," + h.Value
			continue
		}
		value, present = h.Value, true
	}
	return value, present
}

// plainMethod reports whether a method is one that every parser reads alike: a token (RFC 9110
// section 9.1) without the letters that some servers raise.
func plainMethod(method string) bool {
	for i := range len(method) {
		switch c := method[i]; {
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return method != ""
}

// verbatim reports whether a path is known byte for byte.
func (r *Request) verbatim(path string) bool {
	return r.TargetVerbatim || strings.IndexByte(path, '!') < 0
}

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

// headerRequestID names a request. A client may choose it, unless the proxy makes it.
const headerRequestID = "x-request-id"

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
