package extauthz

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy/limits/counters"
)

// limitCollector reads the counts of the leases at each scrape, so that a check
// counts nothing twice.
type limitCollector struct {
	leases *counters.Leases

	spends, trips, held, stranded, jumps, entries *prometheus.Desc
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
	out <- prometheus.MustNewConstMetric(c.held, prometheus.GaugeValue, float64(s.Held))
	out <- prometheus.MustNewConstMetric(c.entries, prometheus.GaugeValue, float64(s.Keys))
}
