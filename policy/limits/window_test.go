package limits

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestUnitWords(t *testing.T) {
	for _, u := range []Unit{Second, Minute, Hour, Day, Month} {
		if got, ok := ParseUnit(u.String()); got != u || !ok {
			t.Errorf("ParseUnit(%q) = %v, %v", u.String(), got, ok)
		}
	}
	for _, s := range []string{"", "Second", "week", "unknown", "minutes"} {
		if got, ok := ParseUnit(s); ok {
			t.Errorf("ParseUnit(%q) = %v, want none", s, got)
		}
	}
	if Unit(0).String() != "unknown" || Unit(6).String() != "unknown" {
		t.Error("a value that is no unit has a name")
	}
}

// calendarBounds is Bounds by the standard library's calendar, the other way to say the same.
func calendarBounds(w Window, now time.Time) (start, end time.Time) {
	now = now.UTC()
	year, month, day := now.Date()
	hour, minute, second := now.Clock()
	switch w.Per {
	case Second:
		start = time.Date(year, month, day, hour, minute, second, 0, time.UTC)
		return start, start.Add(time.Second)
	case Minute:
		start = time.Date(year, month, day, hour, minute, 0, 0, time.UTC)
		return start, start.Add(time.Minute)
	case Hour:
		start = time.Date(year, month, day, hour, 0, 0, 0, time.UTC)
		return start, start.Add(time.Hour)
	case Day:
		start = time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
		return start, start.AddDate(0, 0, 1)
	}
	begins := func(month time.Month) time.Time {
		last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
		return time.Date(year, month, min(max(w.Anchor, 1), last), 0, 0, 0, 0, time.UTC)
	}
	if now.Before(begins(month)) {
		month--
	}
	return begins(month), begins(month + 1)
}

func TestBoundsAreTheCalendars(t *testing.T) {
	check := func(w Window, now time.Time) {
		t.Helper()
		start, end := w.Bounds(now)
		wantStart, wantEnd := calendarBounds(w, now)
		if !start.Equal(wantStart) || !end.Equal(wantEnd) {
			t.Fatalf("%+v at %v: %v to %v, want %v to %v", w, now, start, end, wantStart, wantEnd)
		}
		if start.Location() != time.UTC || end.Location() != time.UTC {
			t.Fatalf("%+v: bounds are not in UTC", w)
		}
	}
	// Every day around the ends of two common centuries, and around 2000, at its first and last
	// second.
	for _, century := range []int{1900, 2000, 2100} {
		first, last := time.Date(century-5, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(century+5, 1, 1, 0, 0, 0, 0, time.UTC)
		for day := first; day.Before(last); day = day.AddDate(0, 0, 1) {
			for anchor := 0; anchor <= 31; anchor++ {
				w := Window{Per: Month, Anchor: anchor}
				check(w, day)
				if anchor >= 28 {
					check(w, day.Add(24*time.Hour-1))
				}
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := Window{
			Per:    Unit(rapid.IntRange(int(Second), int(Month)).Draw(rt, "per")),
			Anchor: rapid.IntRange(0, 31).Draw(rt, "anchor"),
		}
		zone := time.FixedZone("", rapid.IntRange(-14*3600, 14*3600).Draw(rt, "zone"))
		check(w, time.Unix(rapid.Int64Range(-60e9, 250e9).Draw(rt, "now"), rapid.Int64Range(0, 999_999_999).Draw(rt, "ns")).In(zone))
	})
}

func TestBoundsOfNoUnit(t *testing.T) {
	for _, per := range []Unit{0, 6, 255} {
		if start, end := (Window{Per: per}).Bounds(time.Now()); !start.IsZero() || !end.IsZero() {
			t.Errorf("unit %d: %v to %v, want none", per, start, end)
		}
	}
}

func TestDeniesAndRemaining(t *testing.T) {
	for _, c := range []struct {
		limit, spent, cost int64
		denies             bool
		remaining          int64
	}{
		{10, 0, 10, false, 10},
		{10, 0, 11, true, 10},
		{10, 9, 1, false, 1},
		{10, 10, 0, false, 0},
		{10, 10, 1, true, 0},
		{10, 11, 0, true, 0}, // the limit was lowered
		{0, 0, 0, true, 0},
		{0, 0, 1, true, 0},
		{-1, 0, 0, true, 0},
		{10, 0, -1, true, 10},
		{math.MaxInt64, math.MaxInt64, 1, true, 0}, // the sum would overflow
		{math.MaxInt64, 1, math.MaxInt64, true, math.MaxInt64 - 1},
		{10, 5, math.MaxInt64, true, 5},
		{10, -5, 1, false, 0}, // no store returns it; left is never more than the limit
	} {
		w, s := Window{Limit: c.limit}, State{Spent: c.spent}
		if got := w.Denies(s, c.cost); got != c.denies {
			t.Errorf("%+v: Denies = %v", c, got)
		}
		if got := w.Remaining(s); got != c.remaining {
			t.Errorf("%+v: Remaining = %v", c, got)
		}
	}
}

func TestTightest(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	ws := []Window{{Limit: 10}, {Limit: 5}, {Limit: 100}}
	for _, c := range []struct {
		about string
		ss    []State
		want  int
	}{
		{"fewest remaining", []State{{8, at(60)}, {1, at(60)}, {99, at(60)}}, 2},
		{"a tie: the later reset", []State{{9, at(60)}, {4, at(3600)}, {99, at(86400)}}, 2},
		{"a tie, the later reset first", []State{{9, at(3600)}, {4, at(60)}, {0, at(86400)}}, 0},
		{"a full tie: the first", []State{{9, at(60)}, {4, at(60)}, {0, at(60)}}, 0},
		{"overspent is none left, as is spent", []State{{12, at(60)}, {5, at(61)}, {0, at(60)}}, 1},
		{"no window", nil, -1},
	} {
		if got := Tightest(ws, c.ss); got != c.want {
			t.Errorf("%s: %d, want %d", c.about, got, c.want)
		}
	}
	if got := Tightest(nil, nil); got != -1 {
		t.Errorf("none: %d", got)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 15, 12, 0, 0, 100_000_000, time.UTC)
	after := func(d time.Duration) time.Time { return now.Add(d) }
	ws := []Window{{Limit: 10}, {Limit: 5}}
	for _, c := range []struct {
		about string
		ss    []State
		cost  int64
		want  int64
	}{
		{"only denying windows count", []State{{10, after(30 * time.Second)}, {0, after(time.Hour)}}, 1, 30},
		{"the latest of several", []State{{10, after(30 * time.Second)}, {5, after(time.Hour)}}, 1, 3600},
		{"a fraction is rounded up", []State{{10, after(30*time.Second + 1)}, {0, after(0)}}, 1, 31},
		{"at least 1", []State{{10, after(-time.Hour)}, {0, after(0)}}, 1, 1},
		{"a millisecond is 1", []State{{10, after(time.Millisecond)}, {0, after(0)}}, 1, 1},
		{"none denies", []State{{1, after(time.Hour)}, {1, after(time.Hour)}}, 1, 1},
		{"a dear request waits where a cheap one would not", []State{{1, after(time.Hour)}, {1, after(time.Minute)}}, 5, 60},
		{"no state", nil, 1, 1},
	} {
		if got := RetryAfter(ws, c.ss, c.cost, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.about, got, c.want)
		}
	}
}

func BenchmarkBounds(b *testing.B) {
	now := time.Date(2026, 1, 30, 12, 0, 0, 0, time.UTC)
	for _, w := range []Window{{Per: Minute}, {Per: Month, Anchor: 31}} {
		b.Run(w.Per.String(), func(b *testing.B) {
			for b.Loop() {
				w.Bounds(now)
			}
		})
	}
}

func BenchmarkTightestAndRetryAfter(b *testing.B) {
	now := time.Date(2026, 1, 30, 12, 0, 0, 0, time.UTC)
	ws := []Window{{Limit: 60, Per: Minute}, {Limit: 1000, Per: Day}, {Limit: 10000, Per: Month}}
	ss := []State{{60, now.Add(time.Minute)}, {10, now.Add(time.Hour)}, {10000, now.Add(24 * time.Hour)}}
	for b.Loop() {
		Tightest(ws, ss)
		RetryAfter(ws, ss, 1, now)
	}
}
