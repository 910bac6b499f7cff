package policy

import (
	"fmt"
	"maps"
	"slices"
)

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
