package server

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// poolCollector reads the state of the connections to the store at each scrape.
type poolCollector struct {
	pool func() *redis.PoolStats

	connections, timeouts *prometheus.Desc
}

// registerProcess registers what is known of the process: its version, and its connections to the
// store.
func registerProcess(r prometheus.Registerer, version string, client redis.UniversalClient) {
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tollgate_build_info", Help: "1; the labels say which Tollgate this is, and by which Go it was built.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	r.MustRegister(build, &poolCollector{
		pool:        client.PoolStats,
		connections: prometheus.NewDesc("tollgate_store_connections", "Open connections to the store: in_use or idle.", []string{"state"}, nil),
		timeouts:    prometheus.NewDesc("tollgate_store_connection_timeouts_total", "Times that no connection to the store became free in time: pool_size in its URL bounds them.", nil, nil),
	})
}

// Describe implements prometheus.Collector.
func (c *poolCollector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect implements prometheus.Collector.
func (c *poolCollector) Collect(out chan<- prometheus.Metric) {
	s := c.pool()
	gauge := func(n uint32, state string) {
		out <- prometheus.MustNewConstMetric(c.connections, prometheus.GaugeValue, float64(n), state)
	}
	gauge(s.TotalConns-min(s.IdleConns, s.TotalConns), "in_use")
	gauge(s.IdleConns, "idle")
	out <- prometheus.MustNewConstMetric(c.timeouts, prometheus.CounterValue, float64(s.Timeouts))
}
