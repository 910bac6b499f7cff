package policy

// pass lets a request through that would be refused for r, if shadow_mode is what keeps it from
// that; r may be Allowed. Without a key that may make the request, the application is told of none.
func (c *Check) pass(r Reason) Wait {
	c.decision.Shadow = r
	if c.request.TargetImmutable || !c.request.verbatim(c.request.Target) {
		c.cred.target = "" // the key stays where it is: another target could not be said, or be wrong
	}
	return c.allow()
}

// Identified reports whether the request comes with a key that may make it: what limits say, and
// shadow_mode, aside.
func (c *Check) Identified() bool { return c.key != nil && c.access == Allowed }

// limited reports whether some limit of the plan may refuse the request.
func (c *Check) limited() bool {
	if c.plan.Shadow {
		return false
	}
	for _, w := range c.spend.Windows {
		if !w.Shadow {
			return true
		}
	}
	return c.spend.Slot.ID != ""
}

// wouldExceed returns what the shadows of a plan would have refused the request for, Allowed if
// nothing: the window among them that takes longest to open again, else the requests under way.
func (c *Check) wouldExceed() Reason {
	last := -1
	for i, w := range c.spend.Windows {
		state := c.result.States[i]
		if w.WouldDeny(state, c.spend.Cost) && (last < 0 || state.Reset.After(c.result.States[last].Reset)) {
			last = i
		}
	}
	switch {
	case last >= 0:
		c.shadowLimit = c.spend.Windows[last].Name
		if c.spend.Windows[last].Quota {
			return QuotaExceeded
		}
		return RateLimited
	case c.plan.Shadow && c.spend.Slot.ID != "" && c.result.InUse > c.plan.concurrent(c.key.Limits, c.key.Extras, c.now):
		c.shadowLimit = ConcurrentLimit
		return ConcurrencyExceeded
	}
	return Allowed
}
