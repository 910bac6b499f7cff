package extauthz

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy"
	"tollgate/policy/connect"
)

// Metrics are the server's Prometheus metrics. No label ever holds a key, a key
// id or anything else that a client chooses.
type Metrics struct {
	outcomes       *outcomes
	shadowed       *prometheus.CounterVec
	durations      *durations
	failureModes   *prometheus.CounterVec
	storeErrors    *prometheus.CounterVec
	corruptRecords prometheus.Counter
	panics         prometheus.Counter
	grpcRefused    *prometheus.CounterVec
	httpRefused    *prometheus.CounterVec
	policyLoads    *prometheus.CounterVec
	policyRejected prometheus.Gauge
	policyLoaded   prometheus.Gauge
	policyAPIs     prometheus.Gauge
	changeDelay    prometheus.Histogram
	breakerOpen    *prometheus.GaugeVec
	logs           *logMetrics
}

// NewMetrics returns the metrics, registered with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		outcomes: newOutcomes(), durations: newDurations(),
		shadowed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_shadowed_total", Help: "Requests that passed only because of shadow_mode, by the reason for which they would have been denied. They are among the allowed decisions.",
		}, []string{"api", "reason"}),
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
			Name: "tollgate_http_refused_total", Help: "What the server of --authz-http-address refused without a decision: peer (not trusted), malformed (no request), too_large (a head over 256 KiB or a body).",
		}, []string{"why"}),
		policyLoads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_policy_loads_total", Help: "Policy loads by result: ok or rejected. Rejected files count at every look until they are fixed.",
		}, []string{"result"}),
		policyRejected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollgate_policy_rejected", Help: "1 while the policy files on disk are refused and an older policy is in force.",
		}),
		policyLoaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollgate_policy_last_load_timestamp_seconds", Help: "When the policy in force was loaded, in seconds since 1970.",
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
	m.begin()
	m.logs = newLogMetrics(r)
	r.MustRegister(m.outcomes, m.shadowed, m.durations, m.failureModes, m.storeErrors, m.corruptRecords, m.panics, m.grpcRefused, m.httpRefused,
		m.policyLoads, m.policyRejected, m.policyLoaded, m.policyAPIs, m.changeDelay, m.breakerOpen)
	return m
}

// begin has every series whose labels are known begin at zero: a rate sees no increase in a series
// that begins with one.
func (m *Metrics) begin() {
	for _, o := range connect.Operations() {
		m.breakerOpen.WithLabelValues(o.String())
	}
	for vec, values := range map[*prometheus.CounterVec][]string{
		m.storeErrors: {storeLookup, storeUnvouched, storeSpend}, m.grpcRefused: {"too_large", "malformed"},
		m.httpRefused: {"peer", "malformed", "too_large"}, m.policyLoads: {"ok", "rejected"},
	} {
		for _, value := range values {
			vec.WithLabelValues(value)
		}
	}
}

// The operations of tollgate_store_errors_total.
const (
	storeLookup    = "lookup"
	storeUnvouched = "unvouched"
	storeSpend     = "spend"
)

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

// loaded notes the set that is about to be in force.
func (m *Metrics) loaded(set *policy.Set, now time.Time) {
	m.outcomes.follow(set)
	m.policyLoads.WithLabelValues("ok").Inc()
	m.policyRejected.Set(0)
	m.policyLoaded.Set(float64(now.UnixMilli()) / 1000)
	m.policyAPIs.Set(float64(len(set.APIs())))
}

// Decisions returns how many there were, but for those of routes and plans that no policy has had
// lately.
func (m *Metrics) Decisions() uint64 { return m.outcomes.total() }

func (m *Metrics) decided(set *policy.Set, check *policy.Check, took time.Duration) {
	m.outcomes.decision(set, check)
	m.durations.check.observe(took)
	if shadow := check.Decision().Shadow; shadow != policy.Allowed {
		m.shadowed.WithLabelValues(check.API().Name(), shadow.String()).Inc()
	}
	if mode := check.Decision().Meta("failure_mode"); mode != "" {
		m.failureModes.WithLabelValues(check.API().Name(), mode).Inc()
	}
}

// durations are the times of checks, and of what they wait for.
type durations struct {
	check *histogram
	waits []*histogram // by operation

	checks, waited *prometheus.Desc
}

// checkBounds are the classic buckets of checks and of what they wait for.
var checkBounds = [...]time.Duration{
	10 * time.Microsecond, 30 * time.Microsecond, 100 * time.Microsecond, 300 * time.Microsecond, time.Millisecond,
	3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond,
}

func newDurations() *durations {
	d := &durations{
		check:  newHistogram(checkBounds[:]),
		checks: prometheus.NewDesc("tollgate_check_duration_seconds", "Time from a check request to its decision.", nil, nil),
		waited: prometheus.NewDesc("tollgate_store_wait_seconds", "How long checks waited for the store, each for each of what it asked: lookup of a key, read of limits, spend of them. What is answered from memory is not in it.", []string{"operation"}, nil),
	}
	for range connect.Operations() {
		d.waits = append(d.waits, newHistogram(checkBounds[:]))
	}
	return d
}

// Describe implements prometheus.Collector.
func (d *durations) Describe(out chan<- *prometheus.Desc) {
	out <- d.checks
	out <- d.waited
}

// Collect implements prometheus.Collector.
func (d *durations) Collect(out chan<- prometheus.Metric) {
	out <- d.check.metric(d.checks)
	for operation, waits := range d.waits {
		out <- waits.metric(d.waited, connect.Operation(operation).String())
	}
}
