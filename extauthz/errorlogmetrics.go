package extauthz

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
)

// errorLogCollector reads the counts of the error log at each scrape.
type errorLogCollector struct {
	log    *errorlog.Log
	writer *journal.Writer

	entries, more, ignored, givenBack, waiting *prometheus.Desc
}

// RegisterErrorLog registers the metrics of the error log.
func RegisterErrorLog(r prometheus.Registerer, l *errorlog.Log, w *journal.Writer) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r.MustRegister(&errorLogCollector{
		log: l, writer: w,
		entries:   desc("tollgate_error_log_entries_total", "Entries of the error log: written; failed could not be and are tried again; dropped will not be written, because the server has ended or the store holds something else in their place; unknown are of the access log alone and name no key of their API.", "outcome"),
		more:      desc("tollgate_error_log_more_total", "Requests that were refused or failed and have no entry of their own: alike had one of the same key and reason in the same second, others were beyond what an API may have.", "why"),
		ignored:   desc("tollgate_error_log_ignored_total", "Entries of the access log about failed requests that name an API, route, key or decision that there cannot be."),
		givenBack: desc("tollgate_error_log_lists_removed_total", "Lists of entries that were removed from the store, because their API had too many bytes or they were too old."),
		waiting:   desc("tollgate_error_log_waiting", "Entries that could not be written yet."),
	})
}

// Describe implements prometheus.Collector.
func (c *errorLogCollector) Describe(out chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(c, out)
}

// Collect implements prometheus.Collector.
func (c *errorLogCollector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	sampled, written := c.log.Stats(), c.writer.Stats()
	counter(c.entries, written.Written, "written")
	counter(c.entries, written.Failed, "failed")
	counter(c.entries, written.Dropped, "dropped")
	counter(c.entries, written.Unknown, "unknown")
	counter(c.more, sampled.Sampled, "alike")
	counter(c.more, sampled.Others, "others")
	counter(c.ignored, sampled.Ignored)
	counter(c.givenBack, written.GivenBack)
	out <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(written.Waiting))
}
