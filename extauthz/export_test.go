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
	l := newDecisionLog(log, which, nil)
	l.bounded.now = now
	return func(ctx context.Context, d *policy.Decision) {
		check := &policy.Check{}
		*check.Decision() = *d
		l.decision(ctx, check, 0)
	}, l.end
}

// Share returns which part of the decisions with a reason is logged.
func (d Decisions) Share(r policy.Reason) float64 { return d.sample().shares[r] }

// Drawn returns how many of n decisions are drawn.
func (d Decisions) Drawn(r policy.Reason, n int) (drawn int) {
	s := d.sample()
	for range n {
		if _, ok := s.take(r); ok {
			drawn++
		}
	}
	return drawn
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
