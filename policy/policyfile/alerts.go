package policyfile

import (
	"slices"
	"strings"
	"time"

	"tollgate/policy"
	"tollgate/policy/limits"
)

// mostLearned is how many days networks are known for: longer, nobody would ever be told.
const mostLearned = 90

// maxQuotaAlerts bounds what a key may be told of in a window.
const maxQuotaAlerts = 10

// alerts gives the API what somebody is told of, and plans the thresholds of their limits per day
// and month.
func (c *compiler) alerts() {
	in, a := c.doc.Alerts, &c.spec.Alerts
	a.ExpiringWithin = c.days("alerts.expiring_within_days", in.ExpiringDays, 366)
	a.RotateAfter = c.days("alerts.rotate_after_days", in.RotateDays, 3650)
	a.UnusedFor = c.days("alerts.unused_for_days", in.UnusedDays, 366)
	c.rates(in, a)
	if a.ReleasesLost = in.ReleasesLost; in.ReleasesLost && !c.limitsConcurrency() {
		c.fault("alerts.releases_lost", "no plan limits concurrent requests")
	}
	if days := in.NewNetworkAfterDays; days != nil {
		if *days < 0 || *days > mostLearned {
			c.fault("alerts.new_network_after_days", "%d days: want 0 to %d", *days, mostLearned)
		}
		a.NewNetworks = policy.NewNetworks{Told: true, AfterDays: *days}
	}
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

// The fewest requests within ten minutes that an alert about them needs, where a policy says
// nothing, and the most that it may ask for.
const (
	leastEnded, leastDenied = 50, 100
	mostRequests            = 1_000_000
)

// rates reads when somebody is told of how many requests fail or are refused.
func (c *compiler) rates(in alertsIn, a *policy.Alerts) {
	number := func(place string, in *int, otherwise, least, most int) int {
		n := otherwise
		if in != nil {
			n = *in
		} else if n == 0 {
			section, field, _ := strings.Cut(strings.TrimPrefix(place, "alerts."), ".")
			c.fault("alerts."+section, "%s without %s", section, field)
			return 0
		}
		if n < least || n > most {
			c.fault(place, "%d: want %d to %d", n, least, most)
		}
		return n
	}
	if e := in.ErrorRate; e != nil {
		a.ErrorRate.Percent = number("alerts.error_rate.percent", e.Percent, 0, 1, 100)
		a.ErrorRate.Requests = number("alerts.error_rate.requests", e.Requests, leastEnded, 1, mostRequests)
	}
	if d := in.DeniedSpike; d != nil {
		a.DeniedSpike.Times = number("alerts.denied_spike.times", d.Times, 0, 2, 1000)
		a.DeniedSpike.Requests = number("alerts.denied_spike.requests", d.Requests, leastDenied, 1, mostRequests)
	}
}
