package ledger_test

import (
	"fmt"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
)

// jobs is an API with six routes: job, which costs 1, submit, which costs 5, and r0 to r3.
func jobs() *policy.Set {
	routes := map[string]*policy.Route{"job": {Name: "job", Cost: 1}, "submit": {Name: "submit", Cost: 5}}
	for i := range 4 {
		name := fmt.Sprint("r", i)
		routes[name] = &policy.Route{Name: name, Cost: 1}
	}
	return policy.New(policy.Spec{Name: "jobs", Routes: routes, Usage: policy.DefaultUsage()})
}

func grant(id, team string) *keys.Grant {
	return keys.NewGrant(&keys.Key{ID: id, API: "jobs", Team: team, Name: "a name", LimitID: id})
}

func noon() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }
