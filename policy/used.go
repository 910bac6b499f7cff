package policy

import "time"

// DefaultSlowAfter is how long a request takes that counts as slow where a policy says nothing.
const DefaultSlowAfter = time.Second

// Route returns the route of the request, nil if none matched.
func (c *Check) Route() *Route { return c.route }

// Now returns when the decision began.
func (c *Check) Now() time.Time { return c.now }

// Usage says how long usage is kept, and which requests count as slow.
type Usage struct {
	SlowAfter time.Duration
	Hours     int // after its end, how long a day is told by hour
	Days      int // how long usage is told by day, at least
	Months    int // how long it is kept at all
}

// DefaultUsage is what holds where a policy says nothing.
func DefaultUsage() Usage {
	return Usage{SlowAfter: DefaultSlowAfter, Hours: 48, Days: 35, Months: 13}
}

// Usage returns what the API's policy says of usage.
func (a *API) Usage() *Usage { return &a.spec.Usage }

// Find returns what an API's and a route's names mean, nil for what the set does not have.
func (s *Set) Find(api, route string) (*API, *Route) {
	a := s.byName[api]
	if a == nil {
		return nil, nil
	}
	return a, a.spec.Routes[route]
}
