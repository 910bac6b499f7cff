package clickhouse

import "time"

// SetAfter gives a Writer another clock.
func (w *Writer) SetAfter(after func(time.Duration) <-chan time.Time) { w.after = after }

// What the tests compare with.
const (
	SendInterval = sendInterval
	InsertRows   = insertRows
)

// PauseAfter is pauseAfter.
func PauseAfter(failures int) time.Duration { return pauseAfter(failures) }
