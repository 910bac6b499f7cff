package load

import (
	"context"
	"runtime"
	"time"
)

// pace sends the times at which calls should leave to due, until ctx ends. It
// sleeps on a thread of its own: Go's timers are late by up to a millisecond where
// nothing else runs, which would be measured as latency.
func pace(ctx context.Context, rate float64, due chan<- time.Time) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		at := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		for wait := time.Until(at); wait > 0; wait = time.Until(at) {
			sleep(wait)
		}
		select {
		case due <- at:
		case <-ctx.Done():
		}
	}
}
