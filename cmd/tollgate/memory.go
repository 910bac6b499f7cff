package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// gcPercent is GOGC. A server whose live heap is small would otherwise collect
	// it a hundred times a second.
	gcPercent = 400
	// The memory that the collector may use before it works harder: some for the
	// server, and for each key that may be in memory more than twice what a plain one takes.
	memoryBase   = 128 << 20
	memoryPerKey = 600
	// Keys with long lists take more. A limit near what is in use would have the
	// collector run all the time, so it is never less than this part of that.
	memoryOfLive = 1.5
	// memoryShare is what the Go runtime may have of a container's memory.
	memoryShare = 0.9
	// memoryCheck is how often the limit is compared with what is in use.
	memoryCheck = 5 * time.Second
)

// tuneMemory sets what GOGC and GOMEMLIMIT would, where they are not set: memory for
// fewer collections, within what cacheKeys keys and the container allow. It goes on
// until ctx ends.
func tuneMemory(ctx context.Context, cacheKeys int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	tick := time.NewTicker(memoryCheck)
	defer tick.Stop()
	for {
		debug.SetMemoryLimit(memoryLimit(cacheKeys, liveHeap(), memlimit.FromCgroup))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// liveHeap is how many bytes the last collection found in use.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// memoryLimit is in bytes. An error of container means that there is none, or none
// that can be read.
func memoryLimit(cacheKeys int, live uint64, container func() (uint64, error)) int64 {
	limit := max(int64(memoryBase)+int64(cacheKeys)*memoryPerKey, int64(float64(live)*memoryOfLive))
	if most, err := container(); err == nil && most > 0 {
		limit = min(limit, int64(float64(most)*memoryShare))
	}
	return limit
}
