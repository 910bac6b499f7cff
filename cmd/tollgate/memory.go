package main

import (
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// gcPercent is GOGC. A server whose live heap is small would otherwise collect
	// it a hundred times a second.
	gcPercent = 400
	// The memory that the collector may use before it works harder: some for the
	// server, and for each key that may be in memory twice what it takes.
	memoryBase   = 128 << 20
	memoryPerKey = 600
	// memoryShare is what the Go runtime may have of a container's memory.
	memoryShare = 0.9
)

// tuneMemory sets what GOGC and GOMEMLIMIT would, where they are not set: memory for
// fewer collections, within what cacheKeys keys and the container allow.
func tuneMemory(cacheKeys int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(cacheKeys, memlimit.FromCgroup))
	}
}

// memoryLimit is in bytes. An error of container means that there is none, or none
// that can be read.
func memoryLimit(cacheKeys int, container func() (uint64, error)) int64 {
	limit := int64(memoryBase) + int64(cacheKeys)*memoryPerKey
	if most, err := container(); err == nil && most > 0 {
		limit = min(limit, int64(float64(most)*memoryShare))
	}
	return limit
}
