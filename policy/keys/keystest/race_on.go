//go:build race

package keystest

// RaceDetector reports whether the race detector is on. It makes sync.Pool drop values on purpose,
// so allocations cannot be counted under it.
const RaceDetector = true
