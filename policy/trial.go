package policy

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"tollgate/policy/keys"
)

// Trial is a request that policies are tried with, without a proxy, a store or limits, and the key
// that it comes with.
type Trial struct {
	Method, Target string
	// Host names the API, or API does; with one API in the set neither is needed.
	Host, API string
	// Keyless: the request comes without a key.
	Keyless bool
	// Environment of the key, which also is where the request arrives unless Host says so. Default:
	// the API's first.
	Environment string
	// Scopes of the key; nil is all that the API has.
	Scopes []string
}

// Outcome is what a Trial's decision is before limits are spent, shadow_mode aside.
type Outcome struct {
	API, Route, Scope string // Route is "" when none matches, Scope when none is needed
	Cost              int64  // units of each limit that an allowed request spends, 0 on a public route
	Reason            Reason
}

// Try decides about a trial as about a request that comes with a good key of its own. An error says
// what the trial itself names and the policies do not have.
func (s *Set) Try(t Trial) (Outcome, error) {
	r := &Request{HTTP: true, Method: t.Method, Host: t.Host, Target: t.Target, TargetVerbatim: true}
	api, err := s.locate(r, t.API)
	switch {
	case err != nil:
		return Outcome{}, err
	case api == nil:
		return Outcome{Reason: UnknownAPI}, nil
	}
	key, err := api.trialKey(t, r)
	if err != nil {
		return Outcome{}, err
	}
	return api.try(s, r, key), nil
}

// locate says in r which API it is of: the one of that name, else the host's, else the only one
// there is. It returns nil for a host that no API has.
func (s *Set) locate(r *Request, name string) (*API, error) {
	if name != "" || r.Host == "" {
		r.API = Named{name, true}
		if name == "" && len(s.apis) == 1 {
			r.API.Value = s.apis[0].spec.Name
		}
	}
	api, _ := s.find(r)
	switch {
	case api == nil && r.API.Given && r.API.Value == "":
		return nil, fmt.Errorf("want host=HOST or api=API: there are %d APIs", len(s.apis))
	case api == nil && r.API.Given:
		return nil, fmt.Errorf("unknown api %q%s", r.API.Value, Suggest(r.API.Value, slices.Collect(maps.Keys(s.byName))))
	}
	return api, nil
}

func (a *API) try(s *Set, r *Request, key *keys.Grant) Outcome {
	var c Check
	d := NewDecider(keys.NewHasher(nil), nil, time.Now)
	wait := d.Begin(&c, s, r)
	if wait == WaitKey {
		wait = c.Found(*key, nil)
	}
	out := Outcome{API: a.spec.Name, Reason: c.decision.Judged()}
	if wait == WaitLimits {
		out.Reason = c.access
	}
	if c.route != nil {
		out.Route, out.Scope, out.Cost = c.route.Name, c.route.Scope, c.route.Cost
	}
	if c.route != nil && c.route.Public {
		out.Cost = 0
	}
	return out
}

// trialKey makes a key of the API, on any of its plans, and puts its secret into the request.
func (a *API) trialKey(t Trial, r *Request) (*keys.Grant, error) {
	k := &keys.Key{ID: "trial", LimitID: "trial", API: a.spec.Name, Status: keys.Active, Scopes: t.Scopes, Environment: t.Environment}
	for _, scope := range t.Scopes {
		if !a.spec.Scopes[scope] {
			return nil, fmt.Errorf("unknown scope %q of api %q%s", scope, a.spec.Name, Suggest(scope, slices.Collect(maps.Keys(a.spec.Scopes))))
		}
	}
	if t.Scopes == nil {
		k.Scopes = slices.Sorted(maps.Keys(a.spec.Scopes))
	}
	if plans := slices.Sorted(maps.Keys(a.spec.Plans)); len(plans) > 0 {
		k.Plan = plans[0]
	}
	if len(a.spec.Environments) > 0 && k.Environment == "" {
		k.Environment = a.spec.Environments[0].Name
	}
	e, ok := a.spec.Environment(k.Environment)
	if !ok || e == nil && t.Environment != "" {
		return nil, fmt.Errorf("unknown environment %q of api %q%s", k.Environment, a.spec.Name, Suggest(k.Environment, a.Environments()))
	}
	prefix := ""
	switch {
	case e != nil:
		prefix = e.Prefix
		if t.Host == "" {
			e.arrives(r)
		}
	case len(a.spec.Prefixes) > 0:
		prefix = a.spec.Prefixes[0]
	}
	if !t.Keyless {
		a.spec.Credentials.put(r, keys.NewSecret(prefix))
	}
	return keys.NewGrant(k), nil
}

// arrives makes the request one that the environment's keys are accepted for.
func (e *Environment) arrives(r *Request) {
	if e.Context != "" {
		r.Environment = Named{e.Context, true}
	} else if len(e.Hosts) > 0 {
		r.Host = e.Hosts[0]
	}
}

// put writes a secret into the first place that may hold one.
func (p *CredentialPlaces) put(r *Request, secret string) {
	switch {
	case len(p.Schemes) > 0:
		r.Headers = append(r.Headers, Header{"authorization", p.Schemes[0] + " " + secret})
	case p.Bare:
		r.Headers = append(r.Headers, Header{"authorization", secret})
	case len(p.Headers) > 0:
		r.Headers = append(r.Headers, Header{p.Headers[0], secret})
	default:
		join := "?"
		if strings.Contains(r.Target, "?") {
			join = "&"
		}
		r.Target += join + p.Queries[0] + "=" + url.QueryEscape(secret)
	}
}
