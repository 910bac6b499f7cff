package policyfile

import (
	"time"

	"tollgate/policy"
	"tollgate/policy/limits"
)

// concurrent is how many requests of a key of the plan may be under way.
func (c *compiler) concurrent(place string, in planIn, p *policy.Plan) {
	if in.Concurrent == nil {
		return
	}
	if *in.Concurrent < 1 || *in.Concurrent > limits.MaxPlaces {
		c.fault(place, "concurrent %d: want 1 to %d; without it any number is allowed", *in.Concurrent, int64(limits.MaxPlaces))
		return
	}
	p.Concurrent, p.Exact = *in.Concurrent, true
}

func (c *compiler) limitsConcurrency() bool {
	for _, p := range c.spec.Plans {
		if p.Concurrent > 0 {
			return true
		}
	}
	return false
}

// concurrency is how requests under way are followed.
func (c *compiler) concurrency() {
	in, rules := c.doc.Concurrency, &c.spec.Slots
	rules.MaxDuration = time.Minute
	if in.MaxDuration != "" {
		d, err := time.ParseDuration(in.MaxDuration)
		if err != nil || d < time.Second || d > limits.MaxHold {
			c.fault("concurrency.max_duration", "bad duration %q, want 1s to 24h", in.MaxDuration)
		}
		rules.MaxDuration = d
	}
	rules.RequestIDs = c.choice("concurrency.request_id", in.RequestID, "ignored", "trusted") == "trusted"
	rules.WithoutLog = c.choice("concurrency.without_log", in.WithoutLog, "refuse", "ttl") == "ttl"
	if c.limitsConcurrency() {
		return
	}
	if in != (concurrencyIn{}) {
		c.fault("concurrency", "no plan limits concurrent requests")
	}
	for i, route := range c.doc.Routes {
		if route.Slot != "" {
			c.fault(at("routes", i, "concurrent"), "no plan limits concurrent requests")
		}
	}
}
