package extauthz

import (
	"context"
	"log/slog"
	"time"

	"tollgate/policy"
	"tollgate/policy/limits/counters"
)

// DecisionLog returns what logs decisions by the given clock, and what tells the rest
// at the end.
func DecisionLog(log *slog.Logger, which Decisions, now func() time.Time) (decision func(context.Context, *policy.Decision), end func()) {
	l := newDecisionLog(log, which)
	l.bounded.now = now
	return l.decision, l.end
}

// SetClock gives the log another clock, and returns what tells the floods that are over
// and what tells the rest at the end.
func (b *BoundedLog) SetClock(now func() time.Time) (over, end func()) {
	b.now = now
	return b.tellFloods, b.End
}

// ExpiredSlots returns what judges how many slots end by themselves.
func ExpiredSlots(stats func() counters.SlotStats) func(now time.Time) (bad, first bool) {
	share := &expiredShare{}
	return func(now time.Time) (bool, bool) { return share.over(stats, now) }
}
