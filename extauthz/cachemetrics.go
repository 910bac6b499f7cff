package extauthz

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy/keys/cache"
)

// cacheCollector reads the counts of a key cache at each scrape, so that a check
// counts nothing twice.
type cacheCollector struct {
	cache *cache.Cache
	usage *cache.Usage

	lookups, refreshes, overtaken, evictions, changes, entries, generation, listening, silence, ages *prometheus.Desc
}

// RegisterCache registers the metrics of the cache and, unless it is nil, of the
// usage of its keys.
func RegisterCache(r prometheus.Registerer, c *cache.Cache, u *cache.Usage) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r.MustRegister(&cacheCollector{
		cache: c, usage: u,
		lookups:    desc("tollgate_key_lookups_total", "Look-ups of keys by outcome: hit and refusal were answered from memory, miss and revalidation by the store, stale although the store did not answer; busy were refused without asking it, because the caller had asked about too many unknown keys.", "outcome"),
		refreshes:  desc("tollgate_key_refreshes_total", "Keys in use that were read again before they were too old. No check waited for it."),
		overtaken:  desc("tollgate_key_readings_discarded_total", "Records read again because a change arrived meanwhile."),
		evictions:  desc("tollgate_key_cache_evictions_total", "Keys dropped from memory for room."),
		changes:    desc("tollgate_key_changes_total", "Changes of keys that arrived."),
		entries:    desc("tollgate_key_cache_entries", "What is in memory: keys, and secrets that are refused.", "kind"),
		generation: desc("tollgate_key_cache_generation", "Counts the moments at which changes could have been lost, after which every key is read again."),
		listening:  desc("tollgate_key_stream_up", "1 while changes of keys arrive; else they are seen after the TTL."),
		silence:    desc("tollgate_key_stream_silence_seconds", "Time since anything was heard on the stream of changes."),
		ages:       desc("tollgate_key_age_days", "Ages of the keys that were used in the last minute.", "api"),
	})
}

// Describe implements prometheus.Collector.
func (c *cacheCollector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect implements prometheus.Collector.
func (c *cacheCollector) Collect(out chan<- prometheus.Metric) {
	s := c.cache.Stats()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter(c.lookups, s.Hits, "hit")
	counter(c.lookups, s.Refusals, "refusal")
	counter(c.lookups, s.Misses, "miss")
	counter(c.lookups, s.Revalidations, "revalidation")
	counter(c.lookups, s.Stale, "stale")
	counter(c.lookups, s.Busy, "busy")
	counter(c.refreshes, s.Refreshes)
	counter(c.overtaken, s.Overtaken)
	counter(c.evictions, s.Evictions)
	counter(c.changes, s.Changes)
	gauge(c.entries, float64(s.Keys), "key")
	gauge(c.entries, float64(s.Unknown), "refusal")
	gauge(c.generation, float64(s.Generation))
	listening := 0.0
	if s.Stream.Listening {
		listening = 1
	}
	gauge(c.listening, listening)
	gauge(c.silence, s.Stream.Silent.Seconds())
	if c.usage == nil {
		return
	}
	for api, a := range c.usage.Ages() {
		out <- prometheus.MustNewConstHistogram(c.ages, a.Count, a.Days, a.Buckets, api)
	}
}
