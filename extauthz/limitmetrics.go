package extauthz

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy/limits/counters"
)

// limitCollector reads the counts of the leases at each scrape, so that a check
// counts nothing twice.
type limitCollector struct {
	leases *counters.Leases

	spends, trips, held, stranded, jumps, entries, slots *prometheus.Desc
}

// RegisterLimits registers the metrics of the leases.
func RegisterLimits(r prometheus.Registerer, l *counters.Leases) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r.MustRegister(&limitCollector{
		leases:   l,
		spends:   desc("tollgate_limit_spends_total", "Where limits were spent or read: lease is leased units, refusal a refusal that is remembered, reading counters seen within a second, store a call of the store, those that only give units back included.", "from"),
		trips:    desc("tollgate_limit_trips_total", "Round trips to the store that the calls shared."),
		held:     desc("tollgate_limit_units_held", "Leased units that are not spent yet."),
		stranded: desc("tollgate_limit_units_stranded_total", "Units that may stay charged until their windows end although nothing spent them, because a reply of the store was lost."),
		jumps:    desc("tollgate_limit_clock_jumps_total", "Jumps of the store's clock, there and back counted as two: half a second or more against the monotonic clock of this server."),
		slots:    desc("tollgate_limit_slots_total", "Slots of requests under way by what became of them: taken; full: a request got none; held: one that goes on; released; gone: to be released, and at its end or released before; ended by themselves, seen when their place was needed; lost: the store could not be told.", "outcome"),
		entries:  desc("tollgate_limit_entries", "Limit ids of which something is remembered."),
	})
}

// Describe implements prometheus.Collector.
func (c *limitCollector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect implements prometheus.Collector.
func (c *limitCollector) Collect(out chan<- prometheus.Metric) {
	s := c.leases.Stats()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	counter(c.spends, s.Lease, "lease")
	counter(c.spends, s.Refusal, "refusal")
	counter(c.spends, s.Reading, "reading")
	counter(c.spends, s.Calls, "store")
	counter(c.trips, s.Trips)
	counter(c.stranded, s.Stranded)
	counter(c.jumps, s.Jumps)
	slots := c.leases.Slots()
	counter(c.slots, slots.Taken, "taken")
	counter(c.slots, slots.Full, "full")
	counter(c.slots, slots.Held, "held")
	counter(c.slots, slots.Released, "released")
	counter(c.slots, slots.Gone, "gone")
	counter(c.slots, slots.Ended, "ended")
	counter(c.slots, slots.Lost, "lost")
	out <- prometheus.MustNewConstMetric(c.held, prometheus.GaugeValue, float64(s.Held))
	out <- prometheus.MustNewConstMetric(c.entries, prometheus.GaugeValue, float64(s.Keys))
}

// slotCollector tells at each scrape what keeps slots from being released.
type slotCollector struct {
	troubles func() []SlotTrouble
	problem  *prometheus.Desc
}

// RegisterSlots registers the metric of what is wrong with how requests under way are followed, as
// troubles tells.
func RegisterSlots(r prometheus.Registerer, troubles func() []SlotTrouble) {
	r.MustRegister(&slotCollector{troubles, prometheus.NewDesc("tollgate_concurrency_problem",
		"1 for each problem with requests under way: no_log (the API limits them, and no access-log entry of it has arrived), expired (more than 1 % of all slots end by themselves), denied (the store's user may not take slots).",
		[]string{"api", "problem"}, nil)})
}

// Describe implements prometheus.Collector.
func (c *slotCollector) Describe(out chan<- *prometheus.Desc) { out <- c.problem }

// Collect implements prometheus.Collector.
func (c *slotCollector) Collect(out chan<- prometheus.Metric) {
	for _, t := range c.troubles() {
		out <- prometheus.MustNewConstMetric(c.problem, prometheus.GaugeValue, 1, t.API, t.Problem)
	}
}
