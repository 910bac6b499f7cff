package counters

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/policy/limits"
)

// jumpLines are what a clock that was wrong for a while does to counters, as written down by hand.
func jumpLines() []timeline {
	perSecond := []limits.Window{{Name: "s", Limit: 5, Per: limits.Second}}
	perHour := []limits.Window{{Name: "h", Limit: 3000, Per: limits.Hour}}
	perMonth := []limits.Window{{Name: "q", Limit: 10, Per: limits.Month}}
	return []timeline{
		{"400 days ahead for two seconds", perSecond, []step{
			{n: 1, at: "2026-01-15T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2026-01-15T12:00:01Z"},
			{n: 2, at: "2027-02-19T12:00:00.05Z", cost: 5, allowed: allow, left: "0", reset: "2027-02-19T12:00:01Z"},
			{n: 3, at: "2027-02-19T12:00:01.05Z", cost: 4, allowed: allow, left: "1", reset: "2027-02-19T12:00:02Z"},
			// What was spent last is counted once, also by a request that is refused, and then it
			// is over.
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

// anchorLines are months whose first day is changed in the middle.
func anchorLines() []timeline {
	from := func(day int) []limits.Window {
		return []limits.Window{{Name: "q", Limit: 9, Per: limits.Month, Anchor: day}}
	}
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

// A clock that jumps by any size for a while and returns, once and again, hands out each limit at
// most once more for each jump, and is no reason to refuse anything one window later; two where it
// jumped from one wrong time to another.
func TestJumpCostsOneLimitAtMost(t *testing.T) {
	sizes := []time.Duration{time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, time.Hour, 26 * time.Hour, 31 * 24 * time.Hour, 400 * 24 * time.Hour}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, noon())
		windows := []limits.Window{{Name: "w", Limit: 10, Per: limits.Unit(rapid.IntRange(int(limits.Second), int(limits.Month)).Draw(rt, "per"))}}
		layout, nested := newLayout(windows), false // from one wrong clock to another
		wrong, jumped := time.Duration(0), int64(0) // there and back is one jump
		allowed := map[int64]int64{}                // by window, by the right clock
		spend := func(cost int64) bool {
			w.at = w.at.Add(wrong)
			c := &operation{id: "a", layout: layout, cost: cost}
			if err := c.read(w.twin.run(c)); err != nil {
				rt.Fatal(err)
			}
			w.at = w.at.Add(-wrong)
			if c.allowed {
				start, _ := bounds(windows[0], w.at.Unix())
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
			start, _ := bounds(windows[0], w.at.Unix())
			if n := allowed[start]; n > 10*(1+jumped) {
				rt.Fatalf("%d of 10 allowed in one window with %d jumps", n, jumped)
			}
		}
		wrong = 0
		spend(1) // counts here what it was counted there
		for range 2 {
			_, end := bounds(windows[0], w.at.Unix())
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

// jumpOf has Redis' clock be wrong by size from now on; 0: right again.
func (w *world) jumpOf(size time.Duration) {
	w.at = w.at.Add(size - w.steps)
	w.steps = size
}

// right is the time by the right clock.
func (w *world) right() time.Time { return w.at.Add(-w.steps) }

// ask spends without holding the answer to what is true while no clock jumps.
func (w *world) ask(l *Leases, s *limits.Spend) limits.Result {
	var res limits.Result
	if !l.Try(s, &res) {
		var err error
		if res, err = l.Spend(w.t.(*testing.T).Context(), s); err != nil {
			w.t.Fatalf("%v", err)
		}
	}
	l.batches.drain(w.t.(*testing.T).Context())
	return res
}

// Replicas that were in use before, during and after a jump are right again a second after the
// clock is: what they show, and what they refuse.
func TestWarmReplicasAfterAJump(t *testing.T) {
	const day = 24 * time.Hour
	for _, size := range []time.Duration{time.Second, 61 * time.Second, time.Hour, 32 * day, 400 * day, -time.Second, -61 * time.Second, -time.Hour, -32 * day, -400 * day} {
		for per := limits.Second; per <= limits.Month; per++ {
			for _, exact := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v per %v, exact=%v", size, per, exact), func(t *testing.T) { warmReplicas(t, size, per, exact) })
			}
		}
	}
}

func warmReplicas(t *testing.T, size time.Duration, per limits.Unit, exact bool) {
	const limit = 2000
	w := newWorld(t, time.Date(2026, 1, 15, 12, 30, 20, 50_000_000, time.UTC))
	windows := one(limit, per)
	replicas := []*Leases{w.replica(-time.Hour, exact), w.replica(0, exact), w.replica(time.Hour, exact)}
	allowed := map[int64]int64{} // by the right clock
	use := func(cost int64) {
		for _, l := range replicas {
			if w.ask(l, spendOf(windows, cost)).Allowed {
				start, _ := bounds(windows[0], w.right().Unix())
				allowed[start] += cost
			}
		}
		w.at = w.at.Add(50 * time.Millisecond)
	}
	for range 100 {
		use(1)
	}
	w.jumpOf(size)
	for i := range 40 {
		use(int64(1 + 60*(i%2))) // all of it, and then refusals
	}
	w.jumpOf(0)
	for range 22 {
		use(1)
	}
	for i, l := range replicas {
		res := w.ask(l, spendOf(windows, 1))
		start, end := windows[0].Bounds(w.at)
		if !res.States[0].Reset.Equal(end) || !res.Allowed && limits.RetryAfter(windows, res.States, 1, res.Now) > int64(end.Sub(start)/time.Second) {
			t.Errorf("replica %d at %v: %+v", i, w.at, res)
		}
	}
	for start, n := range allowed {
		if n > 2*limit {
			t.Errorf("%d of %d in the window of %v", n, limit, time.Unix(start, 0).UTC())
		}
	}
	_, end := windows[0].Bounds(w.at)
	w.at = end.Add(20 * time.Millisecond)
	if size == -time.Second {
		w.at = w.at.Add(time.Second) // a refusal may be believed for as much longer as the clock was behind
	}
	for i, l := range replicas {
		if res := w.ask(l, spendOf(windows, 1)); !res.Allowed {
			t.Errorf("replica %d is refused in the next window: %+v", i, res)
		}
	}
	want := uint64(0)
	if size > time.Minute || size < -time.Minute {
		want = 2 // there and back
	}
	for i, l := range replicas {
		if n := l.Stats().Jumps; n > 2 || n < want {
			t.Errorf("replica %d counts %d jumps", i, n)
		}
	}
}

// What one node says of its clock, and what is made of it.
func TestJumpsAreSeen(t *testing.T) {
	type look struct {
		ms         int64 // by the store
		asked, now int64 // ms
		jump       time.Duration
	}
	for name, looks := range map[string][]look{
		"steady":                     {{1000, 0, 1, 0}, {2000, 1000, 1001, 0}, {61_000, 60_000, 60_010, 0}},
		"a clock that is slewed":     {{1000, 0, 1, 0}, {2300, 1000, 1001, 0}, {3600, 2000, 2001, 0}},
		"a second ahead and back":    {{1000, 0, 0, 0}, {3000, 1000, 1000, time.Second}, {4000, 2000, 2000, 0}, {4000, 3000, 3000, -time.Second}},
		"400 days":                   {{1000, 0, 0, 0}, {34_560_001_000, 0, 0, 400 * 24 * time.Hour}, {1010, 10, 10, -400 * 24 * time.Hour}},
		"a trip that took long":      {{1000, 0, 0, 0}, {3900, 1000, 4000, 0}, {5000, 4000, 4000, 0}, {6000, 5000, 5000, 0}},
		"a jump in a long trip":      {{1000, 0, 0, 0}, {66_000, 1000, 5000, 62 * time.Second}, {66_500, 5000, 5000, 0}},
		"half a second is no jump":   {{1000, 0, 0, 0}, {2500, 1000, 1000, 0}},
		"what no clock says":         {{1000, 0, 0, 0}, {1 << 60, 0, 0, (1 << 42) * time.Millisecond}},
		"seen for the first time at": {{-5, 0, 0, 0}},
	} {
		var s storeClock
		for i, k := range looks {
			got := s.observe(k.ms, time.Duration(k.asked)*time.Millisecond, time.Duration(k.now)*time.Millisecond)
			if (got - k.jump).Abs() > 5*time.Millisecond {
				t.Errorf("%s: look %d: %v, want %v", name, i, got, k.jump)
			}
		}
	}
}

// A clock that jumps all the time is counted, and told of ten times a minute.
func TestJumpsAreToldBounded(t *testing.T) {
	w := newWorld(t, noon())
	l := w.replica(0, true)
	var told []time.Duration
	var last uint64
	l.options.Jumped = func(by time.Duration, total uint64) { told, last = append(told, by), total }
	for i := range 121 {
		w.jumpOf(time.Duration(i%2) * time.Hour)
		w.ask(l, spendOf(one(100_000, limits.Month), 1))
		w.at = w.at.Add(time.Second)
	}
	if n := l.Stats().Jumps; n != 120 || len(told) != 2*jumpsToldPerMinute || last != 70 || told[0] != time.Hour || told[1] != -time.Hour {
		t.Errorf("%d jumps, told %d times %v, the last with %d", n, len(told), told, last)
	}
}

// Each node of a cluster has its own clock. That two differ is no jump, that one of them jumps is,
// also after nobody has asked it for a while; and an answer of a node that is not known says
// nothing.
func TestJumpsOfNodes(t *testing.T) {
	w := newWorld(t, noon())
	l := w.replica(0, true)
	ahead := map[string]time.Duration{"one": 0, "two": time.Hour, "": 90 * time.Minute}
	nodeOf := func(id string) string { return strings.TrimRight(id, "0123456789") }
	l.store.nodeOf = func(string) string { return "" }
	l.batches.node = nodeOf
	send := l.batches.send
	l.batches.send = func(ctx context.Context, calls []*operation) {
		w.at = w.at.Add(ahead[nodeOf(calls[0].id)])
		send(ctx, calls)
		w.at = w.at.Add(-ahead[nodeOf(calls[0].id)])
	}
	asks := func() uint64 {
		for i := range 10 {
			for node := range ahead {
				w.ask(l, &limits.Spend{ID: fmt.Sprint(node, i), Windows: one(100_000, limits.Month), Cost: 1})
			}
			w.at = w.at.Add(time.Second)
		}
		return l.Stats().Jumps
	}
	if n := asks(); n != 0 {
		t.Errorf("%d jumps of clocks that differ", n)
	}
	w.at = w.at.Add(time.Hour)
	ahead["two"] += time.Minute
	ahead[""] += time.Minute
	if n := asks(); n != 1 {
		t.Errorf("%d jumps where one clock has jumped", n)
	}
}

// Of nodes that come and go, those of the last are kept, and no more than a cluster can have.
func TestQueuesAreBounded(t *testing.T) {
	w := newWorld(t, noon())
	l := w.replica(0, true)
	l.batches.node = func(id string) string { return id }
	for i := range maxQueues + 100 {
		w.ask(l, &limits.Spend{ID: fmt.Sprint(i), Windows: one(100_000, limits.Month), Cost: 1})
	}
	l.batches.drain(t.Context())
	if n := len(l.batches.queues); n > maxQueues {
		t.Errorf("%d queues", n)
	}
}
