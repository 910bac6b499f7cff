package extauthz

import (
	"sync/atomic"
	"time"
)

// Connections of proxies end after a while, over gRPC and over HTTP, so that they spread
// over new replicas.
const (
	MaxConnectionAge      = 5 * time.Minute
	MaxConnectionAgeGrace = 30 * time.Second // in which what is under way ends
)

// Readiness is what health checks are told, by each server of the process. The zero
// value is ready.
type Readiness struct {
	unready  atomic.Bool
	draining atomic.Bool
}

// Set says whether proxies should send checks here. It has no effect after Drain.
func (r *Readiness) Set(ready bool) { r.unready.Store(!ready) }

// Drain says no for good: the process is leaving.
func (r *Readiness) Drain() { r.draining.Store(true) }

// Draining reports whether the process is leaving.
func (r *Readiness) Draining() bool { return r.draining.Load() }

// Serving is the answer to a health check.
func (r *Readiness) Serving() bool { return !r.unready.Load() && !r.draining.Load() }
