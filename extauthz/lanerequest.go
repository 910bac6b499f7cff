package extauthz

import (
	"net/netip"
	"strings"

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

// lanePlace is the part of a request target that the proxy's own configuration
// puts first:
//
//	/PROXY/WORD[,WORD…]
//
// PROXY is envoy, nginx, caddy or traefik. The words are the context_extensions of
// gRPC, api=NAME, route=NAME and environment=NAME; or by=host, where the Host header
// names the API; or by=headers (Envoy only), where the headers X-Tollgate-Api,
// X-Tollgate-Route and X-Tollgate-Environment hold what is not said here. One of
// them is always needed. target=rewritten says that the proxy sends the request on
// with the target that X-Tollgate-Target names.
//
// Behind envoy the client's target follows, from its first slash or question mark
// on; behind the others nothing does. A client can only add to the end, so it cannot
// say any of this.
type lanePlace struct {
	proxy                   proxyKind
	api, route, environment policy.Named
	byHeaders               bool
	rewrites                bool
}

// The headers by which Envoy's own configuration names API, route and environment
// where by=headers asks for them.
const (
	headerAPI         = "x-tollgate-api"
	headerRoute       = "x-tollgate-route"
	headerEnvironment = "x-tollgate-environment"
)

// parsePlace splits a request target into the place and the client's part. A target
// that is none gives the zero place.
func parsePlace(target string) (p lanePlace, client string) {
	rest, ok := strings.CutPrefix(target, "/")
	if !ok {
		return lanePlace{}, ""
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
		return lanePlace{}, ""
	}
	words := rest
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		words, client = rest[:end], rest[end:]
	}
	if !ok || !p.words(words) || p.proxy != proxyEnvoy && (client != "" || p.byHeaders) {
		return lanePlace{}, ""
	}
	return p, client
}

// words reads the words of a place. Each may be said once.
func (p *lanePlace) words(s string) bool {
	byHost := false
	for more := true; more; {
		var word string
		word, s, more = strings.Cut(s, ",")
		name, value, _ := strings.Cut(word, "=")
		var named *policy.Named
		switch {
		case word == "by=host" && !byHost:
			byHost = true
			continue
		case word == "by=headers" && !p.byHeaders:
			p.byHeaders = true
			continue
		case word == "target=rewritten" && !p.rewrites:
			p.rewrites = true
			continue
		case name == contextAPI:
			named = &p.api
		case name == contextRoute:
			named = &p.route
		case name == contextEnvironment:
			named = &p.environment
		}
		if named == nil || named.Given || value == "" {
			return false
		}
		*named = policy.Named{Value: value, Given: true}
	}
	// by=host beside a name would leave open which of the two decides.
	return p.api.Given != byHost || p.byHeaders && !byHost
}

// fill makes the policy's request of the message.
func (m *laneMessage) fill(r *policy.Request, set *policy.Set) lanePlace {
	place, client := parsePlace(m.target)
	r.HTTP, r.Exact = true, true
	r.API, r.Route, r.Environment = place.api, place.route, place.environment
	switch place.proxy {
	case proxyNone:
		r.API = policy.Named{Given: true} // an API without a name, which nobody has
	case proxyEnvoy:
		m.fillEnvoy(r, set, &place, client)
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

func (m *laneMessage) fillEnvoy(r *policy.Request, set *policy.Set, place *lanePlace, client string) {
	r.Method, r.Host, r.Target = m.method, m.host, client
	if place.byHeaders {
		m.named(&r.API, headerAPI)
		m.named(&r.Route, headerRoute)
		m.named(&r.Environment, headerEnvironment)
	}
	for _, f := range m.fields {
		if set.Wants(f.name) {
			r.Headers = append(r.Headers, policy.Header{Name: f.name, Value: f.value})
		}
	}
}

// named takes a name from a header, unless the place has said it. A repeated header
// names nothing that exists.
func (m *laneMessage) named(n *policy.Named, header string) {
	for _, f := range m.fields {
		if f.name == header && !n.Given {
			n.Value, n.Given = f.value, true
			if only, ok := m.only(header); !ok {
				n.Value = only
			}
		}
	}
}

// fillOther copies the headers of a request that another proxy than Envoy asks
// about. The client sent them: what only a proxy may say is taken from the one field
// that this proxy overwrites.
func (m *laneMessage) fillOther(r *policy.Request, set *policy.Set, addressField string) {
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
		if set.Wants(f.name) {
			r.Headers = append(r.Headers, policy.Header{Name: f.name, Value: f.value})
		}
	}
}
