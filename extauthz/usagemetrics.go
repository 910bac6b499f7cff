package extauthz

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
	"tollgate/policy/usage/ledger"
)

// usageCollector reads the counts of usage at each scrape, so that a check counts nothing twice.
type usageCollector struct {
	counter *usage.Counter
	writer  *ledger.Writer
	roller  *ledger.Roller

	keys, others, ignored, writes, lost, waiting, folded, broken *prometheus.Desc
}

// RegisterUsage registers the metrics of usage.
func RegisterUsage(r prometheus.Registerer, c *usage.Counter, w *ledger.Writer, l *ledger.Roller) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r.MustRegister(&usageCollector{
		counter: c, writer: w, roller: l,
		keys:    desc("tollgate_usage_keys", "Keys whose usage is counted in memory and not taken to be written yet."),
		others:  desc("tollgate_usage_other_keys_requests_total", "Requests, and entries of the access log, that were counted for their API instead of their key, because there were too many keys."),
		ignored: desc("tollgate_usage_log_entries_ignored_total", "Entries of the access log that name an API, route or key that there cannot be."),
		writes:  desc("tollgate_usage_writes_total", "What a key did on a day, written to the store: added; uncertain were added and may have been before, because a reply was lost; failed are tried again.", "outcome"),
		lost:    desc("tollgate_usage_lost_total", "What a key did on a day and will not be written: late came when the day was folded, unknown is of the access log alone and names a key that nobody has seen that day, broken found something else in its place.", "why"),
		waiting: desc("tollgate_usage_waiting", "Days of keys that could not be written yet."),
		folded:  desc("tollgate_usage_folded_total", "Days of keys that were folded into their months."),
		broken:  desc("tollgate_usage_broken_months_total", "Records of months that could not be read, and were left as they are."),
	})
}

// Describe implements prometheus.Collector.
func (c *usageCollector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect implements prometheus.Collector.
func (c *usageCollector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	counted, written, folded := c.counter.Stats(), c.writer.Stats(), c.roller.Stats()
	gauge(c.keys, counted.Keys)
	counter(c.others, counted.Others)
	counter(c.ignored, counted.Ignored)
	counter(c.writes, written.Added-written.Uncertain, "added")
	counter(c.writes, written.Uncertain, "uncertain")
	counter(c.writes, written.Failed, "failed")
	counter(c.lost, written.Late, "late")
	counter(c.lost, written.Unknown, "unknown")
	counter(c.lost, written.Broken, "broken")
	gauge(c.waiting, written.Waiting)
	counter(c.folded, folded.Folded)
	counter(c.broken, folded.Broken)
}

// RegisterUsageHistory registers the metrics of what is sent to ClickHouse.
func RegisterUsageHistory(r prometheus.Registerer, w *clickhouse.Writer) {
	count := func(name, help string, of func(clickhouse.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(of(w.Stats())) })
	}
	r.MustRegister(
		count("tollgate_usage_clickhouse_rows_total", "Rows of usage that ClickHouse has acknowledged.", func(s clickhouse.Stats) uint64 { return s.Rows }),
		count("tollgate_usage_clickhouse_failures_total", "Inserts that ClickHouse did not acknowledge. They are tried again.", func(s clickhouse.Stats) uint64 { return s.Failed }),
		count("tollgate_usage_clickhouse_lost_total", "What a key did on a day, each time that there was no room for it among the rows that wait. ClickHouse will not have it; the store has.", func(s clickhouse.Stats) uint64 { return s.Lost }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tollgate_usage_clickhouse_waiting_rows", Help: "Rows of usage that ClickHouse has not acknowledged yet."}, func() float64 { return float64(w.Stats().Waiting) }),
	)
}
