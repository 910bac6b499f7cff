package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"tollgate/extauthz"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// usageCounts is what counts usage and keeps it in the store.
type usageCounts struct {
	log     *extauthz.BoundedLog
	counter *usage.Counter
	writer  *ledger.Writer
	roller  *ledger.Roller
}

// newUsage makes the counter, which tells so many keys apart, and what is behind it.
func (v *service) newUsage(keys int) *usageCounts {
	u := &usageCounts{log: extauthz.NewBoundedLog(v.log), counter: usage.NewCounter(keys, v.policies.FindRoute)}
	u.writer = ledger.NewWriter(v.storage.Client, u.counter, time.Now)
	u.roller = ledger.NewRoller(v.storage.Client, v.policies.UsageOf, nil)
	extauthz.RegisterUsage(v.registry, u.counter, u.writer, u.roller)
	return u
}

// run writes and folds until ctx ends, and then writes what is left.
func (u *usageCounts) run(ctx context.Context) {
	var work sync.WaitGroup
	defer u.log.End()
	defer work.Wait()
	work.Go(func() {
		u.writer.Run(ctx, func(err error) {
			u.log.Log(ctx, slog.LevelWarn, "usage was not written; it is tried again", slog.Any("error", err))
		})
	})
	work.Go(func() {
		u.roller.Run(ctx, func(err error) {
			u.log.Log(ctx, slog.LevelWarn, "days of usage were not folded into months; it is tried again", slog.Any("error", err))
		})
	})
}
