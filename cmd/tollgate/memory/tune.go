// Package memory lets the Go runtime use more memory for fewer collections, within what
// the cached keys and the container allow.
package memory

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// DefaultKeys is how many keys a server holds in memory at most, unless it is set.
	DefaultKeys = 1_000_000
	// gcPercent is the least GOGC. A server whose live heap is small would otherwise
	// collect it a hundred times a second.
	gcPercent = 400
	// A small heap may also grow to this part of the memory limit, and to this size,
	// before it is collected: each collection takes CPU time from some checks.
	heapShare = 4
	heapMost  = 128 << 20
	// The memory that the collector may use before it works harder: some for the
	// server, and for each key that may be in memory more than twice what a plain one
	// takes.
	base   = 128 << 20
	perKey = 600
	// Keys with long lists take more. A limit near what is in use would have the
	// collector run all the time, so it is never less than this part of that.
	ofLive = 1.5
	// share is what the Go runtime may have of a container's memory.
	share = 0.9
	// interval is how often the settings are compared with what is in use.
	interval = 5 * time.Second
)

// Tune sets what GOGC and GOMEMLIMIT would, each unless it is set: memory for fewer
// collections, within what cacheKeys keys and the container allow. It goes on until
// ctx ends.
func Tune(ctx context.Context, cacheKeys int) {
	ownPercent, ownLimit := os.Getenv("GOGC") == "", os.Getenv("GOMEMLIMIT") == ""
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for percent := 0; ownPercent || ownLimit; {
		live := liveHeap()
		if ownLimit {
			debug.SetMemoryLimit(limit(cacheKeys, live, memlimit.FromCgroup))
		}
		// Setting it stops the process for a moment, so small differences do not count.
		if p := percentFor(live, debug.SetMemoryLimit(-1)); ownPercent && (p > percent*5/4 || p < percent*4/5) {
			percent = p
			debug.SetGCPercent(p)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// percentFor returns the GOGC for a live heap under a memory limit, both in bytes.
func percentFor(live uint64, limit int64) int {
	if live == 0 {
		return gcPercent // nothing was collected yet
	}
	heap := float64(min(limit/heapShare, heapMost))
	return max(gcPercent, int((heap/float64(live)-1)*100))
}

// liveHeap is how many bytes the last collection found in use.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// limit is in bytes. An error of container means that there is none, or none
// that can be read.
func limit(cacheKeys int, live uint64, container func() (uint64, error)) int64 {
	bytes := max(int64(base)+int64(cacheKeys)*perKey, int64(float64(live)*ofLive))
	if most, err := container(); err == nil && most > 0 {
		bytes = min(bytes, int64(float64(most)*share))
	}
	return bytes
}
