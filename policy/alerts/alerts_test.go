package alerts_test

import (
	"slices"
	"testing"
	"time"

	"tollgate/policy/alerts"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

func month(limit int64) []limits.Window {
	return []limits.Window{{Name: "month", Limit: limit, Per: limits.Month, Quota: true}}
}

func reached(spent, held, limit int64) []alerts.Quota {
	k := &keys.Key{ID: "key_0001", API: "jobs", Team: "acme", Plan: "free", LimitID: "key_0000"}
	reset := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	return alerts.Reached(k, []int{50, 75, 90, 100}, month(limit), []limits.State{{Spent: spent, Reset: reset}}, []int64{held}, reset.Add(-time.Hour))
}

// A threshold is reached when exactly so much is spent, and leased units are not.
func TestReached(t *testing.T) {
	for _, c := range []struct{ spent, held, limit, want int64 }{
		{0, 0, 1000, 0}, {499, 0, 1000, 0}, {500, 0, 1000, 50}, {749, 0, 1000, 50}, {750, 0, 1000, 75}, {750, 1, 1000, 50},
		{999, 0, 1000, 90}, {1000, 0, 1000, 100}, {1500, 0, 1000, 100}, {1, 0, 3, 0}, {2, 0, 3, 50}, {3, 0, 3, 100},
		{limits.MaxLimit, 0, limits.MaxLimit, 100}, {0, 0, 0, 0}, {1, 0, 0, 0},
	} {
		got := int64(0)
		for _, q := range reached(c.spent, c.held, c.limit) {
			got = int64(q.Percent)
		}
		if got != c.want {
			t.Errorf("%d of %d, %d of it leased: %d, want %d", c.spent, c.limit, c.held, got, c.want)
		}
	}
}

// Limits of a minute or an hour are not watched, and one that allows nothing is not either.
func TestWatched(t *testing.T) {
	var all []limits.Window
	for _, per := range []limits.Unit{limits.Second, limits.Minute, limits.Hour, limits.Day, limits.Month} {
		all = append(all, limits.Window{Name: per.String(), Limit: 5, Per: per}, limits.Window{Name: "no_" + per.String(), Per: per})
	}
	var got []string
	for _, w := range alerts.Watched(all) {
		got = append(got, w.Name)
	}
	if !slices.Equal(got, []string{"day", "month"}) {
		t.Errorf("%q", got)
	}
}

// The message says which key, and is known by its window and threshold.
func TestMessage(t *testing.T) {
	q := reached(760, 0, 1000)[0].Alert()
	const want = `{"type":"quota.reached","timestamp":"2026-11-30T23:00:00Z","data":{"api":"jobs","team":"acme","key":"key_0001","plan":"free",` +
		`"limit":"month","per":"month","percent":75,"spent":760,"size":1000,"resets":"2026-12-01T00:00:00Z"}}`
	if got := string(q.Message()); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := q.Marks; !slices.Equal(got, []string{"key_0000/month/month/1796083200/75", "key_0000/month/month/1796083200/50"}) {
		t.Errorf("%q", got)
	}
	again, other := reached(899, 0, 1000)[0].Alert(), reached(900, 0, 1000)[0].Alert()
	if q.ID() != again.ID() || q.ID() == other.ID() || len(q.ID()) != len("msg_")+32 {
		t.Errorf("%s, %s, %s", q.ID(), again.ID(), other.ID())
	}
}
