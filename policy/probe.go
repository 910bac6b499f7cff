package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tollgate/policy/oauth"
)

// Probe is a client's request and what a proxy would say of it, to be decided without either.
type Probe struct {
	// API, or the host, names the API; neither is needed where the set has one only.
	API, Host string
	// Route and Environment are what the proxy's configuration says, "" if it says nothing. Where
	// neither it nor Host says the environment, the request arrives where keys with the secret's
	// prefix are accepted.
	Route, Environment string
	Method, Target     string
	// Address is the client's; the invalid one where it cannot be established.
	Address netip.Addr
	Headers []Header // with lower-case names; none of them may hold a key
	Secret  string   // "" for a request without a key
}

// errKeyInProbe refuses a key where others can read it.
var errKeyInProbe = errors.New("a key belongs on standard input: command lines can be seen by others")

// Request returns the request that a proxy would ask about. An error says what in the probe itself
// cannot be meant; a host that no API has, and every other reason to refuse it, is left to the
// decision.
func (s *Set) Request(p Probe) (*Request, error) {
	r := &Request{HTTP: true, Method: p.Method, Host: p.Host, Target: p.Target, TargetVerbatim: true}
	if p.Route != "" {
		r.Route = Named{p.Route, true}
	}
	if p.Environment != "" {
		r.Environment = Named{p.Environment, true}
	}
	api, err := s.locate(r, p.API)
	if err != nil || api == nil {
		return r, err
	}
	places := &api.spec.Credentials
	if p.Route != "" && api.spec.Routes[p.Route] == nil {
		return nil, fmt.Errorf("unknown route %q of api %q%s", p.Route, api.spec.Name, Suggest(p.Route, slices.Collect(maps.Keys(api.spec.Routes))))
	}
	for _, h := range p.Headers {
		if h.Name == "authorization" || slices.Contains(places.Headers, h.Name) {
			return nil, fmt.Errorf("header %s: %w", h.Name, errKeyInProbe)
		}
		if s.HeaderName([]byte(h.Name)) != "" {
			r.Headers = append(r.Headers, h)
		}
	}
	var held credential
	if places.readQuery(p.Target, &held); held.target != "" {
		return nil, fmt.Errorf("the query: %w", errKeyInProbe)
	}
	if p.Host == "" && p.Environment == "" {
		api.arrives(r, p.Secret)
	}
	api.spec.Address.put(r, p.Address)
	switch {
	case p.Secret == "":
	case places.Tokens && !api.beginsAsKey(p.Secret) && (oauth.IsJWT(p.Secret) || oauth.Opaque(api.spec.Issuers) != nil):
		r.Headers = append(r.Headers, Header{"authorization", bearer + " " + p.Secret})
	default:
		places.put(r, p.Secret)
	}
	return r, nil
}

// arrives makes the request one that keys with the secret's prefix are accepted for.
func (a *API) arrives(r *Request, secret string) {
	for i := range a.spec.Environments {
		if e := &a.spec.Environments[i]; strings.HasPrefix(secret, e.Prefix) {
			e.arrives(r)
			return
		}
	}
}

// put makes the request one of a client with that address, as the proxy tells of it that the policy
// describes.
func (s *AddressSource) put(r *Request, client netip.Addr) {
	if !client.IsValid() {
		return
	}
	if s.From == FromPeer {
		r.Peer = client
		return
	}
	r.Peer = netip.IPv4Unspecified()
	if len(s.Proxies) > 0 {
		r.Peer = s.Proxies[0].Addr()
	}
	if s.From == FromExternal {
		r.setHeader(headerExternalAddress, client.String())
		return
	}
	r.setHeader(headerForwardedFor, client.String()+strings.Repeat(", "+r.Peer.String(), s.Hops))
}

// setHeader replaces a header.
func (r *Request) setHeader(name, value string) {
	r.Headers = slices.DeleteFunc(r.Headers, func(h Header) bool { return h.Name == name })
	r.Headers = append(r.Headers, Header{name, value})
}
