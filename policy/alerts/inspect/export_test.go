package inspect

import (
	"context"
	"time"
)

// WithTicks has Run try when a tick comes.
func (i *Inspector) WithTicks(ticks <-chan time.Time) *Inspector {
	i.ticks = func() (<-chan time.Time, func()) { return ticks, func() {} }
	return i
}

// WithPause is called between two pages, and waits for nothing.
func (i *Inspector) WithPause(pause func(context.Context)) *Inspector {
	i.pause = pause
	return i
}

// WithBounds has pages of so many keys, and so many alerts of a look.
func (i *Inspector) WithBounds(page, most int) *Inspector {
	i.page, i.most = page, most
	return i
}
