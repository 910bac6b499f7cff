package policyfile

import (
	"slices"
	"time"

	"tollgate/policy/limits"
)

// maxQuotaAlerts bounds what a key may be told of in a window.
const maxQuotaAlerts = 10

// alerts gives the API what somebody is told of, and plans the thresholds of their limits per day
// and month.
func (c *compiler) alerts() {
	in, a := c.doc.Alerts, &c.spec.Alerts
	a.ExpiringWithin = c.days("alerts.expiring_within_days", in.ExpiringDays, 366)
	a.RotateAfter = c.days("alerts.rotate_after_days", in.RotateDays, 3650)
	a.UnusedFor = c.days("alerts.unused_for_days", in.UnusedDays, 366)
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

// days reads a span that may be left out.
func (c *compiler) days(place string, in *int, most int) time.Duration {
	if in == nil {
		return 0
	}
	if *in < 1 || *in > most {
		c.fault(place, "%d days: want 1 to %d", *in, most)
		return 0
	}
	return time.Duration(*in) * 24 * time.Hour
}
