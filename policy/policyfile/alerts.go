package policyfile

import (
	"slices"

	"tollgate/policy/limits"
)

// maxQuotaAlerts bounds what a key may be told of in a window.
const maxQuotaAlerts = 10

// alerts gives plans the thresholds of their limits per day and month.
func (c *compiler) alerts() {
	all := c.percents("alerts.quota", c.doc.Alerts.Quota)
	for i, in := range c.doc.Plans {
		p := c.spec.Plans[in.Name]
		if p == nil {
			continue // without limits, which is a fault
		}
		if in.Alerts.Quota == nil {
			p.QuotaAlerts = all
			continue
		}
		place := at("plans", i, "alerts.quota")
		p.QuotaAlerts = c.percents(place, in.Alerts.Quota)
		if long := func(w limits.Window) bool { return w.Per == limits.Day || w.Per == limits.Month }; len(p.QuotaAlerts) > 0 && !slices.ContainsFunc(p.All.Windows, long) {
			c.fault(place, "quota alerts of plan %q, which has no limit per day or month", in.Name)
		}
	}
}

func (c *compiler) percents(place string, in *[]int) []int {
	if in == nil {
		return nil
	}
	if len(*in) > maxQuotaAlerts {
		c.fault(place, "%d thresholds, at most %d", len(*in), maxQuotaAlerts)
		return nil
	}
	for i, percent := range *in {
		switch {
		case percent < 1 || percent > 100:
			c.fault(at(place, i, ""), "threshold %d: want 1 to 100 percent", percent)
		case i > 0 && percent <= (*in)[i-1]:
			c.fault(at(place, i, ""), "threshold %d after %d: want them ascending", percent, (*in)[i-1])
		}
	}
	return slices.Clone(*in)
}
