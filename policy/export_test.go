package policy

import (
	"net/netip"

	"tollgate/policy/limits"
)

// PlanWindows returns the windows of all keys of a plan, as the API holds them.
func PlanWindows(a *API, plan string) []limits.Window { return a.spec.Plans[plan].All.Windows }

// Resembles reports whether a secret has the form of the API's keys.
func Resembles(a *API, secret string) bool { return a.resembles(secret) }

// ClientAddress returns the address of a request's client.
func ClientAddress(a *API, r *Request) netip.Addr { return a.spec.Address.of(r) }
