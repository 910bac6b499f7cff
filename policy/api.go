package policy

import (
	"slices"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// API is one API of a Set. It never changes.
type API struct {
	spec  Spec
	index int // in its Set
}

// Name returns the API's name.
func (a *API) Name() string { return a.spec.Name }

// Index returns the place of the API in Set.APIs.
func (a *API) Index() int { return a.index }

// Size returns how many routes and plans the API has: each has an Index below that.
func (a *API) Size() (routes, plans int) { return len(a.spec.Routes), len(a.spec.Plans) }

// StaleFor returns how long a known key may be served while the store is away.
func (a *API) StaleFor() time.Duration { return a.spec.StaleFor }

// reads returns the names of the headers that decisions about the API read, in lower case, beside
// those that every API's do: what may hold a key, the client's address, and what a denial repeats.
func (a *API) reads() []string {
	names := slices.Clone(a.spec.Credentials.Headers)
	if a.spec.Credentials.authorization() {
		names = append(names, "authorization")
	}
	switch a.spec.Address.From {
	case FromExternal:
		names = append(names, headerExternalAddress)
	case FromXFF:
		names = append(names, headerForwardedFor)
	}
	if a.spec.RequestID || a.spec.Slots.RequestIDs {
		names = append(names, headerRequestID)
	}
	if a.spec.PublicPreflights {
		names = append(names, headerOrigin, headerRequestedMethod)
	}
	return names
}

// accepts reports whether keys of the environment are accepted for a request: under one of its
// hosts or its context value, everywhere if it has neither. A context value that Envoy gives
// decides alone.
func (e *Environment) accepts(r *Request, host string) bool {
	if r.Environment.Given {
		return e.Context == r.Environment.Value && e.Context != "" || e.Context == "" && len(e.Hosts) == 0
	}
	if e.Context == "" && len(e.Hosts) == 0 {
		return true
	}
	for _, h := range e.Hosts {
		if h == host {
			return true
		}
	}
	return false
}

// in returns what keys of an environment have of the plan: all of it where the API has no
// environments.
func (p *Plan) in(e *Environment) *PlanLimits {
	if e == nil {
		return &p.All
	}
	return &p.ByEnvironment[e.Index]
}

// plan returns the plan of a key that names it: nil, true where the API has no plans.
func (a *API) plan(name string) (_ *Plan, ok bool) {
	if len(a.spec.Plans) == 0 {
		return nil, true
	}
	p := a.spec.Plans[name]
	return p, p != nil
}

// ownLimits is what a key has of its own beside the limits of its plan.
type ownLimits struct {
	overrides []keys.Override
	extras    []keys.Extra
	anchorDay int
}

// windowsFor returns the windows that a key of an environment spends at a time. ok is false when an
// override of the key names a limit that the plan does not have for that environment: dropping it
// silently could lift a restriction. An extra of such a limit adds nothing. Windows that are the
// key's own are put into room, which may be nil.
func (p *Plan) windowsFor(e *Environment, key ownLimits, now time.Time, room *[]limits.Window) (_ []limits.Window, ok bool) {
	overrides := key.overrides
	if p == nil {
		return nil, len(overrides) == 0
	}
	has := p.in(e)
	if len(overrides) == 0 && len(key.extras) == 0 && !p.KeyAnchor {
		return has.Windows, true
	}
	var own []limits.Window
	if room != nil {
		own = *room
		defer func() { *room = own }()
	}
	own = append(own[:0], has.Windows...)
	for _, o := range overrides {
		if !has.replace(own, o) && !p.limitsConcurrency(o.Name) {
			return nil, false
		}
	}
	for i := range own {
		own[i].Limit = min(own[i].Limit+extra(key.extras, own[i].Name, now), limits.MaxLimit)
		if p.KeyAnchor {
			own[i].Anchor = key.anchorDay
		}
	}
	return own, true
}

// extra returns how much a limit is larger at a time than it would be.
func extra(extras []keys.Extra, limit string, now time.Time) (n int64) {
	for i := range extras {
		if x := &extras[i]; x.Name == limit && now.Before(x.Until) {
			n += x.Requests
		}
	}
	return n
}

// ConcurrentLimit is the name by which a key overrides how many of its requests may be under way.
// No limit of a plan is named so.
const ConcurrentLimit = "concurrent"

func (p *Plan) limitsConcurrency(name string) bool {
	return p.Concurrent > 0 && name == ConcurrentLimit
}

// concurrent returns how many requests of a key may be under way at once at a time, 0 for any
// number.
func (p *Plan) concurrent(overrides []keys.Override, extras []keys.Extra, now time.Time) int64 {
	if p == nil || p.Concurrent == 0 {
		return 0
	}
	n := p.Concurrent
	for _, o := range overrides {
		if o.Name == ConcurrentLimit {
			n = o.Requests
		}
	}
	return min(n+extra(extras, ConcurrentLimit, now), limits.MaxPlaces)
}

// LimitsConcurrency reports whether a plan of the API limits the requests under way.
func (a *API) LimitsConcurrency() bool {
	for _, p := range a.spec.Plans {
		if p.Concurrent > 0 {
			return true
		}
	}
	return false
}

// Slots returns how the API's requests under way are followed.
func (a *API) Slots() SlotRules { return a.spec.Slots }

// Usage returns what the API's policy says of usage.
func (a *API) Usage() *Usage { return &a.spec.Usage }

// ErrorLog returns what the API's policy says of the error log.
func (a *API) ErrorLog() ErrorLog { return a.spec.ErrorLog }

// QuotaAlerts returns at which shares of their limits per day and month, in percent and ascending,
// somebody is to be told of keys of a plan.
func (a *API) QuotaAlerts(plan string) []int {
	if p := a.spec.Plans[plan]; p != nil {
		return p.QuotaAlerts
	}
	return nil
}

// HasQuotaAlerts reports whether there is such a share in any plan of the API.
func (a *API) HasQuotaAlerts() bool {
	for _, p := range a.spec.Plans {
		if len(p.QuotaAlerts) > 0 {
			return true
		}
	}
	return false
}

// Alerts returns what else somebody is to be told of. Nobody may change it.
func (a *API) Alerts() *Alerts { return &a.spec.Alerts }

// replace changes the window in own that an override names. A quota that the key does not spend is
// known and stays so.
func (a *PlanLimits) replace(own []limits.Window, o keys.Override) (known bool) {
	for i := range own {
		if own[i].Name == o.Name {
			own[i].Limit = o.Requests
			return true
		}
	}
	return slices.Contains(a.Exempt, o.Name)
}

// answersUncounted reports whether keys of some plan, in some environment, are let pass while
// nothing can be counted.
func (a *API) answersUncounted() bool {
	for _, p := range a.spec.Plans {
		if p.FailureMode != FailClosed || p.Shadow {
			return true
		}
		all := p.ByEnvironment
		if len(all) == 0 {
			all = []PlanLimits{p.All}
		}
		if slices.ContainsFunc(all, func(l PlanLimits) bool { return len(l.Windows) == 0 }) {
			return true
		}
	}
	return len(a.spec.Plans) == 0
}

// Environments returns the names of the API's environments, in the order of its file.
func (a *API) Environments() []string { return a.spec.EnvironmentNames() }

// resembles reports whether a secret has the form of this API's keys, so that anything else is
// refused without asking the store.
func (a *API) resembles(secret string) bool {
	if len(a.spec.Prefixes) == 0 {
		return !a.spec.Checksum || keys.HasChecksum(secret, "")
	}
	for _, p := range a.spec.Prefixes {
		if len(secret) > len(p) && secret[:len(p)] == p {
			return !a.spec.Checksum || keys.HasChecksum(secret, p)
		}
	}
	return false
}

// permits reports whether a key may use a route.
func (a *API) permits(k *keys.Grant, r *Route) bool {
	if r.Scope == "" {
		return true
	}
	if len(k.Scopes) == 0 {
		return a.spec.EmptyScopesAll
	}
	for _, held := range k.Scopes {
		for _, granting := range r.Grants {
			if held == granting {
				return true
			}
		}
	}
	return false
}
