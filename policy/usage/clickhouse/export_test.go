package clickhouse

import (
	"strings"
	"time"
)

// SetAfter gives a Writer another clock.
func (w *Writer) SetAfter(after func(time.Duration) <-chan time.Time) { w.after = after }

// What the tests compare with.
const (
	SendInterval = sendInterval
	InsertRows   = insertRows
)

// PauseAfter is pauseAfter.
func PauseAfter(failures int) time.Duration { return pauseAfter(failures) }

// Statements returns the statements of Schema, one by one.
func Statements() []string {
	var all []string
	for statement := range strings.SplitSeq(schema, ";\n") {
		if statement = strings.TrimSpace(statement); statement != "" {
			all = append(all, statement)
		}
	}
	return all
}
