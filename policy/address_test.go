package policy

import (
	"net/netip"
	"testing"
)

func TestClientAddress(t *testing.T) {
	const peer = "192.0.2.1"
	trusted := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	from := func(source string, hops int, proxies ...netip.Prefix) AddressSource {
		return AddressSource{From: source, Hops: hops, Proxies: proxies}
	}
	h := func(name string, values ...string) (list []Header) {
		for _, v := range values {
			list = append(list, Header{name, v})
		}
		return list
	}
	xff := func(values ...string) []Header { return h(headerForwardedFor, values...) }
	ext := func(values ...string) []Header { return h(headerExternalAddress, values...) }
	for _, c := range []struct {
		name    string
		source  AddressSource
		peer    string
		headers []Header
		want    string // "" is none
	}{
		{"peer", from(FromPeer, 0), peer, nil, peer},
		{"peer, forged headers", from(FromPeer, 0), peer, append(xff("1.1.1.1"), ext("2.2.2.2")...), peer},
		{"peer v4 in v6", from(FromPeer, 0), "::ffff:192.0.2.1", nil, peer},
		{"peer with zone", from(FromPeer, 0), "fe80::1%eth0", nil, "fe80::1"},
		{"no peer", from(FromPeer, 0), "", xff("1.1.1.1"), ""},

		{"external", from(FromExternal, 0), peer, ext("198.51.100.7"), "198.51.100.7"},
		{"external v6", from(FromExternal, 0), peer, ext("2001:DB8::7"), "2001:db8::7"},
		{"external v4 in v6", from(FromExternal, 0), peer, ext("::ffff:198.51.100.7"), "198.51.100.7"},
		{"external with zone", from(FromExternal, 0), peer, ext("fe80::1%eth0"), "fe80::1"},
		{"external absent", from(FromExternal, 0), peer, xff("1.1.1.1"), ""},
		{"external empty", from(FromExternal, 0), peer, ext(""), ""},
		{"external twice", from(FromExternal, 0), peer, ext("198.51.100.7", "198.51.100.7"), ""},
		{"external list", from(FromExternal, 0), peer, ext("198.51.100.7, 1.1.1.1"), ""},
		{"external with port", from(FromExternal, 0), peer, ext("198.51.100.7:80"), ""},
		{"external in brackets", from(FromExternal, 0), peer, ext("[2001:db8::7]"), ""},
		{"external octal", from(FromExternal, 0), peer, ext("198.051.100.7"), ""},
		{"external garbage", from(FromExternal, 0), peer, ext("localhost"), ""},
		{"external CIDR", from(FromExternal, 0), peer, ext("0.0.0.0/0"), ""},
		{"external of a trusted peer", from(FromExternal, 0, trusted...), peer, ext("198.51.100.7"), "198.51.100.7"},
		{"external of a trusted v4 in v6 peer", from(FromExternal, 0, trusted...), "::ffff:192.0.2.1", ext("198.51.100.7"), "198.51.100.7"},
		{"external of a stranger", from(FromExternal, 0, trusted...), "203.0.113.9", ext("198.51.100.7"), "203.0.113.9"},
		{"external of nobody", from(FromExternal, 0, trusted...), "", ext("198.51.100.7"), ""},

		{"xff, no hop", from(FromXFF, 0), peer, xff("1.1.1.1, 198.51.100.7"), "198.51.100.7"},
		{"xff, one hop", from(FromXFF, 1), peer, xff("1.1.1.1, 198.51.100.7, 10.0.0.1"), "198.51.100.7"},
		{"xff, two hops", from(FromXFF, 2), peer, xff("198.51.100.7, 10.0.0.2,10.0.0.1"), "198.51.100.7"},
		{"xff over two headers", from(FromXFF, 1), peer, xff("1.1.1.1, 198.51.100.7", "10.0.0.1"), "198.51.100.7"},
		{"xff too short", from(FromXFF, 1), peer, xff("198.51.100.7"), ""},
		{"xff much too short", from(FromXFF, 3), peer, xff("198.51.100.7, 10.0.0.1"), ""},
		{"xff absent", from(FromXFF, 0), peer, ext("1.1.1.1"), ""},
		{"xff absent, hops", from(FromXFF, 1), peer, nil, ""},
		{"xff empty entry", from(FromXFF, 1), peer, xff("1.1.1.1,,10.0.0.1"), ""},
		{"xff garbage where the client stands", from(FromXFF, 1), peer, xff("198.51.100.7, unknown, 10.0.0.1"), ""},
		{"xff garbage before the client", from(FromXFF, 1), peer, xff("' or 1=1, 198.51.100.7, 10.0.0.1"), "198.51.100.7"},
		{"xff with port", from(FromXFF, 0), peer, xff("198.51.100.7:443"), "198.51.100.7"},
		{"xff with port behind a hop", from(FromXFF, 1), peer, xff("1.1.1.1, 198.51.100.7:17085, 10.0.0.1"), "198.51.100.7"},
		{"xff v6 with port", from(FromXFF, 1), peer, xff("[2001:db8::7]:17085, 10.0.0.1"), "2001:db8::7"},
		{"xff v4 in v6 with port", from(FromXFF, 0), peer, xff("[::ffff:198.51.100.7]:1"), "198.51.100.7"},
		{"xff v6 with zone and port", from(FromXFF, 0), peer, xff("[fe80::1%eth0]:443"), "fe80::1"},
		{"xff of a hop with port", from(FromXFF, 1), peer, xff("198.51.100.7, 10.0.0.1:5000"), "198.51.100.7"},
		{"xff brackets without port", from(FromXFF, 0), peer, xff("[2001:db8::7]"), ""},
		{"xff v4 in brackets", from(FromXFF, 0), peer, xff("[198.51.100.7]:443"), ""},
		{"xff port too large", from(FromXFF, 0), peer, xff("198.51.100.7:65536"), ""},
		{"xff empty port", from(FromXFF, 0), peer, xff("198.51.100.7:"), ""},
		{"xff named port", from(FromXFF, 0), peer, xff("198.51.100.7:http"), ""},
		{"xff signed port", from(FromXFF, 0), peer, xff("198.51.100.7:+80"), ""},
		{"xff octal with port", from(FromXFF, 0), peer, xff("198.051.100.7:80"), ""},
		{"xff host with port", from(FromXFF, 0), peer, xff("localhost:80"), ""},
		{"xff quoted", from(FromXFF, 0), peer, xff("\"[2001:db8::7]:80\""), ""},
		{"xff unknown", from(FromXFF, 1), peer, xff("unknown, 10.0.0.1"), ""},
		{"xff trailing comma", from(FromXFF, 1), peer, xff("198.51.100.7,, 10.0.0.1"), ""},
		{"xff v4 in v6 and tabs", from(FromXFF, 1), peer, xff("\t::ffff:198.51.100.7\t,\t10.0.0.1"), "198.51.100.7"},
		{"xff of a trusted v6 peer", from(FromXFF, 0, trusted...), "2001:db8::1", xff("198.51.100.7"), "198.51.100.7"},
		{"xff of a stranger", from(FromXFF, 0, trusted...), "2001:db9::1", xff("198.51.100.7"), "2001:db9::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Request{Headers: c.headers}
			if c.peer != "" {
				r.Peer = netip.MustParseAddr(c.peer)
			}
			got := ""
			if a := c.source.of(r); a.IsValid() {
				got = a.String()
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
