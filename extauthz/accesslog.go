package extauthz

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy"
	"tollgate/policy/errorlog"
	"tollgate/policy/usage"
)

// AccessLogEntry is what a proxy's access log says of one request that has ended, or of one that
// goes on. The proxy is believed: whoever can reach the port of the log can write any entry, so
// names may be of keys and APIs that there are not.
type AccessLogEntry struct {
	// What the decision about the request left in the proxy's metadata, see policy.Decision. All of
	// it is empty where no decision is known: the check failed, the client left during it, or it
	// was another authority's. SlotID is empty without a limit on concurrent requests, and LimitID
	// where it is the KeyID.
	DecisionID, Reason, API, Route, KeyID, Team, Plan, SlotID, LimitID string
	// RequestID is the request's x-request-id; a client can choose it unless the proxy makes it.
	RequestID string
	// Code is the HTTP status that the client got; 0 if it got none.
	Code int
	// Client is the address of the client as the proxy sees it, of a request with a Code of 500 or
	// more; invalid where it is not known.
	Client netip.Addr
	// BytesIn and BytesOut are the sizes of the two bodies, for a connection that was upgraded of
	// what it carried.
	BytesIn, BytesOut uint64
	// Start is when the request arrived, by the proxy's clock; zero if the proxy does not say.
	Start time.Time
	// Duration is from there to the last byte of the response. Envoy says 0 while the request goes
	// on.
	Duration time.Duration
	// Periodic is set while the request goes on: another entry will come.
	Periodic bool
}

// Observer is told what access logs say, from several goroutines at once. It must not wait: the
// log behind the entry does. The entry is void when it returns, and a text of it that is kept
// must be cloned (strings.Clone), or it keeps the texts of other entries in memory.
type Observer interface {
	Observed(e *AccessLogEntry)
}

// Observed follows the slot of a request, counts how it ended, notes that it failed, and hands the
// entry to whoever wants it.
func (a *Authorizer) Observed(e *AccessLogEntry) {
	a.followSlot(e)
	finished := e.Reason == policy.Allowed.String() && !e.Periodic
	if finished {
		a.metrics.outcomes.finished(a.Policy(), e)
	}
	if finished && a.counts != nil {
		a.counts.Finished(&usage.Finished{
			API: e.API, Route: e.Route, Key: e.KeyID, Team: e.Team, Start: e.Start,
			Status: e.Code, BytesIn: e.BytesIn, BytesOut: e.BytesOut, Took: e.Duration,
		})
	}
	if a.errors != nil && e.Reason == policy.Allowed.String() && !e.Periodic && e.Code >= 500 {
		a.errors.Failed(&errorlog.Failure{
			API: e.API, Route: e.Route, Key: e.KeyID, Decision: e.DecisionID, Request: e.RequestID, Code: e.Code, Client: e.Client, Ended: e.Start.Add(e.Duration),
		})
	}
	if a.observer != nil {
		a.observer.Observed(e)
	}
}

// LogKind says what an entry of an access log is.
type LogKind uint8

// The kinds of entries. Only the first three are handed to the Observer, and a foreign one only
// if it has a request id.
const (
	LogEnded     LogKind = iota // of a request that has ended, with our metadata
	LogPeriodic                 // of a request that goes on, with our metadata
	LogForeign                  // of either, without our metadata
	LogOther                    // of a log with another name
	LogOtherType                // of the begin of a request, of its upstream or of a tunnel
	LogTCP                      // of a TCP connection
	LogMalformed                // no entry but a message that could not be read
	logKinds
)

// String returns the name of the kind, as in metrics.
func (k LogKind) String() string {
	return [logKinds]string{"ended", "periodic", "foreign", "other_log", "other_type", "tcp", "malformed"}[k]
}

// LogCounts counts entries by their kind.
type LogCounts [logKinds]uint64

// Add adds other counts.
func (c *LogCounts) Add(more *LogCounts) {
	for kind, n := range more {
		c[kind] += n
	}
}

// MarshalJSON writes the counts by the names of their kinds.
func (c LogCounts) MarshalJSON() ([]byte, error) {
	named := map[string]uint64{}
	for kind, n := range c {
		named[LogKind(kind).String()] = n
	}
	return json.Marshal(named)
}

// logMetrics count what access logs say.
type logMetrics struct {
	entries [logKinds]prometheus.Counter
	streams prometheus.Gauge
	lag     prometheus.Histogram
}

func newLogMetrics(r prometheus.Registerer) *logMetrics {
	entries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollgate_access_log_entries_total",
		Help: "Entries of Envoy's access logs: ended and periodic (requests that ended or go on, with our metadata), foreign (without), other_log (a log_name other than tollgate), other_type, tcp, and messages that were malformed.",
	}, []string{"kind"})
	m := &logMetrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollgate_access_log_streams", Help: "Streams of access logs that are open.",
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tollgate_access_log_lag_seconds", Help: "Time from the end of a request to the arrival of its access-log entry, by both clocks; of the last entry of each message.",
			Buckets:                     []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	for kind := range m.entries {
		m.entries[kind] = entries.WithLabelValues(LogKind(kind).String())
	}
	r.MustRegister(entries, m.streams, m.lag)
	return m
}

// LogRead counts the entries of a message, of which the last had that lag; less than 0 is none.
func (m *Metrics) LogRead(c *LogCounts, lag time.Duration) {
	for kind, n := range c {
		if n > 0 {
			m.logs.entries[kind].Add(float64(n))
		}
	}
	if lag >= 0 {
		m.logs.lag.Observe(lag.Seconds())
	}
}

// LogStreams notes that streams of access logs were opened, or ended if it is less than 0.
func (m *Metrics) LogStreams(more int) { m.logs.streams.Add(float64(more)) }
