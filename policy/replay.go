package policy

import (
	"net/netip"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// Past is what is known of a decision that was made, to be judged by other policies.
type Past struct {
	API, Host    string
	Method, Path string // Path is without its query; without it, the route is found by its name
	Route        string
	Address      netip.Addr // the client's; the invalid one if that is not known
	Reason       Reason
}

// Replayed is what policies make of a past decision, as far as route, scope, address and plan go.
type Replayed struct {
	Route  string // "" if none matches
	Reason Reason // Allowed also where limits or shadow_mode would have a say
	Rule   Rule   // of the step that decides
}

// Judgeable reports whether policies have a say in a decision with this reason: not where the store
// could not be asked about the key, or a record was unusable.
func (r Reason) Judgeable() bool {
	switch r {
	case UnknownAPI, CorruptKey, LookupRefused, Undecided:
		return false
	}
	return r < reasonCount
}

// OfKey reports whether a decision with this reason can be about a known key.
func (r Reason) OfKey() bool {
	switch r {
	case Allowed, InactiveKey, ExpiredKey, AddressDenied, ScopeDenied, InsufficientScope, RouteDenied, RateLimited, QuotaExceeded, ConcurrencyExceeded:
		return true
	}
	return false
}

// Replay judges a past decision once more. k is the key that it was about, with the plan that it
// had, and is nil if it was about none. What is not the policies' stays as it was: whether there
// was a key, and in what state.
func (s *Set) Replay(p Past, k *keys.Key) Replayed {
	r := &Request{HTTP: true, Method: p.Method, Host: p.Host, Target: p.Path, TargetVerbatim: true, API: Named{p.API, true}}
	if p.Path == "" {
		r.Target, r.Method, r.Route = "/", "GET", Named{p.Route, true}
	}
	api := s.byName[p.API]
	if api == nil {
		return Replayed{Reason: UnknownAPI}
	}
	known := *pastKey(p, k)
	api.arriveAgain(r, p, &known)
	var c Check
	wait := NewDecider(keys.NewHasher(nil), nil, time.Now).Begin(&c, s, r)
	if wait == WaitKey {
		wait = c.Found(*keys.NewGrant(&known), nil)
	}
	if wait == WaitLimits { // of which nothing is spent
		c.result = c.spend.Preview(c.now, make([]limits.State, len(c.spend.Windows)), 0)
		c.Spent(nil)
	}
	out := Replayed{Reason: c.decision.Judged()}
	if out.Reason.Limited() {
		out.Reason = Allowed
	}
	if c.route != nil {
		out.Route = c.route.Name
	}
	public := c.route != nil && c.route.Public
	stays := !public && (k == nil || p.Reason == InactiveKey || p.Reason == ExpiredKey)
	switch {
	case stays && p.Reason == Allowed:
		out.Reason = MissingCredential // the route was public, and is no more
	case stays:
		out.Reason = p.Reason
	}
	for _, step := range c.Explain().Steps {
		if step.Name == "route" || !stays && (step.Verdict == StepRefused || step.Verdict == StepShadow) {
			out.Rule = step.Rule
		}
	}
	return out
}

// pastKey is the key of a past decision in a state in which its policies judged it; any key for a
// request without one.
func pastKey(p Past, k *keys.Key) *keys.Key {
	if k == nil {
		return &keys.Key{ID: "replay", LimitID: "replay", API: p.API, Status: keys.Active}
	}
	was := *k
	was.Status, was.ExpiresAt, was.RetiresAt = keys.Active, time.Time{}, time.Time{}
	return &was
}

// arriveAgain has a request arrive where the key was accepted, with a secret of the key and the
// client's address in their places.
func (a *API) arriveAgain(r *Request, p Past, k *keys.Key) {
	prefix := ""
	if e, _ := a.spec.Environment(k.Environment); e != nil {
		prefix = e.Prefix
		e.arrives(r)
	} else if len(a.spec.Prefixes) > 0 {
		prefix = a.spec.Prefixes[0]
	}
	a.spec.Address.put(r, p.Address)
	a.spec.Credentials.put(r, keys.NewSecret(prefix))
}
