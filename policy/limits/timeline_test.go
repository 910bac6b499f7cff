package limits

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	allow = true
	deny  = false
)

// step is one Spend on one key: at this time, this cost; then what must be answered. left and reset have one entry a
// window, separated by spaces; retry is 0 where the step is allowed.
type step struct {
	n       int
	at      string
	cost    int64
	allowed bool
	left    string
	reset   string
	retry   int64
	plan    []Window // nil: as in the step before
	read    bool     // ReadOnly
}

type timeline struct {
	name  string
	plan  []Window
	steps []step
}

func timelines() []timeline {
	all := fixedUnits()
	all = append(all, months()...)
	all = append(all, severalWindows()...)
	all = append(all, jumpLines()...)
	all = append(all, anchorLines()...)
	return append(all, changes()...)
}

func fixedUnits() []timeline {
	return []timeline{
		{"second", []Window{{Name: "s", Limit: 2, Per: Second}}, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2026-01-15T12:00:01Z"},
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2026-01-15T12:00:01Z"},
			// Less than a second to wait is said as one.
			{n: 3, at: "2026-01-15T12:00:00.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-01-15T12:00:01Z", retry: 1},
			// The next second is empty.
			{n: 4, at: "2026-01-15T12:00:01.05Z", cost: 2, allowed: allow, left: "0", reset: "2026-01-15T12:00:02Z"},
		}},
		{"minute", []Window{{Name: "m", Limit: 3, Per: Minute}}, []step{
			// The window is the clock's minute, whenever the first request comes.
			{n: 1, at: "2026-01-15T12:00:40.05Z", cost: 3, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2026-01-15T12:00:40.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-01-15T12:01:00Z", retry: 20},
			{n: 3, at: "2026-01-15T12:00:59.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-01-15T12:01:00Z", retry: 1},
			{n: 4, at: "2026-01-15T12:01:00.05Z", cost: 1, allowed: allow, left: "2", reset: "2026-01-15T12:02:00Z"},
		}},
		{"hour", []Window{{Name: "h", Limit: 10, Per: Hour}}, []step{
			{n: 1, at: "2026-01-15T12:59:59.05Z", cost: 10, allowed: allow, left: "0", reset: "2026-01-15T13:00:00Z"},
			{n: 2, at: "2026-01-15T13:00:00.05Z", cost: 4, allowed: allow, left: "6", reset: "2026-01-15T14:00:00Z"},
			{n: 3, at: "2026-01-15T13:00:00.05Z", cost: 7, allowed: deny, left: "6", reset: "2026-01-15T14:00:00Z", retry: 3600},
		}},
		{"day, over the end of a leap February", []Window{{Name: "d", Limit: 1, Per: Day}}, []step{
			{n: 1, at: "2028-02-28T23:59:59.05Z", cost: 1, allowed: allow, left: "0", reset: "2028-02-29T00:00:00Z"},
			{n: 2, at: "2028-02-29T00:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2028-03-01T00:00:00Z"},
			{n: 3, at: "2028-02-29T00:00:00.05Z", cost: 1, allowed: deny, left: "0", reset: "2028-03-01T00:00:00Z", retry: 86400},
			// A year of nothing changes nothing.
			{n: 4, at: "2029-02-28T23:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2029-03-01T00:00:00Z"},
		}},
		{"before 1970", []Window{{Name: "h", Limit: 5, Per: Hour}}, []step{
			{n: 1, at: "1969-12-31T23:59:59.05Z", cost: 4, allowed: allow, left: "1", reset: "1970-01-01T00:00:00Z"},
			{n: 2, at: "1969-12-31T23:59:59.05Z", cost: 2, allowed: deny, left: "1", reset: "1970-01-01T00:00:00Z", retry: 1},
			{n: 3, at: "1970-01-01T00:00:00.05Z", cost: 2, allowed: allow, left: "3", reset: "1970-01-01T01:00:00Z"},
		}},
	}
}

func months() []timeline {
	return []timeline{
		{"month from the 1st", []Window{{Name: "q", Limit: 2, Per: Month, Quota: true}}, []step{
			{n: 1, at: "2026-12-31T23:59:59.05Z", cost: 2, allowed: allow, left: "0", reset: "2027-01-01T00:00:00Z"},
			{n: 2, at: "2027-01-01T00:00:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2027-02-01T00:00:00Z"},
			{n: 3, at: "2027-02-28T12:00:00.05Z", cost: 3, allowed: deny, left: "2", reset: "2027-03-01T00:00:00Z", retry: 43200},
		}},
		{"month from the 31st", []Window{{Name: "q", Limit: 2, Per: Month, Anchor: 31}}, []step{
			{n: 1, at: "2026-01-30T23:59:59.05Z", cost: 2, allowed: allow, left: "0", reset: "2026-01-31T00:00:00Z"},
			// February has no 31st: the month begins on its last day.
			{n: 2, at: "2026-01-31T00:00:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2026-02-28T00:00:00Z"},
			{n: 3, at: "2026-02-27T23:59:59.05Z", cost: 1, allowed: allow, left: "0", reset: "2026-02-28T00:00:00Z"},
			{n: 4, at: "2026-02-28T00:00:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2026-03-31T00:00:00Z"},
			{n: 5, at: "2026-03-30T23:59:59.05Z", cost: 2, allowed: deny, left: "1", reset: "2026-03-31T00:00:00Z", retry: 1},
			{n: 6, at: "2026-03-31T00:00:00.05Z", cost: 2, allowed: allow, left: "0", reset: "2026-04-30T00:00:00Z"},
			{n: 7, at: "2026-12-31T00:00:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2027-01-31T00:00:00Z"},
		}},
		{"month from the 30th, leap year", []Window{{Name: "q", Limit: 1, Per: Month, Anchor: 30}}, []step{
			{n: 1, at: "2028-02-28T23:59:59.05Z", cost: 1, allowed: allow, left: "0", reset: "2028-02-29T00:00:00Z"},
			{n: 2, at: "2028-02-29T00:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2028-03-30T00:00:00Z"},
			{n: 3, at: "2028-03-29T23:59:59.05Z", cost: 1, allowed: deny, left: "0", reset: "2028-03-30T00:00:00Z", retry: 1},
		}},
		{"month from the 29th, leap year, common year, 2100", []Window{{Name: "q", Limit: 1, Per: Month, Anchor: 29}}, []step{
			{n: 1, at: "2028-02-28T23:59:59.05Z", cost: 1, allowed: allow, left: "0", reset: "2028-02-29T00:00:00Z"},
			{n: 2, at: "2029-02-28T00:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2029-03-29T00:00:00Z"},
			// 2100 is no leap year.
			{n: 3, at: "2100-02-28T00:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2100-03-29T00:00:00Z"},
			{n: 4, at: "2100-03-28T23:59:00.05Z", cost: 1, allowed: deny, left: "0", reset: "2100-03-29T00:00:00Z", retry: 60},
		}},
		{"the anchor moves within a month", []Window{{Name: "q", Limit: 9, Per: Month, Anchor: 15}}, []step{
			{n: 1, at: "2026-03-20T00:00:00.05Z", cost: 4, allowed: allow, left: "5", reset: "2026-04-15T00:00:00Z"},
			// What was spent since the 15th still counts, until the first 1st that is a month later.
			{n: 2, at: "2026-03-21T00:00:00.05Z", cost: 1, allowed: allow, left: "4", reset: "2026-05-01T00:00:00Z",
				plan: []Window{{Name: "q", Limit: 9, Per: Month, Anchor: 1}}},
			{n: 3, at: "2026-04-01T00:00:00.05Z", cost: 1, allowed: allow, left: "3", reset: "2026-05-01T00:00:00Z"},
			{n: 4, at: "2026-05-01T00:00:00.05Z", cost: 1, allowed: allow, left: "8", reset: "2026-06-01T00:00:00Z"},
		}},
	}
}

func severalWindows() []timeline {
	return []timeline{
		{"several windows: all or nothing", []Window{
			{Name: "minute", Limit: 2, Per: Minute}, {Name: "day", Limit: 3, Per: Day}, {Name: "month", Limit: 100, Per: Month, Quota: true},
		}, []step{
			{n: 1, at: "2026-01-15T23:58:30.05Z", cost: 2, allowed: allow, left: "0 1 98", reset: "2026-01-15T23:59:00Z 2026-01-16T00:00:00Z 2026-02-01T00:00:00Z"},
			// The minute denies: the day and the month keep what they had.
			{n: 2, at: "2026-01-15T23:58:30.05Z", cost: 1, allowed: deny, left: "0 1 98", reset: "2026-01-15T23:59:00Z 2026-01-16T00:00:00Z 2026-02-01T00:00:00Z", retry: 30},
			// Both deny: the later reset counts.
			{n: 3, at: "2026-01-15T23:58:30.05Z", cost: 2, allowed: deny, left: "0 1 98", reset: "2026-01-15T23:59:00Z 2026-01-16T00:00:00Z 2026-02-01T00:00:00Z", retry: 90},
			// The next minute is empty, and a denied request does not fill it.
			{n: 4, at: "2026-01-15T23:59:00.05Z", cost: 2, allowed: deny, left: "2 1 98", reset: "2026-01-16T00:00:00Z 2026-01-16T00:00:00Z 2026-02-01T00:00:00Z", retry: 60},
			{n: 5, at: "2026-01-15T23:59:00.05Z", cost: 1, allowed: allow, left: "1 0 97", reset: "2026-01-16T00:00:00Z 2026-01-16T00:00:00Z 2026-02-01T00:00:00Z"},
			{n: 6, at: "2026-01-16T00:00:00.05Z", cost: 1, allowed: allow, left: "1 2 96", reset: "2026-01-16T00:01:00Z 2026-01-17T00:00:00Z 2026-02-01T00:00:00Z"},
		}},
		{"limit 0 allows nothing", []Window{{Name: "none", Limit: 0, Per: Day}, {Name: "some", Limit: 5, Per: Minute}}, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 1, allowed: deny, left: "0 5", reset: "2026-01-16T00:00:00Z 2026-01-15T12:01:00Z", retry: 43200},
			// Not even what costs nothing.
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 0, allowed: deny, left: "0 5", reset: "2026-01-16T00:00:00Z 2026-01-15T12:01:00Z", retry: 43200},
		}},
		{"cost 0", []Window{{Name: "m", Limit: 1, Per: Minute}}, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 0, allowed: allow, left: "1", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z"},
			// A full window still takes what costs nothing.
			{n: 3, at: "2026-01-15T12:00:00.05Z", cost: 0, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z"},
		}},
		{"cost above the rest, and above the limit", []Window{{Name: "m", Limit: 10, Per: Minute}}, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 8, allowed: allow, left: "2", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 3, allowed: deny, left: "2", reset: "2026-01-15T12:01:00Z", retry: 60},
			{n: 3, at: "2026-01-15T12:00:00.05Z", cost: 1<<63 - 1, allowed: deny, left: "2", reset: "2026-01-15T12:01:00Z", retry: 60},
			// What was too dear took nothing: the rest is still there.
			{n: 4, at: "2026-01-15T12:00:00.05Z", cost: 2, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z"},
		}},
		{"the largest limit is counted exactly", []Window{{Name: "m", Limit: MaxLimit, Per: Minute}}, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: MaxLimit - 1, allowed: allow, left: "1", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 2, allowed: deny, left: "1", reset: "2026-01-15T12:01:00Z", retry: 60},
			{n: 3, at: "2026-01-15T12:00:00.05Z", cost: 1, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z"},
			{n: 4, at: "2026-01-15T12:00:00.05Z", cost: MaxLimit, allowed: deny, left: "0", reset: "2026-01-15T12:01:00Z", retry: 60},
		}},
		{"reading spends nothing", []Window{{Name: "m", Limit: 2, Per: Minute}}, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 2, read: true, allowed: allow, left: "2", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2026-01-15T12:01:00Z"},
			// It says whether the cost would pass.
			{n: 3, at: "2026-01-15T12:00:00.05Z", cost: 2, read: true, allowed: deny, left: "1", reset: "2026-01-15T12:01:00Z", retry: 60},
			{n: 4, at: "2026-01-15T12:00:00.05Z", cost: 1, read: true, allowed: allow, left: "1", reset: "2026-01-15T12:01:00Z"},
			{n: 5, at: "2026-01-15T12:01:00.05Z", cost: 1, read: true, allowed: allow, left: "2", reset: "2026-01-15T12:02:00Z"},
		}},
	}
}

func changes() []timeline {
	minute := func(limit int64) []Window { return []Window{{Name: "m", Limit: limit, Per: Minute}} }
	both := []Window{{Name: "m", Limit: 5, Per: Minute}, {Name: "q", Limit: 3, Per: Month}}
	return []timeline{
		{"the clock goes back", []Window{{Name: "m", Limit: 3, Per: Minute}, {Name: "q", Limit: 9, Per: Month}}, []step{
			{n: 1, at: "2026-02-01T00:00:30.05Z", cost: 2, allowed: allow, left: "1 7", reset: "2026-02-01T00:01:00Z 2026-03-01T00:00:00Z"},
			// What the later windows counted counts here, and there when they come again: nothing is handed out twice.
			{n: 2, at: "2026-01-31T23:59:30.05Z", cost: 1, allowed: allow, left: "0 6", reset: "2026-02-01T00:00:00Z 2026-02-01T00:00:00Z"},
			{n: 3, at: "2026-01-31T23:59:30.05Z", cost: 1, allowed: deny, left: "0 6", reset: "2026-02-01T00:00:00Z 2026-02-01T00:00:00Z", retry: 30},
			{n: 4, at: "2026-02-01T00:00:59.05Z", cost: 1, allowed: deny, left: "0 6", reset: "2026-02-01T00:01:00Z 2026-03-01T00:00:00Z", retry: 1},
			{n: 5, at: "2026-02-01T00:01:00.05Z", cost: 1, allowed: allow, left: "2 5", reset: "2026-02-01T00:02:00Z 2026-03-01T00:00:00Z"},
		}},
		{"a clock that went far ahead", minute(2), []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 2, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2027-01-15T12:00:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2027-01-15T12:01:00Z"},
			{n: 3, at: "2026-01-15T12:00:00.05Z", cost: 2, allowed: deny, left: "0", reset: "2026-01-15T12:01:00Z", retry: 60},
			{n: 4, at: "2026-01-15T12:01:00.05Z", cost: 1, allowed: allow, left: "1", reset: "2026-01-15T12:02:00Z"},
		}},
		{"the limit is lowered, then raised", minute(5), []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 4, allowed: allow, left: "1", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2026-01-15T12:00:10.05Z", cost: 1, allowed: deny, left: "0", reset: "2026-01-15T12:01:00Z", retry: 50, plan: minute(2)},
			// More than the limit is spent: cost 0 does not fit either.
			{n: 3, at: "2026-01-15T12:00:10.05Z", cost: 0, allowed: deny, left: "0", reset: "2026-01-15T12:01:00Z", retry: 50},
			{n: 4, at: "2026-01-15T12:00:20.05Z", cost: 3, allowed: allow, left: "1", reset: "2026-01-15T12:01:00Z", plan: minute(8)},
		}},
		{"a window is removed and added", both, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 2, allowed: allow, left: "3 1", reset: "2026-01-15T12:01:00Z 2026-02-01T00:00:00Z"},
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 3, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z", plan: minute(5)},
			{n: 3, at: "2026-01-20T12:00:00.05Z", cost: 2, allowed: deny, left: "5 1", reset: "2026-01-20T12:01:00Z 2026-02-01T00:00:00Z", retry: 12*86400 - 43200, plan: both},
			{n: 4, at: "2026-01-20T12:00:00.05Z", cost: 1, allowed: allow, left: "4 0", reset: "2026-01-20T12:01:00Z 2026-02-01T00:00:00Z"},
			// Another order of the same windows is the same plan.
			{n: 5, at: "2026-01-20T12:00:00.05Z", cost: 1, allowed: deny, left: "0 4", reset: "2026-02-01T00:00:00Z 2026-01-20T12:01:00Z", retry: 12*86400 - 43200,
				plan: []Window{both[1], both[0]}},
		}},
		{"another unit under the same name is another window", minute(5), []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T12:01:00Z"},
			{n: 2, at: "2026-01-15T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T13:00:00Z", plan: []Window{{Name: "m", Limit: 5, Per: Hour}}},
		}},
	}
}

// verify compares one answer with its row. early is how far its clock may be behind.
func (st step) verify(t *testing.T, plan []Window, res Result, early time.Duration) {
	t.Helper()
	var left, reset []string
	for i, w := range plan {
		left = append(left, fmt.Sprint(w.Remaining(res.States[i])))
		reset = append(reset, res.States[i].Reset.Format(time.RFC3339))
	}
	var retry int64
	if !res.Allowed {
		retry = RetryAfter(plan, res.States, st.cost, res.Now)
	}
	want := fmt.Sprintf("allowed %v, left %s, reset %s, retry %d", st.allowed, st.left, st.reset, st.retry)
	got := fmt.Sprintf("allowed %v, left %s, reset %s, retry %d", res.Allowed, strings.Join(left, " "), strings.Join(reset, " "), retry)
	if got != want {
		t.Fatalf("step %d at %s, cost %d:\n got %s\nwant %s", st.n, st.at, st.cost, got, want)
	}
	if drift := res.Now.Sub(clock(t, st.at)); drift < -early || drift > 900*time.Millisecond {
		t.Fatalf("step %d: now is %v, want %s", st.n, res.Now, st.at)
	}
}

func TestTimeline(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		for _, line := range timelines() {
			t.Run(line.name, func(t *testing.T) {
				s, plan := b.store(t), line.plan
				for _, st := range line.steps {
					if st.plan != nil {
						plan = st.plan
					}
					b.at(t, clock(t, st.at))
					res := mustSpend(t, s, &Spend{ID: line.name, Windows: plan, Cost: st.cost, ReadOnly: st.read})
					st.verify(t, plan, res, 2*time.Millisecond)
				}
			})
		}
	})
}

// The in-process counters of a single replica keep the same timelines.
func TestTimelineLocal(t *testing.T) {
	for _, line := range timelines() {
		t.Run(line.name, func(t *testing.T) {
			var now time.Time
			l, plan := NewLocal(1, func() time.Time { return now }, 10), line.plan
			for _, st := range line.steps {
				if st.plan != nil {
					plan = st.plan
				}
				now = clock(t, st.at)
				st.verify(t, plan, l.Spend(&Spend{ID: line.name, Windows: plan, Cost: st.cost, ReadOnly: st.read}), 2*time.Millisecond)
			}
		})
	}
}
