package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/oauth"
)

// Set is what an admin.Manager asks about keys.
var _ keys.Rules = (*Set)(nil)

// ValidateKey reports what in a key the policies do not know: its API, environment, plan, scopes or
// limits, with the nearest name that they know. Such a key would be refused at every request.
func (s *Set) ValidateKey(k *keys.Key) error {
	api, e, plan, err := s.placeOf(k)
	if err != nil {
		return err
	}
	for _, scope := range k.Scopes {
		if !api.spec.Scopes[scope] {
			return fmt.Errorf("unknown scope %q of api %q%s", scope, k.API, Suggest(scope, slices.Collect(maps.Keys(api.spec.Scopes))))
		}
	}
	p, ok := api.plan(plan)
	if !ok {
		return fmt.Errorf("unknown plan %q of api %q%s", k.Plan, k.API, Suggest(k.Plan, slices.Collect(maps.Keys(api.spec.Plans))))
	}
	if _, ok := p.windowsFor(e, ownLimits{overrides: k.Limits}, time.Time{}, nil); !ok {
		return p.overrideError(e, k)
	}
	return nil
}

// LimitsOf returns what a key spends from at a time, with the sizes that count for it then, and how
// many of its requests may be under way at once, 0 for any number. Errors: those of ValidateKey.
func (s *Set) LimitsOf(k *keys.Key, now time.Time) (windows []limits.Window, concurrent int64, err error) {
	if err := s.ValidateKey(k); err != nil {
		return nil, 0, err
	}
	api, e, plan, err := s.placeOf(k)
	if err != nil {
		return nil, 0, err
	}
	p, _ := api.plan(plan)
	windows, _ = p.windowsFor(e, ownLimits{k.Limits, k.Extras, k.AnchorDay}, now, nil)
	return slices.Clone(windows), p.concurrent(k.Limits, k.Extras, now), nil
}

// ValidateExtra refuses an extra of a limit that the key has not. The key is one that ValidateKey
// takes.
func (s *Set) ValidateExtra(k *keys.Key, x keys.Extra) error {
	windows, concurrent, err := s.LimitsOf(k, time.Time{})
	if err != nil {
		return err
	}
	var has []string
	for _, w := range windows {
		has = append(has, w.Name)
	}
	if concurrent > 0 {
		has = append(has, ConcurrentLimit)
	}
	if !slices.Contains(has, x.Name) {
		return fmt.Errorf("plan %q of api %q limits keys like this one by no %q%s", k.Plan, k.API, x.Name, Suggest(x.Name, has))
	}
	return nil
}

// ValidateLimits refuses an override by which a route that the key may use could never be allowed:
// the client would try again for ever. What the plan itself says is meant. The key is one that
// ValidateKey takes.
func (s *Set) ValidateLimits(k *keys.Key) error {
	api, e, plan, err := s.placeOf(k)
	if err != nil {
		return err
	}
	p, _ := api.plan(plan)
	if p == nil {
		return nil
	}
	for _, o := range k.Limits {
		if err := p.badPlaces(o); err != nil {
			return err
		}
		for _, w := range p.in(e).Windows {
			if w.Name != o.Name || w.Limit == o.Requests {
				continue
			}
			if err := api.neverFits(k, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// badPlaces is about an override of how many requests may be under way.
func (p *Plan) badPlaces(o keys.Override) error {
	switch {
	case !p.limitsConcurrency(o.Name) || o.Requests >= 1 && o.Requests <= limits.MaxPlaces:
		return nil
	case o.Requests == 0:
		return fmt.Errorf("limit %q of 0 would refuse every request, whenever it is tried; deactivate the key instead", o.Name)
	}
	return fmt.Errorf("limit %q of %d: want 1 to %d", o.Name, o.Requests, int64(limits.MaxPlaces))
}

// neverFits is about the first route by name that an override leaves no room for.
func (a *API) neverFits(k *keys.Key, o keys.Override) error {
	held := &keys.Grant{Profile: &keys.Profile{Scopes: k.Scopes}}
	for _, name := range slices.Sorted(maps.Keys(a.spec.Routes)) {
		route := a.spec.Routes[name]
		switch {
		case route.Public || route.Cost <= o.Requests || !a.permits(held, route):
		case o.Requests == 0:
			return fmt.Errorf("limit %q of 0 would refuse every request, whenever it is tried; deactivate the key instead", o.Name)
		default:
			return fmt.Errorf("limit %q of %d is under the cost of route %q, which is %d: no request of it could ever be allowed",
				o.Name, o.Requests, name, route.Cost)
		}
	}
	return nil
}

// KnowsIssuer reports an issuer that the API does not have, with the nearest that it has: they are
// compared byte for byte, and one is easily written with a slash too many.
func (s *Set) KnowsIssuer(api, issuer string) error {
	_, _, _, err := s.placeOf(&keys.Key{API: api, Client: keys.Client{Issuer: issuer}})
	return err
}

// placeOf returns the API, the environment and the plan of a key. A client has the environment of
// its issuer, and its plan, unless its record names one.
func (s *Set) placeOf(k *keys.Key) (a *API, e *Environment, plan string, err error) {
	if a = s.byName[k.API]; !k.IsClient() || a == nil {
		a, e, err = s.environmentOf(k.API, k.Environment)
		return a, e, k.Plan, err
	}
	i := oauth.Find(a.spec.Issuers, k.Client.Issuer)
	if i == nil {
		return nil, nil, "", fmt.Errorf("unknown issuer %q of api %q%s", k.Client.Issuer, k.API, Suggest(k.Client.Issuer, oauth.URLs(a.spec.Issuers)))
	}
	a, e, err = s.environmentOf(k.API, i.Environment)
	return a, e, cmp.Or(k.Plan, i.Plan), err
}

// environmentOf returns an API and the environment of its keys that is named so, which is nil where
// the API has none.
func (s *Set) environmentOf(api, environment string) (*API, *Environment, error) {
	a := s.byName[api]
	if a == nil {
		return nil, nil, fmt.Errorf("unknown api %q%s", api, Suggest(api, slices.Collect(maps.Keys(s.byName))))
	}
	e, ok := a.spec.Environment(environment)
	if !ok || e == nil && environment != "" {
		return nil, nil, fmt.Errorf("unknown environment %q of api %q%s", environment, api, Suggest(environment, a.Environments()))
	}
	return a, e, nil
}

// overrideError is about the first override of a key that names no limit which the plan has for
// keys of the environment. p is nil where the API has no plans.
func (p *Plan) overrideError(e *Environment, k *keys.Key) error {
	var all, has, unspent []string
	if p != nil {
		all, has, unspent = p.All.names(), p.in(e).names(), p.in(e).Exempt
		if p.Concurrent > 0 {
			all, has = append(all, ConcurrentLimit), append(has, ConcurrentLimit)
		}
	}
	for _, o := range k.Limits {
		switch {
		case slices.Contains(has, o.Name) || slices.Contains(unspent, o.Name):
		case slices.Contains(all, o.Name):
			return fmt.Errorf("limit %q of plan %q of api %q is not for keys of environment %q%s", o.Name, k.Plan, k.API, k.Environment, Suggest(o.Name, has))
		default:
			return fmt.Errorf("limits name one that plan %q of api %q does not have: %q%s", k.Plan, k.API, o.Name, Suggest(o.Name, has))
		}
	}
	return nil
}

func (a *PlanLimits) names() []string {
	names := make([]string, len(a.Windows))
	for i := range a.Windows {
		names[i] = a.Windows[i].Name
	}
	return names
}

// Cap returns the most active keys of an environment that a team may have on a plan; capped is
// false where the policy sets no such cap.
func (s *Set) Cap(api, plan, environment string) (most int, capped bool) {
	a := s.byName[api]
	if a == nil {
		return 0, false
	}
	p := a.spec.Plans[plan]
	if p == nil {
		return 0, false
	}
	most, capped = p.KeyCaps[environment]
	return most, capped
}

// Limit returns the size of a limit of a plan; known is false for a plan or a limit that there is
// not.
func (s *Set) Limit(api, plan, name string) (requests int64, known bool) {
	a := s.byName[api]
	if a == nil || a.spec.Plans[plan] == nil {
		return 0, false
	}
	if p := a.spec.Plans[plan]; p.limitsConcurrency(name) {
		return p.Concurrent, true
	}
	for _, w := range a.spec.Plans[plan].All.Windows {
		if w.Name == name {
			return w.Limit, true
		}
	}
	return 0, false
}

// HoldsSecret reports whether a text holds something of the form of a key of the API.
func (s *Set) HoldsSecret(api, text string) bool {
	a := s.byName[api]
	return a != nil && a.holdsSecret(text)
}

func (a *API) holdsSecret(text string) bool {
	for _, e := range a.spec.Environments {
		if keys.HoldsSecret(text, e.Prefix) {
			return true
		}
	}
	for _, prefix := range a.spec.Prefixes {
		if keys.HoldsSecret(text, prefix) {
			return true
		}
	}
	return len(a.spec.Environments)+len(a.spec.Prefixes) == 0 && keys.HoldsSecret(text, "")
}

// KnowsPlan reports what is wrong with a plan that a team shall have, with the nearest name that
// the API knows.
func (s *Set) KnowsPlan(api, plan string) error {
	a := s.byName[api]
	if a == nil {
		return fmt.Errorf("unknown api %q%s", api, Suggest(api, slices.Collect(maps.Keys(s.byName))))
	}
	if a.spec.Plans[plan] == nil {
		return fmt.Errorf("unknown plan %q of api %q%s", plan, api, Suggest(plan, slices.Collect(maps.Keys(a.spec.Plans))))
	}
	return nil
}

// Prefix returns what new secrets of an environment start with: the prefix of the environment, else
// the first of the API, else "". The error names the nearest API or environment.
func (s *Set) Prefix(api, environment string) (string, error) {
	a, e, err := s.environmentOf(api, environment)
	switch {
	case err != nil:
		return "", err
	case e != nil:
		return e.Prefix, nil
	case len(a.spec.Prefixes) > 0:
		return a.spec.Prefixes[0], nil
	}
	return "", nil
}

// ValidateSecret reports whether a secret could ever be accepted as that of a key: it has the form
// of its API's keys and the prefix of its environment. Errors do not show it; they say where the
// policy would have to say something else.
func (s *Set) ValidateSecret(k *keys.Key, secret string) error {
	api := s.byName[k.API]
	if api == nil {
		return s.ValidateKey(k)
	}
	e, _ := api.spec.Environment(k.Environment)
	switch {
	case e != nil && !strings.HasPrefix(secret, e.Prefix):
		return fmt.Errorf("the secret has not the prefix %q of environment %q of api %q (%s), so every request with it would be refused",
			e.Prefix, e.Name, k.API, e.PrefixAt)
	case !api.begins(secret):
		return fmt.Errorf("the secret has not the form of the keys of api %q, which begin with %s, so every request with it would be refused: "+
			"key_format.prefixes (%s) must have its prefix too", k.API, strings.Join(api.spec.Prefixes, " or "), api.spec.PrefixesAt)
	case !api.resembles(secret):
		return fmt.Errorf("the secret has not the form of the keys of api %q, which end in a checksum, so every request with it would be refused: "+
			"key_format (%s) must say checksum: optional", k.API, api.spec.ChecksumAt)
	}
	return nil
}

// begins reports whether a secret has a prefix of the API's keys, if these have one.
func (a *API) begins(secret string) bool {
	for _, p := range a.spec.Prefixes {
		if len(secret) > len(p) && strings.HasPrefix(secret, p) {
			return true
		}
	}
	return len(a.spec.Prefixes) == 0
}

// MaxAddresses returns how many addresses the list of a key may have.
func (s *Set) MaxAddresses(api string) int {
	if a := s.byName[api]; a != nil {
		return a.spec.MaxAddresses
	}
	return keys.MaxAddresses
}

// Choices returns the plans and environments that keys of an API may have, in order; none for an
// API that there is not.
func (s *Set) Choices(api string) (plans, environments []string) {
	a := s.byName[api]
	if a == nil {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(a.spec.Plans)), a.Environments()
}

// KnowsNames reports the first of the names of an API, a plan and an environment that no policy
// has, with the one that was probably meant. An empty name is any; without an API, the plan or
// environment of any API is known.
func (s *Set) KnowsNames(api, plan, environment string) error {
	all := slices.Sorted(maps.Keys(s.byName))
	if api != "" && s.byName[api] == nil {
		return fmt.Errorf("unknown api %q%s", api, Suggest(api, all))
	}
	of := ""
	if api != "" {
		all, of = []string{api}, fmt.Sprintf(" of api %q", api)
	}
	var plans, environments []string
	for _, name := range all {
		some, others := s.Choices(name)
		plans, environments = append(plans, some...), append(environments, others...)
	}
	for _, n := range []struct {
		kind, name string
		known      []string
	}{{"plan", plan, plans}, {"environment", environment, environments}} {
		if n.name != "" && !slices.Contains(n.known, n.name) {
			slices.Sort(n.known)
			return fmt.Errorf("unknown %s %q%s%s", n.kind, n.name, of, Suggest(n.name, slices.Compact(n.known)))
		}
	}
	return nil
}
