package usage_test

import (
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/usage"
)

// What is kept of each kind, on the 29th of November at noon: two days by hour, October by day
// until 35 days after its end, months since October of last year.
func TestToldFrom(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		by         usage.By
		from, told string
	}{
		{usage.ByHour, "2026-11-29", "2026-11-29"},
		{usage.ByHour, "2026-11-27", "2026-11-27"}, // folded 48 h after its end, at the end of today
		{usage.ByHour, "2026-11-26", "2026-11-27"},
		{usage.ByDay, "2026-11-10", "2026-11-10"},
		{usage.ByDay, "2026-10-10", "2026-10-10"},
		{usage.ByDay, "2026-09-30", "2026-10-01"},
		{usage.ByDay, "2026-09-01", "2026-10-01"},
		{usage.ByRoute, "2026-09-02", "2026-10-01"}, // in the middle of a month
		{usage.ByRoute, "2026-09-01", "2026-09-01"},
		{usage.ByMonth, "2025-10-01", "2025-10-01"},
		{usage.ByMonth, "2025-09-01", "2026-10-01"},
		{usage.ByKey, "2020-01-01", "2026-10-01"},
		{usage.ByStatus, "2026-11-29", "2026-11-29"},
	} {
		from, err := time.Parse(time.DateOnly, c.from)
		if err != nil {
			t.Fatal(err)
		}
		q := usage.Question{By: c.by, From: usage.HourOf(from), To: usage.DayOf(now)}
		if told := q.ToldFrom(policy.DefaultUsage(), now).Start().Format(time.DateOnly); told != c.told {
			t.Errorf("by %s from %s: told from %s, want %s", c.by, c.from, told, c.told)
		}
	}
	// The last moment of a day by hour, and of a month by day, and the one after.
	q := usage.Question{By: usage.ByHour, From: usage.HourOf(now.AddDate(0, 0, -2))}
	for _, c := range []struct {
		now  time.Time
		told bool
	}{
		{time.Date(2026, 11, 29, 23, 59, 59, 0, time.UTC), true},
		{time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC), false},
	} {
		if told := q.ToldFrom(policy.DefaultUsage(), c.now) == q.From.Day(); told != c.told {
			t.Errorf("at %s: %v", c.now, told)
		}
	}
}
