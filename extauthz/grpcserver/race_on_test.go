//go:build race

package grpcserver

// Race says that the race detector is on: it makes sync.Pool drop values on purpose, so
// allocations cannot be counted.
const Race = true
