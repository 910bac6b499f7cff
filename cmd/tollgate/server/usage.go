package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"tollgate/extauthz"
	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
	"tollgate/policy/usage/ledger"
)

// usageCounts is what counts usage and keeps it in the store. A nil one does nothing.
type usageCounts struct {
	log     *slog.Logger
	counter *usage.Counter
	writer  *ledger.Writer
	roller  *ledger.Roller
	history *clickhouse.Writer // nil for none
}

// newUsage makes the counter, which tells so many keys apart, and what is behind it; nil with
// --usage=false.
func (v *service) newUsage(s *options) *usageCounts {
	if !s.usage {
		return nil
	}
	u := &usageCounts{log: v.log, counter: usage.NewCounter(s.cacheKeys, v.policies.FindRoute)}
	u.writer = ledger.NewWriter(v.storage.Client, u.counter, time.Now)
	u.roller = ledger.NewRoller(v.storage.Client, v.policies.UsageOf, nil)
	extauthz.RegisterUsage(v.registry, u.counter, u.writer, u.roller)
	if v.history != nil {
		u.history = clickhouse.NewWriter(v.history, 0)
		u.writer.Tell(u.history.Add)
		extauthz.RegisterUsageHistory(v.registry, u.history)
	}
	return u
}

// counts returns what decisions are counted by, nil for none.
func (u *usageCounts) counts() *usage.Counter {
	if u == nil {
		return nil
	}
	return u.counter
}

// run writes and folds until ctx ends, and then writes what is left: to ClickHouse in the time that
// rest gives.
func (u *usageCounts) run(ctx context.Context, rest func() (context.Context, context.CancelFunc)) {
	if u == nil {
		return
	}
	var work sync.WaitGroup
	written := make(chan struct{})
	work.Go(func() {
		defer close(written)
		trouble := troubles{log: u.log, message: "usage was not written; it is kept and tried again"}
		u.writer.Run(ctx, trouble.tell)
	})
	work.Go(func() {
		trouble := troubles{log: u.log, message: "days of usage were not folded into months; it is tried again"}
		u.roller.Run(ctx, trouble.tell)
	})
	if u.history != nil {
		work.Go(func() {
			trouble := troubles{log: u.log, message: "usage was not sent to ClickHouse; it is kept and tried again"}
			u.history.Run(ctx, trouble.tell)
			<-written // which gave it the last
			limited, cancel := rest()
			defer cancel()
			if err := u.history.Finish(limited); err != nil {
				u.log.Warn("usage was not sent to ClickHouse, which lacks it now", slog.Any("error", err))
			}
		})
	}
	work.Wait()
}

// troubles warns of what fails again and again: at once, and then once a minute. One goroutine uses
// it.
type troubles struct {
	log     *slog.Logger
	message string
	told    time.Time
	untold  int
}

func (t *troubles) tell(err error) {
	if time.Since(t.told) < time.Minute {
		t.untold++
		return
	}
	t.log.Warn(t.message, slog.Any("error", err), slog.Int("not_logged", t.untold))
	t.told, t.untold = time.Now(), 0
}
