package extauthz

import (
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/policy"
)

// The keys of Envoy's context_extensions that name what a route belongs to.
const (
	contextAPI         = "api"
	contextRoute       = "route"
	contextEnvironment = "environment"
)

// decode takes from a CheckRequest what the policies look at. Every part of the
// message may be absent: a network filter sends no HTTP attributes at all.
func decode(req *authv3.CheckRequest, set *policy.Set) *policy.Request {
	attributes := req.GetAttributes()
	extensions := attributes.GetContextExtensions()
	r := &policy.Request{
		API:         named(extensions, contextAPI),
		Route:       named(extensions, contextRoute),
		Environment: named(extensions, contextEnvironment),
		Peer:        peer(attributes.GetSource().GetAddress()),
	}
	http := attributes.GetRequest().GetHttp()
	if http == nil {
		return r
	}
	r.HTTP = true
	r.Method, r.Host, r.Target = http.GetMethod(), http.GetHost(), http.GetPath()
	keep := func(name, value string) {
		if name = strings.ToLower(name); set.Wants(name) {
			r.Headers = append(r.Headers, policy.Header{Name: name, Value: value})
		}
	}
	for name, value := range http.GetHeaders() {
		keep(name, value)
	}
	// encode_raw_headers sends header_map in the place of headers.
	for _, h := range http.GetHeaderMap().GetHeaders() {
		value := h.GetValue()
		if raw := h.GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		if h.GetKey() == ":path" {
			// Only here are bytes that are not UTF-8 what the client sent.
			r.Target, r.Exact = value, true
		}
		keep(h.GetKey(), value)
	}
	return r
}

func named(extensions map[string]string, key string) policy.Named {
	value, given := extensions[key]
	return policy.Named{Value: value, Given: given}
}

// peer returns the address of the connection, the invalid one for a unix socket
// or where none is given.
func peer(address *corev3.Address) netip.Addr {
	a, err := netip.ParseAddr(address.GetSocketAddress().GetAddress())
	if err != nil {
		return netip.Addr{}
	}
	return a
}
