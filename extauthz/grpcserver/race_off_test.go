//go:build !race

package grpcserver

// Race says that the race detector is on.
const Race = false
