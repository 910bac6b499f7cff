package policy

import (
	"slices"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// API is one policy file, compiled. It never changes after Compile.
type API struct {
	file         string // for the errors of other files
	name         string
	realm        string
	hosts        []string
	places       places
	prefixes     []string
	checksum     bool
	environments []env
	address      addressSource
	addresses    int    // that a key's list may have
	checksumAt   string // place of the file that says what keys look like
	prefixesAt   string // likewise
	preflights   bool   // those of CORS are public
	scopes       map[string]bool
	emptyIsAll   bool
	routes       router
	routeNames   map[string]*Route
	plans        map[string]*plan
	rpcUndecided bool
	staleFor     time.Duration
	answers      [reasonCount]*answer
	requestID    bool
	headers      rateHeaders
}

// Name returns the API's name.
func (a *API) Name() string { return a.name }

// StaleFor returns how long a known key may be served while the store is away.
func (a *API) StaleFor() time.Duration { return a.staleFor }

// reads returns the names of the headers that decisions about the API read, in lower
// case, beside those that every API's do: what may hold a key, the client's address,
// and what a denial repeats.
func (a *API) reads() []string {
	names := slices.Clone(a.places.headers)
	if a.places.authorization() {
		names = append(names, "authorization")
	}
	switch a.address.from {
	case fromExternal:
		names = append(names, headerExternalAddress)
	case fromXFF:
		names = append(names, headerForwardedFor)
	}
	if a.requestID {
		names = append(names, "x-request-id")
	}
	if a.preflights {
		names = append(names, headerOrigin, headerRequestedMethod)
	}
	return names
}

// Route is one route of an API.
type Route struct {
	name   string
	scope  string   // "" for scope: none
	grants []string // the scopes that include scope, itself among them
	cost   int64
	public bool
}

// Name returns the route's name.
func (r *Route) Name() string { return r.name }

type env struct {
	index    int // in plan.applied
	name     string
	prefix   string
	prefixAt string // its place in the file
	hosts    []string
	context  string
	quota    bool
}

// accepts reports whether keys of the environment are accepted for a request:
// under one of its hosts or its context value, everywhere if it has neither. A
// context value that Envoy gives decides alone.
func (e *env) accepts(r *Request, host string) bool {
	if r.Environment.Given {
		return e.context == r.Environment.Value && e.context != "" || e.context == "" && len(e.hosts) == 0
	}
	if e.context == "" && len(e.hosts) == 0 {
		return true
	}
	for _, h := range e.hosts {
		if h == host {
			return true
		}
	}
	return false
}

type failureMode uint8

const (
	failClosed failureMode = iota
	failOpen
	failLocal
)

func (m failureMode) String() string {
	return [...]string{failClosed: "closed", failOpen: "open", failLocal: "local"}[m]
}

type plan struct {
	name        string
	every       applied   // all limits of the plan
	applied     []applied // by env.index
	keyAnchor   bool
	exact       bool // each spend is counted in the store
	failureMode failureMode
	keyCaps     map[string]int // by environment, "" where there are none
}

// applied is what keys of one environment have of the limits of a plan.
type applied struct {
	windows []limits.Window // which they spend
	unspent []string        // quotas, which they do not
}

// in returns what keys of an environment have of the plan: all of it where the API
// has no environments.
func (p *plan) in(e *env) *applied {
	if e == nil {
		return &p.every
	}
	return &p.applied[e.index]
}

// plan returns the plan of a key that names it: nil, true where the API has no
// plans.
func (a *API) plan(name string) (_ *plan, ok bool) {
	if len(a.plans) == 0 {
		return nil, true
	}
	p := a.plans[name]
	return p, p != nil
}

// windowsFor returns the windows that a key of an environment spends. ok is false
// when an override of the key names a limit that the plan does not have for that
// environment: dropping it silently could lift a restriction. Windows that are the
// key's own are put into room, which may be nil.
func (p *plan) windowsFor(e *env, overrides []keys.Override, anchorDay int, room *[]limits.Window) (_ []limits.Window, ok bool) {
	if p == nil {
		return nil, len(overrides) == 0
	}
	has := p.in(e)
	if len(overrides) == 0 && !p.keyAnchor {
		return has.windows, true
	}
	var own []limits.Window
	if room != nil {
		own = *room
		defer func() { *room = own }()
	}
	own = append(own[:0], has.windows...)
	for _, o := range overrides {
		if !has.override(own, o) {
			return nil, false
		}
	}
	if p.keyAnchor {
		for i := range own {
			own[i].Anchor = anchorDay
		}
	}
	return own, true
}

// override changes the window in own that an override names. A quota that the key
// does not spend is known and stays so.
func (a *applied) override(own []limits.Window, o keys.Override) (known bool) {
	for i := range own {
		if own[i].Name == o.Name {
			own[i].Limit = o.Requests
			return true
		}
	}
	return slices.Contains(a.unspent, o.Name)
}

// answersUncounted reports whether keys of some plan, in some environment, are let pass
// while nothing can be counted.
func (a *API) answersUncounted() bool {
	for _, p := range a.plans {
		if p.failureMode != failClosed {
			return true
		}
		all := p.applied
		if len(a.environments) == 0 {
			all = []applied{p.every}
		}
		for _, has := range all {
			if len(has.windows) == 0 {
				return true
			}
		}
	}
	return len(a.plans) == 0
}

// environment returns the environment of a key: nil, true where the API has none.
func (a *API) environment(name string) (_ *env, ok bool) {
	if len(a.environments) == 0 {
		return nil, true
	}
	for i := range a.environments {
		if a.environments[i].name == name {
			return &a.environments[i], true
		}
	}
	return nil, false
}

// Environments returns the names of the API's environments, in the order of its file.
func (a *API) Environments() []string {
	names := make([]string, len(a.environments))
	for i := range a.environments {
		names[i] = a.environments[i].name
	}
	return names
}

// resembles reports whether a secret has the form of this API's keys, so that
// anything else is refused without asking the store.
func (a *API) resembles(secret string) bool {
	if len(a.prefixes) == 0 {
		return !a.checksum || keys.HasChecksum(secret, "")
	}
	for _, p := range a.prefixes {
		if len(secret) > len(p) && secret[:len(p)] == p {
			return !a.checksum || keys.HasChecksum(secret, p)
		}
	}
	return false
}

// permits reports whether a key may use a route.
func (a *API) permits(k *keys.Grant, r *Route) bool {
	if r.scope == "" {
		return true
	}
	if len(k.Scopes) == 0 {
		return a.emptyIsAll
	}
	for _, held := range k.Scopes {
		for _, granting := range r.grants {
			if held == granting {
				return true
			}
		}
	}
	return false
}
