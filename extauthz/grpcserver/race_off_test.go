//go:build !race

package extauthz

// Race says that the race detector is on.
const Race = false
