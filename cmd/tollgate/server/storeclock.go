package server

import (
	"log/slog"
	"time"
)

// clockJumped says that the clock of the store has jumped. A jump that ends where it began, a
// moment later, has had limits counted in another window; the lines say from when to when.
func clockJumped(log *slog.Logger) func(by time.Duration, total uint64) {
	return func(by time.Duration, total uint64) {
		log.Warn("the store's clock has jumped: limits are counted in the windows that it shows",
			slog.String("by", by.Round(100*time.Millisecond).String()), slog.Uint64("jumps", total))
	}
}
