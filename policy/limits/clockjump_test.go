package limits

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// jumps are what a clock that was wrong for a while does to counters, as written down by hand.
func jumps() []timeline {
	perSecond := []Window{{Name: "s", Limit: 5, Per: Second}}
	perHour := []Window{{Name: "h", Limit: 3000, Per: Hour}}
	perMonth := []Window{{Name: "q", Limit: 10, Per: Month}}
	return []timeline{
		{"400 days ahead for two seconds", perSecond, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T12:00:01Z"},
			{n: 2, at: "2027-02-19T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2027-02-19T12:00:01Z"},
			{n: 3, at: "2027-02-19T12:00:01.05Z", cost: 4, allowed: allow, left: "1", reset: "2027-02-19T12:00:02Z"},
			// What was spent last is counted once, also by a request that is refused, and then it is over.
			{n: 4, at: "2026-01-15T12:00:02.05Z", cost: 2, allowed: deny, left: "1", reset: "2026-01-15T12:00:03Z", retry: 1},
			{n: 5, at: "2026-01-15T12:00:02.05Z", cost: 1, allowed: allow, left: "0", reset: "2026-01-15T12:00:03Z"},
			{n: 6, at: "2026-01-15T12:00:03.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T12:00:04Z"},
		}},
		{"an hour ahead for ten seconds", perHour, []step{
			{n: 1, at: "2026-01-15T12:30:00.05Z", cost: 1000, allowed: allow, left: "2000", reset: "2026-01-15T13:00:00Z"},
			{n: 2, at: "2026-01-15T13:30:05.05Z", cost: 1500, allowed: allow, left: "1500", reset: "2026-01-15T14:00:00Z"},
			{n: 3, at: "2026-01-15T12:30:10.05Z", cost: 500, allowed: allow, left: "0", reset: "2026-01-15T13:00:00Z"},
			{n: 4, at: "2026-01-15T12:30:10.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-01-15T13:00:00Z", retry: 1790},
			// The hour that it was wrongly in is a new one when it comes.
			{n: 5, at: "2026-01-15T13:00:00.05Z", cost: 3000, allowed: allow, left: "0", reset: "2026-01-15T14:00:00Z"},
		}},
		{"ahead, and back when the window that it left is over", perHour, []step{
			{n: 1, at: "2026-01-15T12:59:55.05Z", cost: 3000, allowed: allow, left: "0", reset: "2026-01-15T13:00:00Z"},
			{n: 2, at: "2026-01-15T14:59:58.05Z", cost: 2000, allowed: allow, left: "1000", reset: "2026-01-15T15:00:00Z"},
			{n: 3, at: "2026-01-15T13:00:02.05Z", cost: 1, allowed: allow, left: "999", reset: "2026-01-15T14:00:00Z"},
			{n: 4, at: "2026-01-15T14:00:00.05Z", cost: 3000, allowed: allow, left: "0", reset: "2026-01-15T15:00:00Z"},
		}},
		{"ahead over several windows", perSecond, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T12:00:01Z"},
			{n: 2, at: "2026-01-15T12:02:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T12:02:01Z"},
			{n: 3, at: "2026-01-15T12:02:01.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T12:02:02Z"},
			{n: 4, at: "2026-01-15T12:00:02.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-01-15T12:00:03Z", retry: 1},
			{n: 5, at: "2026-01-15T12:00:03.05Z", cost: 4, allowed: allow, left: "1", reset: "2026-01-15T12:00:04Z"},
			{n: 6, at: "2026-01-15T12:00:04.05Z", cost: 4, allowed: allow, left: "1", reset: "2026-01-15T12:00:05Z"},
		}},
		{"400 days behind for a while", perMonth, []step{
			{n: 1, at: "2026-02-15T12:00:00.05Z", cost: 3, allowed: allow, left: "7", reset: "2026-03-01T00:00:00Z"},
			{n: 2, at: "2026-03-15T12:00:00.05Z", cost: 6, allowed: allow, left: "4", reset: "2026-04-01T00:00:00Z"},
			{n: 3, at: "2025-02-15T12:00:00.05Z", cost: 2, allowed: allow, left: "2", reset: "2025-03-01T00:00:00Z"},
			// Nothing is handed out again.
			{n: 4, at: "2026-03-15T12:00:20.05Z", cost: 3, allowed: deny, left: "2", reset: "2026-04-01T00:00:00Z", retry: 17*86400 - 43200 - 20},
			{n: 5, at: "2026-03-15T12:00:20.05Z", cost: 2, allowed: allow, left: "0", reset: "2026-04-01T00:00:00Z"},
			{n: 6, at: "2026-04-01T00:00:00.05Z", cost: 1, allowed: allow, left: "9", reset: "2026-05-01T00:00:00Z"},
		}},
		{"ahead twice", perHour, []step{
			{n: 1, at: "2026-01-15T12:10:00.05Z", cost: 1000, allowed: allow, left: "2000", reset: "2026-01-15T13:00:00Z"},
			{n: 2, at: "2026-01-16T12:10:00.05Z", cost: 500, allowed: allow, left: "2500", reset: "2026-01-16T13:00:00Z"},
			{n: 3, at: "2026-01-15T12:10:10.05Z", cost: 100, allowed: allow, left: "1400", reset: "2026-01-15T13:00:00Z"},
			{n: 4, at: "2026-01-17T12:10:00.05Z", cost: 500, allowed: allow, left: "2500", reset: "2026-01-17T13:00:00Z"},
			{n: 5, at: "2026-01-15T12:10:20.05Z", cost: 100, allowed: allow, left: "800", reset: "2026-01-15T13:00:00Z"},
		}},
		{"reading after a jump", perHour, []step{
			{n: 1, at: "2026-01-15T12:10:00.05Z", cost: 1000, allowed: allow, left: "2000", reset: "2026-01-15T13:00:00Z"},
			{n: 2, at: "2026-01-15T13:10:00.05Z", cost: 500, allowed: allow, left: "2500", reset: "2026-01-15T14:00:00Z"},
			{n: 3, at: "2026-01-15T12:10:10.05Z", cost: 1, read: true, allowed: allow, left: "1500", reset: "2026-01-15T13:00:00Z"},
			{n: 4, at: "2026-01-15T12:10:10.05Z", cost: 1, read: true, allowed: allow, left: "1500", reset: "2026-01-15T13:00:00Z"},
			{n: 5, at: "2026-01-15T12:10:20.05Z", cost: 1500, allowed: allow, left: "0", reset: "2026-01-15T13:00:00Z"},
		}},
	}
}

// anchors are months whose first day is changed in the middle.
func anchors() []timeline {
	from := func(day int) []Window { return []Window{{Name: "q", Limit: 9, Per: Month, Anchor: day}} }
	return []timeline{
		{"the anchor moves before today", from(1), []step{
			{n: 1, at: "2026-01-28T12:00:00.05Z", cost: 9, allowed: allow, left: "0", reset: "2026-02-01T00:00:00Z"},
			{n: 2, at: "2026-01-28T12:00:01.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-02-15T00:00:00Z", retry: 18*86400 - 43200 - 1, plan: from(15)},
			// As it was.
			{n: 3, at: "2026-01-31T23:59:59.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-02-01T00:00:00Z", retry: 1, plan: from(1)},
			{n: 4, at: "2026-02-14T23:59:59.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-02-15T00:00:00Z", retry: 1, plan: from(15)},
			{n: 5, at: "2026-02-15T00:00:00.05Z", cost: 9, allowed: allow, left: "0", reset: "2026-03-15T00:00:00Z"},
			{n: 6, at: "2026-03-01T00:00:00.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-04-01T00:00:00Z", retry: 31 * 86400, plan: from(1)},
		}},
		{"keys of two anchors take turns", from(1), []step{
			{n: 1, at: "2026-03-10T12:00:00.05Z", cost: 4, allowed: allow, left: "5", reset: "2026-04-01T00:00:00Z"},
			{n: 2, at: "2026-03-20T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-04-15T00:00:00Z", plan: from(15)},
			{n: 3, at: "2026-03-21T12:00:00.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-04-01T00:00:00Z", retry: 11*86400 - 43200, plan: from(1)},
			// The month ends for both: it began on the 1st.
			{n: 4, at: "2026-04-01T00:00:00.05Z", cost: 5, allowed: allow, left: "4", reset: "2026-05-01T00:00:00Z"},
			{n: 5, at: "2026-04-20T00:00:00.05Z", cost: 4, allowed: allow, left: "0", reset: "2026-05-15T00:00:00Z", plan: from(15)},
			{n: 6, at: "2026-05-01T00:00:00.05Z", cost: 9, allowed: allow, left: "0", reset: "2026-06-01T00:00:00Z", plan: from(1)},
		}},
		{"the shortest month is one", from(1), []step{
			{n: 1, at: "2027-02-28T23:59:59.05Z", cost: 9, allowed: allow, left: "0", reset: "2027-03-01T00:00:00Z"},
			{n: 2, at: "2027-03-01T00:00:00.05Z", cost: 9, allowed: allow, left: "0", reset: "2027-04-01T00:00:00Z"},
		}},
		{"the clock jumps over a month of another anchor", from(1), []step{
			{n: 1, at: "2026-03-10T12:00:00.05Z", cost: 4, allowed: allow, left: "5", reset: "2026-04-01T00:00:00Z"},
			{n: 2, at: "2026-07-10T12:00:00.05Z", cost: 1, allowed: allow, left: "8", reset: "2026-07-31T00:00:00Z", plan: from(31)},
			{n: 3, at: "2026-03-20T12:00:00.05Z", cost: 1, allowed: allow, left: "3", reset: "2026-04-15T00:00:00Z", plan: from(15)},
		}},
	}
}

// A clock that jumps by any size for a while and returns, once and again, hands out each limit at most once more for each
// jump, and is no reason to refuse anything one window later; two where it jumped from one wrong time to another.
func TestJumpCostsOneLimitAtMost(t *testing.T) {
	sizes := []time.Duration{time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, time.Hour, 26 * time.Hour, 31 * 24 * time.Hour, 400 * 24 * time.Hour}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, noon())
		windows := []Window{{Name: "w", Limit: 10, Per: Unit(rapid.IntRange(int(Second), int(Month)).Draw(rt, "per"))}}
		layout, nested := newLayout(windows), false // from one wrong clock to another
		wrong, jumped := time.Duration(0), int64(0) // there and back is one jump
		allowed := map[int64]int64{} // by window, by the right clock
		spend := func(cost int64) bool {
			w.at = w.at.Add(wrong)
			c := &call{id: "a", layout: layout, cost: cost}
			if err := c.read(w.twin.run(c)); err != nil {
				rt.Fatal(err)
			}
			w.at = w.at.Add(-wrong)
			if c.allowed {
				start, _ := windows[0].bounds(w.at.Unix())
				allowed[start] += cost
			}
			return c.allowed
		}
		spend(1) // the key was in use before
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				nested = nested || wrong != 0
				wrong = rapid.SampledFrom(sizes).Draw(rt, "size") * time.Duration(rapid.SampledFrom([]int{1, -1}).Draw(rt, "sign"))
				jumped++
			case 1, 2:
				wrong = 0
			case 3, 4:
				w.at = w.at.Add(time.Duration(rapid.IntRange(1, 5000).Draw(rt, "pass")) * time.Millisecond)
			case 5:
				w.at = w.at.Add(rapid.SampledFrom(sizes[:6]).Draw(rt, "pass"))
			default:
				spend(rapid.Int64Range(1, 10).Draw(rt, "cost"))
			}
			start, _ := windows[0].bounds(w.at.Unix())
			if n := allowed[start]; n > 10*(1+jumped) {
				rt.Fatalf("%d of 10 allowed in one window with %d jumps", n, jumped)
			}
		}
		wrong = 0
		spend(1) // counts here what it was counted there
		for range 2 {
			_, end := windows[0].bounds(w.at.Unix())
			w.at = time.Unix(end, 50_000_000).UTC()
			if spend(1) {
				return
			}
			if !nested {
				break
			}
		}
		rt.Fatalf("refused after the window: %+v", w.twin.records)
	})
}
