package httpserver

import (
	"net/netip"
	"strings"

	"tollgate/extauthz"
	"tollgate/policy"
)

// proxyKind is who asks, and with that where the request asked about stands.
type proxyKind uint8

const (
	// proxyNone: the target does not say. The request belongs to no API.
	proxyNone proxyKind = iota
	// proxyEnvoy: the request line is the client's, after a path_prefix.
	proxyEnvoy
	// proxyNginx: X-Original-Method, X-Original-URI, Host and X-Real-IP.
	proxyNginx
	// proxyCaddy and proxyTraefik: X-Forwarded-Method, -Uri, -Host and -For.
	proxyCaddy
	proxyTraefik
)

// placement is the part of a request target that the proxy's own configuration
// puts first:
//
//	/PROXY/WORD[,WORD…]
//
// PROXY is envoy, nginx, caddy or traefik. The words are the context_extensions of
// gRPC, api=NAME, route=NAME and environment=NAME; or by=host, where the Host header
// names the API; or by=header (Envoy only), where the header X-Tollgate-Place holds
// the words, and without that header the Host decides. target=rewritten says that
// the proxy sends the request on with the target that X-Tollgate-Target names.
// encoding=raw says that Envoy has encode_raw_headers: without that it shows bytes that
// are not UTF-8 as exclamation marks, in the request line too, and the application gets
// the bytes.
//
// Behind envoy the client's path follows, with the slash that every path begins
// with; behind the others nothing does that means anything (Caddy adds the client's
// query). A target without that slash is none, because a client's target without it
// (OPTIONS *, CONNECT, only a query) would go on where the words end. by=header is
// the only word of its place, so that nothing that goes on there can be a word. What
// goes on and has a slash later (",route=x/y") only Envoy can tell from words; it
// answers such targets itself, and TestEnvoyAsksAboutPathsOnly holds it to that.
type placement struct {
	proxy                   proxyKind
	api, route, environment policy.Named
	byHost, byHeader        bool
	rewrites, raw           bool
}

// headerPlace holds the words of a place where by=header asks for them, for
// configurations that say them per route.
const headerPlace = "x-tollgate-place"

// wordByHeader says that the words are in that header.
const wordByHeader = "by=header"

// parsePlace splits a request target into the place and the client's part. A target
// that is none gives the zero place.
func parsePlace(target string) (p placement, client string) {
	rest, ok := strings.CutPrefix(target, "/")
	if !ok {
		return placement{}, ""
	}
	name, rest, ok := strings.Cut(rest, "/")
	switch name {
	case "envoy":
		p.proxy = proxyEnvoy
	case "nginx":
		p.proxy = proxyNginx
	case "caddy":
		p.proxy = proxyCaddy
	case "traefik":
		p.proxy = proxyTraefik
	default:
		return placement{}, ""
	}
	words := rest
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		words, client = rest[:end], rest[end:]
	}
	if !ok || !p.words(words) {
		return placement{}, ""
	}
	envoy := p.proxy == proxyEnvoy
	if envoy != strings.HasPrefix(client, "/") || p.byHeader && (!envoy || words != wordByHeader) {
		return placement{}, ""
	}
	return p, client
}

// words reads the words of a place. Each may be said once, and something must say
// where the API's name comes from.
func (p *placement) words(s string) bool {
	for more := true; more; {
		var word string
		word, s, more = strings.Cut(s, ",")
		name, value, _ := strings.Cut(word, "=")
		var named *policy.Named
		var flag *bool
		switch {
		case word == "by=host":
			flag = &p.byHost
		case word == wordByHeader:
			flag = &p.byHeader
		case word == "target=rewritten":
			flag = &p.rewrites
		case word == "encoding=raw":
			flag = &p.raw
		case name == extauthz.ContextAPI:
			named = &p.api
		case name == extauthz.ContextRoute:
			named = &p.route
		case name == extauthz.ContextEnvironment:
			named = &p.environment
		}
		switch {
		case flag != nil && !*flag:
			*flag = true
		case named != nil && !named.Given && value != "":
			*named = policy.Named{Value: value, Given: true}
		default:
			return false
		}
	}
	sources := 0
	for _, given := range [...]bool{p.api.Given, p.byHost, p.byHeader} {
		if given {
			sources++
		}
	}
	return sources == 1
}

// header takes in the words of X-Tollgate-Place. Without it the Host decides, as in
// a route without context_extensions.
func (p *placement) header(m *message) bool {
	words, ok := m.only(headerPlace)
	if words == "" && ok || !ok && m.has(headerPlace) {
		return false
	}
	p.byHeader = false
	if !ok {
		p.byHost = true
		return true
	}
	return p.words(words) && !p.byHeader
}

// fill makes the policy's request of the message.
func (m *message) fill(r *policy.Request, set *policy.Set) placement {
	place, client := parsePlace(m.target)
	if place.byHeader && !place.header(m) {
		place = placement{}
	}
	r.HTTP, r.TargetVerbatim, r.TargetImmutable = true, place.raw || place.proxy != proxyEnvoy, !place.rewrites
	r.API, r.Route, r.Environment = place.api, place.route, place.environment
	switch place.proxy {
	case proxyNone:
		r.API = policy.Named{Given: true} // an API without a name, which nobody has
	case proxyEnvoy:
		r.Method, r.Host, r.Target = m.method, m.host, client
		for _, f := range m.fields {
			if set.HeaderName([]byte(f.name)) != "" {
				r.Headers = append(r.Headers, policy.Header{Name: f.name, Value: f.value})
			}
		}
	case proxyNginx:
		r.Method, _ = m.only("x-original-method")
		r.Target, _ = m.only("x-original-uri")
		r.Host = m.host
		m.fillOther(r, set, "x-real-ip")
	default:
		r.Method, _ = m.only("x-forwarded-method")
		r.Target, _ = m.only("x-forwarded-uri")
		r.Host, _ = m.only("x-forwarded-host")
		m.fillOther(r, set, "x-forwarded-for")
	}
	return place
}

// fillOther copies the headers of a request that another proxy than Envoy asks
// about. The client sent them: what only a proxy may say is taken from the one field
// that this proxy overwrites.
func (m *message) fillOther(r *policy.Request, set *policy.Set, addressField string) {
	value, ok := m.only(addressField)
	last := strings.Trim(value[strings.LastIndexByte(value, ',')+1:], " \t")
	if address, err := netip.ParseAddr(last); ok && err == nil {
		r.Peer = address
		r.Headers = append(r.Headers, policy.Header{Name: "x-envoy-external-address", Value: last})
	}
	for _, f := range m.fields {
		switch f.name {
		case "x-envoy-external-address":
			continue // Envoy's word, and this is not Envoy
		case "content-type":
			continue // a gRPC answer needs the trailers that only Envoy makes of it
		}
		if set.HeaderName([]byte(f.name)) != "" {
			r.Headers = append(r.Headers, policy.Header{Name: f.name, Value: f.value})
		}
	}
}
