package policy

import (
	"cmp"
	"slices"
	"strings"

	"tollgate/policy/answer"
)

// Set is all APIs that one server enforces. It never changes, so that a reload swaps one pointer.
type Set struct {
	apis    []*API
	byName  map[string]*API
	byHost  map[string]*API
	headers map[string]string // that decisions look at, by themselves, lower case
	reads   []string          // those that they need, sorted
	names   map[string]string // of APIs, routes and plans, by themselves
	unknown *answer.Answer
	bound   bool // some API takes tokens that are bound to a client's certificate
}

// New returns the set of some APIs, whose names and hosts must be unique over all of them.
func New(specs ...Spec) *Set {
	s := &Set{
		byName: map[string]*API{}, byHost: map[string]*API{}, unknown: answer.UnknownAPI(),
		headers: map[string]string{headerRequestID: headerRequestID}, // for the error log, where it is shown
		names:   map[string]string{},
	}
	// A denial has a form for gRPC also where no API is known.
	needed := []string{"content-type"}
	for i, spec := range specs {
		api := &API{spec, i}
		s.apis = append(s.apis, api)
		s.byName[spec.Name] = api
		s.names[spec.Name] = spec.Name
		for name := range spec.Routes {
			s.names[name] = name
		}
		for name := range spec.Plans {
			s.names[name] = name
		}
		for _, host := range spec.Hosts {
			s.byHost[host] = api
		}
		needed = append(needed, api.reads()...)
		for _, i := range spec.Issuers {
			s.bound = s.bound || i.CertificateBound
		}
	}
	for _, name := range needed {
		s.headers[name] = name
	}
	slices.Sort(needed)
	s.reads = slices.Compact(needed)
	return s
}

// APIs returns the APIs in the order of their files.
func (s *Set) APIs() []*API { return s.apis }

// API returns the API of a name, nil if there is none.
func (s *Set) API(name string) *API { return s.byName[name] }

// Find returns what an API's and a route's names mean, nil for what the set does not have.
func (s *Set) Find(api, route string) (*API, *Route) {
	a := s.byName[api]
	if a == nil {
		return nil, nil
	}
	return a, a.spec.Routes[route]
}

// LimitsConcurrency reports whether some plan limits the requests under way.
func (s *Set) LimitsConcurrency() bool {
	return slices.ContainsFunc(s.apis, (*API).LimitsConcurrency)
}

// AnswersUncounted reports whether some plan lets requests pass while nothing can be counted.
func (s *Set) AnswersUncounted() bool {
	return slices.ContainsFunc(s.apis, (*API).answersUncounted)
}

// Headers returns the names of the headers that decisions read, in lower case and sorted: what a
// proxy must show of a request, beside its method, path and host. Others are at most removed
// without having been read.
func (s *Set) Headers() []string { return slices.Clone(s.reads) }

// HeaderName returns the lower-case form of the name of a header that a decision may need, and ""
// for any other header, which a host need not copy into a Request. It does not allocate for the
// names that a policy expects, written in lower case.
func (s *Set) HeaderName(name []byte) string {
	if known, ok := s.headers[string(name)]; ok {
		return known
	}
	if plainName(name) || len(name) > 0 && name[0] == ':' {
		return ""
	}
	lower := strings.ToLower(string(name))
	if known, ok := s.headers[lower]; ok || withheldAlias(lower) {
		return cmp.Or(known, lower)
	}
	return ""
}

// WantsCertificate reports whether decisions need the client's certificate.
func (s *Set) WantsCertificate() bool { return s.bound }

// Name returns the set's own text of the name of an API, a route or a plan, and "" for any other.
// It does not allocate.
func (s *Set) Name(name []byte) string { return s.names[string(name)] }

// find returns the API of a request. A name given by Envoy decides alone.
func (s *Set) find(r *Request) (api *API, host string) {
	host, ok := NormalHost(r.Host)
	if r.API.Given {
		return s.byName[r.API.Value], host
	}
	if !ok {
		return nil, ""
	}
	return s.byHost[host], host
}

// NormalHost lower-cases a Host, cuts its port and final dot, and refuses what is not one plain
// host: empty, a list (two Host headers arrive as "a,b"), user information.
func NormalHost(host string) (string, bool) {
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 || !portSuffix(host[end+1:]) {
			return "", false
		}
		return strings.ToLower(host[:end+1]), plainHost(host[1:end], true)
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !portSuffix(host[i:]) {
			return "", false
		}
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	return strings.ToLower(host), plainHost(host, false)
}

func portSuffix(s string) bool {
	if s == "" {
		return true
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s[0] == ':'
}

func plainHost(host string, v6 bool) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		case v6 && c == ':':
		default:
			return false
		}
	}
	return host != ""
}
