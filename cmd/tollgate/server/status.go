package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tollgate/extauthz"
	"tollgate/policy/connect"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/standing"
)

// Status answers /livez, /readyz, /metrics and /access-logs.
type Status struct {
	Policies *extauthz.Policies
	Gatherer prometheus.Gatherer
	// Store describes the store in a few words, such as "embedded".
	Store string
	// Standing tells how the server stands to the store.
	Standing func() standing.State
	// Far measures how far away the store is, and says so if that is too far, "" if
	// it is not; nil where nobody knows.
	Far func(context.Context) string
	// Missing tells which right the store's user lacks for an operation that no request has needed
	// yet; nil where nobody looks.
	Missing func(connect.Operation) error
	// Breaker tells what of the store is not asked for the moment; nil where there is none.
	Breaker *connect.Breaker
	// Slots tells what is wrong with how requests under way are followed; nil where nobody does.
	Slots func() []extauthz.SlotTrouble
	// Logs tells what is known of access logs; nil where none are read.
	Logs func() *extauthz.LogReport
	// Stream tells whether changes of keys arrive; nil where no keys are cached.
	Stream func() cache.StreamStatus
	// Now is the clock; nil for the machine's.
	Now func() time.Time

	draining atomic.Bool
}

// Drain makes /readyz answer 503 from now on.
func (s *Status) Drain() { s.draining.Store(true) }

// Handler returns the handler of the HTTP port.
func (s *Status) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{}))
	if s.Logs != nil {
		mux.HandleFunc("GET /access-logs", s.accessLogs)
	}
	return mux
}

// ready is 200 while the server takes calls and some with a key can be answered. What
// else is wrong, as a policy file that is refused, is said and does not make it
// unready.
func (s *Status) ready(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if why := s.Unready(); why != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintf(w, "not ready: %s\n", why)
	} else {
		_, _ = fmt.Fprintln(w, "ok")
	}
	loaded, refused := s.Policies.Status()
	_, _ = fmt.Fprintf(w, "policy: %d APIs, loaded %s\n", len(s.Policies.Current().APIs()), loaded.UTC().Format(time.RFC3339))
	if refused != nil {
		_, _ = fmt.Fprintf(w, "policy: the files on disk are refused, an older policy is in force:\n%v\n", refused)
	}
	_, _ = fmt.Fprintf(w, "store: %s\n", s.Store)
	state := s.Standing()
	writeStanding(w, state, s.now())
	for _, o := range connect.Operations() {
		if err := s.Breaker.Trouble(o); err != nil {
			_, _ = fmt.Fprintf(w, "store: %s fails and is tried four times a second: %v\n", o, err)
		}
	}
	for _, o := range connect.Operations() {
		if err := s.missing(o); err != nil {
			_, _ = fmt.Fprintf(w, "store: its user may not %s (tollgate store acl server): %v\n", o, err)
		}
	}
	if s.Far != nil && state.Silent == nil {
		if far := s.Far(r.Context()); far != "" {
			_, _ = fmt.Fprintf(w, "store: far away: %s\n", far)
		}
	}
	if s.Slots != nil {
		writeSlots(w, s.Slots())
	}
	if s.Stream != nil {
		writeStream(w, s.Stream())
	}
}

func (s *Status) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

func writeSlots(w io.Writer, troubles []extauthz.SlotTrouble) {
	for _, t := range troubles {
		switch t.Problem {
		case extauthz.SlotsNoLog:
			_, _ = fmt.Fprintf(w, "concurrency: no access log has told of the end of a request of api %s; each counts for max_duration\n", t.API)
		case extauthz.SlotsDenied:
			_, _ = fmt.Fprintln(w, "concurrency: the store's user may not take slots (tollgate store acl server)")
		case extauthz.SlotsExpired:
			_, _ = fmt.Fprintln(w, "concurrency: more than 1 % of the slots end by themselves: entries of the access log are lost, or requests last longer than max_duration")
		}
	}
}

func writeStream(w io.Writer, s cache.StreamStatus) {
	switch {
	case s.Listening:
		_, _ = fmt.Fprintf(w, "key changes: listening, last heard %.1f s ago\n", s.Silent.Seconds())
	case s.Problem != "":
		_, _ = fmt.Fprintf(w, "key changes: not listening, changes are seen after the cache's TTL: %s\n", s.Problem)
	default:
		_, _ = fmt.Fprintln(w, "key changes: connecting")
	}
}

// heardLater is how much later than it last answered a look the store may have been heard by the
// stream of changes, from which stale_for counts: looks are a second apart.
const heardLater = 2 * time.Second

// Unready is why no request with a key can be answered, "" where some can. What only part of the
// requests suffer from is no reason, nor is a store that is away while the keys in memory may be
// served: to take every replica out of service would turn a partial outage into a full one.
func (s *Status) Unready() string {
	state := s.Standing()
	switch {
	case !state.Reached:
		return "the store has not been reached since the start"
	case !state.Fits && state.Pepper == nil:
		return "the store is new, and takes no writes"
	case !state.Fits:
		return "the pepper is not that of the keys in the store"
	case state.Emptied:
		return "the store was emptied"
	case state.Silent != nil && s.now().Sub(state.Answered) >= s.Policies.LongestStale()+heardLater:
		return "the store has been away for longer than any key is served without it"
	case s.missing(connect.LookUp) != nil:
		return "the store's user may not read keys"
	case s.missing(connect.Spend) != nil && !s.Policies.Current().AnswersUncounted():
		return "the store's user may not count requests, and by every plan a request must be counted"
	case state.Refuses && !s.Policies.Current().AnswersUncounted():
		return "the store takes no writes, and by every plan a request must be counted"
	}
	return ""
}

func (s *Status) missing(o connect.Operation) error {
	if s.Missing == nil {
		return nil
	}
	return s.Missing(o)
}

// writeStanding says what is not as it should be.
func writeStanding(w io.Writer, s standing.State, now time.Time) {
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	switch {
	case s.Silent != nil && s.Reached:
		line("store: not reachable, last heard %.1f s ago: %v", now.Sub(s.Answered).Seconds(), s.Silent)
	case s.Silent != nil:
		line("store: not reachable: %v", s.Silent)
	}
	if s.Pepper != nil {
		line("keys: %s", strings.TrimPrefix(s.Pepper.Error(), "keys: "))
	}
	if s.Pepper != nil && s.Fits {
		line("keys: it was the right one when this server started; what it does not find is undecided")
	}
	if s.Emptied {
		line("store: emptied since this server knows it: known keys go on for stale_for, others are undecided. " +
			"If nothing is to come back: tollgate store accept-empty")
	}
	if s.Writes != nil {
		line("store: takes no writes: %v", s.Writes)
	}
	if s.Evicts != "" {
		line("store: drops keys and counters when its memory is full (maxmemory-policy %s): a limit can start anew; set noeviction", s.Evicts)
	}
	if s.Unseen != nil {
		line("store: its user may not see whether it was emptied or drops keys (tollgate store acl server): %v", s.Unseen)
	}
}

// standingCollector reads the standing at each scrape.
type standingCollector struct {
	status         *Status
	problem, ready *prometheus.Desc
}

// RegisterStanding registers the metrics of how the server stands to its store.
func RegisterStanding(r prometheus.Registerer, s *Status) {
	r.MustRegister(&standingCollector{
		status: s,
		problem: prometheus.NewDesc("tollgate_store_problem", "1 while the store has the problem: unreached (since the start), silent, pepper (not that of the keys), "+
			"emptied, writes (takes none), evicts (drops keys when its memory is full), unseen (its user may not see some of these).", []string{"problem"}, nil),
		ready: prometheus.NewDesc("tollgate_ready", "1 while requests with a key can be answered, as /readyz and gRPC health say.", nil, nil),
	})
}

// Describe implements prometheus.Collector.
func (c *standingCollector) Describe(out chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(c, out)
}

// Collect implements prometheus.Collector.
func (c *standingCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, on bool, labels ...string) {
		v := 0.0
		if on {
			v = 1
		}
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.status.Standing()
	gauge(c.problem, !s.Reached, "unreached")
	gauge(c.problem, s.Silent != nil, "silent")
	gauge(c.problem, s.Pepper != nil, "pepper")
	gauge(c.problem, s.Emptied, "emptied")
	gauge(c.problem, s.Writes != nil, "writes")
	gauge(c.problem, s.Evicts != "", "evicts")
	gauge(c.problem, s.Unseen != nil, "unseen")
	gauge(c.ready, c.status.Unready() == "")
}
