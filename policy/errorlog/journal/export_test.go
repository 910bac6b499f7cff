package journal

import "time"

// WithTicks has Run write when a tick comes.
func (w *Writer) WithTicks(ticks <-chan time.Time) *Writer {
	w.ticks = func() (<-chan time.Time, func()) { return ticks, func() {} }
	return w
}

// What the scripts count beside the texts.
const PerEntry, PerList = perEntry, perList
