//go:build !race

package keys

const raceDetector = false
