package extauthz

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tollgate/policy/keys"
)

// Status answers /livez, /readyz and /metrics.
type Status struct {
	Policies *Policies
	Gatherer prometheus.Gatherer
	// Store describes the store in a few words, such as "embedded".
	Store string
	// Standing tells how the server stands to the store.
	Standing func() keys.StandingState
	// Far measures how far away the store is, and says so if that is too far, "" if
	// it is not; nil where nobody knows.
	Far func(context.Context) string
	// Breaker tells what of the store is not asked for the moment; nil where there is none.
	Breaker *keys.Breaker
	// Stream tells whether changes of keys arrive; nil where no keys are cached.
	Stream func() keys.StreamStatus
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
	for _, o := range []keys.Operation{keys.LookUp, keys.ReadLimits, keys.Spend} {
		if err := s.Breaker.Trouble(o); err != nil {
			_, _ = fmt.Fprintf(w, "store: %s fails and is tried four times a second: %v\n", o, err)
		}
	}
	if s.Far != nil && state.Silent == nil {
		if far := s.Far(r.Context()); far != "" {
			_, _ = fmt.Fprintf(w, "store: far away: %s\n", far)
		}
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

func writeStream(w io.Writer, s keys.StreamStatus) {
	switch {
	case s.Listening:
		_, _ = fmt.Fprintf(w, "key changes: listening, last heard %.1f s ago\n", s.Silent.Seconds())
	case s.Problem != "":
		_, _ = fmt.Fprintf(w, "key changes: not listening, changes are seen after the cache's TTL: %s\n", s.Problem)
	default:
		_, _ = fmt.Fprintln(w, "key changes: connecting")
	}
}
