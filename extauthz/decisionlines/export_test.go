package decisionlines

import "time"

// SetAfter gives Run another clock.
func (l *Lines) SetAfter(after func(time.Duration) <-chan time.Time) { l.after = after }

// SetLast says how long writing may go on after the end of Run's context.
func (l *Lines) SetLast(last time.Duration) { l.last = last }
