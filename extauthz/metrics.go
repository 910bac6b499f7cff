package extauthz

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy"
	"tollgate/policy/connect"
)

// Metrics are the server's Prometheus metrics. No label ever holds a key, a key
// id or anything else that a client chooses.
type Metrics struct {
	decisions      *prometheus.CounterVec
	shadowed       *prometheus.CounterVec
	duration       prometheus.Histogram
	failureModes   *prometheus.CounterVec
	storeErrors    *prometheus.CounterVec
	corruptRecords prometheus.Counter
	panics         prometheus.Counter
	grpcRefused    *prometheus.CounterVec
	httpRefused    *prometheus.CounterVec
	policyLoads    *prometheus.CounterVec
	policyRejected prometheus.Gauge
	policyAPIs     prometheus.Gauge
	changeDelay    prometheus.Histogram
	breakerOpen    *prometheus.GaugeVec
	logs           *logMetrics

	outcomes atomic.Pointer[map[outcome]prometheus.Counter] // of decisions; a map never changes
}

// NewMetrics returns the metrics, registered with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_decisions_total", Help: "Decisions by API and reason; reason allowed lets the request pass.",
		}, []string{"api", "reason"}),
		shadowed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_shadowed_total", Help: "Requests that passed only because of shadow_mode, by the reason for which they would have been denied. They are among the allowed decisions.",
		}, []string{"api", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tollgate_check_duration_seconds", Help: "Time from a check request to its decision.",
			Buckets: []float64{.00001, .00003, .0001, .0003, .001, .003, .01, .03, .1, .3},
		}),
		failureModes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_failure_mode_total", Help: "Requests decided by a plan's failure_mode because the limits could not be asked.",
		}, []string{"api", "mode"}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_store_errors_total", Help: "Store operations that failed or came too late; unvouched: look-ups of keys that the store does not know while its word does not count. A spend that failed may have been spent.",
		}, []string{"operation"}),
		corruptRecords: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollgate_corrupt_records_total", Help: "Look-ups that met an unusable key record; the log names its id.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollgate_panics_total", Help: "Calls that ended in a panic and were answered with an RPC error.",
		}),
		grpcRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_grpc_refused_total", Help: "Check requests over gRPC answered with an RPC error unread: too_large (over 9 MiB: Envoy sends request bodies), malformed.",
		}, []string{"why"}),
		httpRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_http_lane_refused_total", Help: "What the HTTP lane refused without a decision: peer (not trusted), malformed (no request), too_large (a head over 256 KiB or a body).",
		}, []string{"why"}),
		policyLoads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_policy_loads_total", Help: "Policy loads by result: ok or rejected. Rejected files count at every look until they are fixed.",
		}, []string{"result"}),
		policyRejected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollgate_policy_rejected", Help: "1 while the policy files on disk are refused and an older policy is in force.",
		}),
		policyAPIs: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollgate_policy_apis", Help: "APIs in force.",
		}),
		changeDelay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tollgate_key_change_delay_seconds", Help: "Time from the change of a key in the store to its arrival here, by both clocks.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
		}),
		breakerOpen: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tollgate_store_breaker_open",
			Help: "Servers of the store that are not asked for this operation, because they did not answer or refused it to everybody.",
		}, []string{"operation"}),
	}
	for _, o := range connect.Operations() {
		m.breakerOpen.WithLabelValues(o.String())
	}
	m.logs = newLogMetrics(r)
	r.MustRegister(m.decisions, m.shadowed, m.duration, m.failureModes, m.storeErrors, m.corruptRecords, m.panics, m.grpcRefused, m.httpRefused,
		m.policyLoads, m.policyRejected, m.policyAPIs, m.changeDelay, m.breakerOpen)
	return m
}

// GRPCRefused counts a check request that the gRPC server answered unread: too_large or
// malformed.
func (m *Metrics) GRPCRefused(why string) { m.grpcRefused.WithLabelValues(why).Inc() }

// HTTPRefused counts what the HTTP server refused without a decision: peer, malformed or
// too_large.
func (m *Metrics) HTTPRefused(why string) { m.httpRefused.WithLabelValues(why).Inc() }

// KeyChanged observes how long a change of a key took to arrive.
func (m *Metrics) KeyChanged(delay time.Duration) { m.changeDelay.Observe(delay.Seconds()) }

// BreakerChanged notes whether the store is asked.
func (m *Metrics) BreakerChanged(c connect.BreakerChange) {
	open := m.breakerOpen.WithLabelValues(c.Operation.String())
	if c.Open {
		open.Inc()
	} else {
		open.Dec()
	}
}

func (m *Metrics) decided(api *policy.API, d *policy.Decision, took time.Duration) {
	name := ""
	if api != nil {
		name = api.Name()
	}
	m.decisionsOf(outcome{name, d.Reason}).Inc()
	if d.Shadow != policy.Allowed {
		m.shadowed.WithLabelValues(name, d.Shadow.String()).Inc()
	}
	m.duration.Observe(took.Seconds())
	if mode := d.Meta("failure_mode"); mode != "" {
		m.failureModes.WithLabelValues(name, mode).Inc()
	}
}

// outcome names one series of tollgate_decisions_total.
type outcome struct {
	api    string
	reason policy.Reason
}

// decisionsOf finds a series without hashing its labels anew.
func (m *Metrics) decisionsOf(o outcome) prometheus.Counter {
	known := m.outcomes.Load()
	if known != nil && (*known)[o] != nil {
		return (*known)[o]
	}
	c := m.decisions.WithLabelValues(o.api, o.reason.String())
	more := map[outcome]prometheus.Counter{o: c}
	if known != nil {
		maps.Copy(more, *known)
	}
	m.outcomes.CompareAndSwap(known, &more) // if another goroutine was faster, the next call tries again
	return c
}
