//go:build race

package keys

// The race detector makes sync.Pool drop values on purpose, so allocations cannot be counted under it.
const raceDetector = true
