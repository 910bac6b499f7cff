package server

import (
	"context"
	"log/slog"
	"time"

	"tollgate/extauthz"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// usageCounts is what counts usage and writes it to the store.
type usageCounts struct {
	log     *extauthz.BoundedLog
	counter *usage.Counter
	writer  *ledger.Writer
}

// newUsage makes the counter, and the writer behind it.
func (v *service) newUsage(keys int) *usageCounts {
	u := &usageCounts{log: extauthz.NewBoundedLog(v.log), counter: usage.NewCounter(keys, v.policies.FindRoute)}
	u.writer = ledger.NewWriter(v.store.Client, u.counter, time.Now)
	return u
}

// run writes until ctx ends, and then what is left.
func (u *usageCounts) run(ctx context.Context) {
	defer u.log.End()
	u.writer.Run(ctx, func(err error) {
		u.log.Log(ctx, slog.LevelWarn, "usage was not written; it is tried again", slog.Any("error", err))
	})
}
