package policy

import "tollgate/policy/limits"

// PlanWindows returns the windows of all keys of a plan, as the API holds them.
func PlanWindows(a *API, plan string) []limits.Window { return a.spec.Plans[plan].All.Windows }

// Resembles reports whether a secret has the form of the API's keys.
func Resembles(a *API, secret string) bool { return a.resembles(secret) }
