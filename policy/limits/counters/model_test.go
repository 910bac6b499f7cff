package counters

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/policy/limits"
)

// model is the plain truth: per key and window, what was spent since the start of the window seen
// last, and of the one before. It uses the standard library's calendar.
type model struct {
	counts map[string]modelCount
	// ledger sums every allowed cost by key, window and reset, as the answers told it; nothing is
	// ever reset there.
	ledger map[string]int64
	jumps  int64 // how often the clock went back
	last   time.Time
}

type modelCount struct {
	start    time.Time // zero: none
	spent    int64
	previous *modelCount
}

// counts reports whether a window that began at start is the one of now, and when it ends.
func modelHolds(w limits.Window, start, now time.Time) (end time.Time, ok bool) {
	begin, end := w.Bounds(now)
	if w.Per != limits.Month {
		return end, start.Equal(begin)
	}
	days := begin.Sub(start).Hours() / 24
	for end = begin; end.Sub(start).Hours() < 28*24; {
		_, end = w.Bounds(end)
	}
	return end, !start.After(now) && days < 28
}

// at returns the window of now: the one seen last, or the one before if the clock has gone back to
// it or forth.
func (c modelCount) at(w limits.Window, now time.Time) modelCount {
	start, _ := w.Bounds(now)
	if c.start.IsZero() {
		return modelCount{start: start}
	}
	if _, ok := modelHolds(w, c.start, now); ok {
		return c
	}
	left, before := &modelCount{start: c.start, spent: c.spent}, c.previous
	back := c.start.After(now)
	if before != nil {
		if _, ok := modelHolds(w, before.start, now); ok && back {
			return modelCount{before.start, c.spent + before.spent, before}
		} else if ok {
			return modelCount{before.start, max(c.spent, before.spent), left}
		}
	}
	switch {
	case !back:
		return modelCount{start, 0, left}
	case before != nil && !before.start.After(now):
		return modelCount{start, c.spent, before}
	}
	return modelCount{start, c.spent, left}
}

func newModel() *model {
	return &model{counts: map[string]modelCount{}, ledger: map[string]int64{}}
}

func (m *model) spend(sp *limits.Spend, now time.Time) (allowed bool, states []limits.State) {
	next, returned := make([]modelCount, len(sp.Windows)), false
	allowed = true
	if now.Before(m.last.Add(-time.Second / 2)) { // the clock of a lease may be that much behind
		m.jumps++
	}
	m.last = now
	for i, w := range sp.Windows {
		before := m.counts[sp.ID+w.Name]
		next[i] = before.at(w, now)
		returned = returned || before.start.After(now)
		if w.Limit == 0 || next[i].spent+sp.Cost > w.Limit {
			allowed = false
		}
	}
	for i, w := range sp.Windows {
		if allowed && !sp.ReadOnly {
			next[i].spent += sp.Cost
		}
		if allowed && !sp.ReadOnly && sp.Cost > 0 || returned {
			m.counts[sp.ID+w.Name] = next[i]
		}
		end, _ := modelHolds(w, next[i].start, now)
		states = append(states, limits.State{Spent: next[i].spent, Reset: end})
	}
	return allowed, states
}

// verify compares an answer with the model, and the sum of all that was ever allowed with the
// limit.
func (m *model) verify(t fatal, sp *limits.Spend, res limits.Result) {
	allowed, states := m.spend(sp, res.Now)
	same := slices.EqualFunc(res.States, states, func(a, b limits.State) bool { return a.Spent == b.Spent && a.Reset.Equal(b.Reset) })
	if res.Allowed != allowed || !same {
		t.Fatalf("%+v at %v:\n got %v %v\nwant %v %v", *sp, res.Now, res.Allowed, res.States, allowed, states)
	}
	for i, w := range sp.Windows {
		entry := fmt.Sprint(sp.ID, w.Name, res.States[i].Reset)
		if res.Allowed && !sp.ReadOnly {
			m.ledger[entry] += sp.Cost
			if m.ledger[entry] > w.Limit && m.jumps == 0 {
				t.Fatalf("%+v: %d allowed in window %q", *sp, m.ledger[entry], w.Name)
			}
		}
	}
}

// drawSpend draws a Spend on one of few keys, so that steps meet.
func drawSpend(rt *rapid.T) *limits.Spend {
	windows := []limits.Window{
		{Name: "second", Per: limits.Second}, {Name: "minute", Per: limits.Minute}, {Name: "hour", Per: limits.Hour}, {Name: "day", Per: limits.Day},
		{Name: "month", Per: limits.Month}, {Name: "month29", Per: limits.Month, Anchor: 29}, {Name: "month31", Per: limits.Month, Anchor: 31},
	}
	sp := &limits.Spend{
		ID:       rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "id"),
		Cost:     rapid.SampledFrom([]int64{0, 1, 1, 1, 2, 3, 7}).Draw(rt, "cost"),
		ReadOnly: rapid.IntRange(0, 5).Draw(rt, "read") == 0,
	}
	for _, w := range windows {
		if rapid.IntRange(0, 2).Draw(rt, w.Name) > 0 {
			if w.Name == "month" { // of one name, the plan may change the anchor
				w.Anchor = rapid.SampledFrom([]int{0, 0, 1, 15, 28, 30, 31}).Draw(rt, "anchor")
			}
			w.Limit = rapid.SampledFrom([]int64{0, 3, 6, 6, 6, 20, 20}).Draw(rt, "limit")
			sp.Windows = append(sp.Windows, w)
		}
	}
	if len(sp.Windows) == 0 {
		sp.Windows = append(sp.Windows, limits.Window{Name: "minute", Per: limits.Minute, Limit: 5})
	}
	return sp
}

// drawMove draws how far the clock goes before a step, mostly nowhere. Whole seconds: the fraction
// stays far from an edge.
func drawMove(rt *rapid.T) time.Duration {
	const day = 24 * time.Hour
	return rapid.SampledFrom([]time.Duration{
		0, 0, 0, 0, 0, 0, time.Second, 20 * time.Second, time.Minute, time.Hour, day, 29 * day, 31 * day, 400 * day,
		-time.Second, -time.Minute, -time.Hour, -day, -30 * day, -400 * day,
	}).Draw(rt, "move")
}

// No interleaving of keys, costs, plans, times, replicas and restarts exceeds a limit or refuses
// below it.
func TestSpendIsTheModel(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		ctx := context.Background()
		rapid.Check(t, func(rt *rapid.T) {
			b.empty(rt)
			m := newModel()
			stores := []*Store{NewStore(b.client, b.now), NewStore(b.client, b.now), NewStore(b.client, b.now)}
			now := time.Date(2027, 12, 30, 23, 59, 58, 50_000_000, time.UTC)
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				now = now.Add(drawMove(rt))
				replica := rapid.IntRange(0, len(stores)-1).Draw(rt, "replica")
				if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
					stores[replica] = NewStore(b.client, b.now)
					if err := b.client.ScriptFlush(ctx).Err(); err != nil {
						rt.Fatal(err)
					}
				}
				b.at(t, now)
				sp := drawSpend(rt)
				res := mustSpend(rt, stores[replica], sp)
				m.verify(rt, sp, res)
				if drift := res.Now.Sub(now); drift < -2*time.Millisecond || drift > 5*time.Second {
					rt.Fatalf("now is %v, want %v", res.Now, now)
				}
			}
			verifyCollected(rt, b)
		})
	})
}

// verifyCollected sees that every key has a TTL, and one that outlasts every window: only garbage
// is collected.
func verifyCollected(t fatal, b *backend) {
	ctx := context.Background()
	keys, err := b.client.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, key := range keys {
		ttl, err := b.client.PTTL(ctx, key).Result()
		if err != nil || ttl < 32*24*time.Hour || ttl > 10*365*24*time.Hour {
			t.Fatalf("%s: TTL is %v, %v", key, ttl, err)
		}
	}
}

// The in-process counters of one replica are the model too.
func TestLocalIsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel()
		now := time.Date(2027, 12, 30, 23, 59, 58, 50_000_000, time.UTC)
		l := limits.NewLocal(1, func() time.Time { return now }, 2)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now = now.Add(max(drawMove(rt), 0))
			sp := drawSpend(rt)
			m.verify(rt, sp, l.Spend(sp))
		}
	})
}

// The windows of the script begin where those of Bounds do. All units and anchors are asked in one
// step.
func TestBoundsAreTheScripts(t *testing.T) {
	var windows []limits.Window
	for per := limits.Second; per < limits.Month; per++ {
		windows = append(windows, limits.Window{Name: per.String(), Limit: 1, Per: per})
	}
	for anchor := 0; anchor <= 31; anchor++ {
		windows = append(windows, limits.Window{Name: fmt.Sprint("from ", anchor), Limit: 1, Per: limits.Month, Anchor: anchor})
	}
	sp := &limits.Spend{ID: "bounds", Windows: windows, ReadOnly: true}
	layout := newLayout(windows)
	eachBackend(t, func(t *testing.T, b *backend) {
		s, ctx := NewStore(b.client, b.now), context.Background()
		verify := func(rt fatal, now time.Time) {
			b.at(t, now)
			c := &operation{id: sp.ID, layout: layout, readOnly: true}
			s.send(ctx, []*operation{c})
			if c.err != nil {
				rt.Fatalf("%v", c.err)
			}
			judged := time.UnixMilli(c.now)
			for i, w := range windows {
				if start, _ := w.Bounds(judged); start.Unix() != c.counts[i].Start {
					rt.Fatalf("%+v at %v: the script's start is %v, want %v", w, judged.UTC(), time.Unix(c.counts[i].Start, 0).UTC(), start)
				}
			}
		}
		// Both ends of each month over four years and a century without a leap day.
		for _, year := range []int{1900, 1999, 2000, 2027, 2028, 2099, 2100} {
			for month := time.January; month <= time.December; month++ {
				begin := time.Date(year, month, 1, 0, 0, 0, 50_000_000, time.UTC)
				verify(t, begin)
				verify(t, begin.Add(-time.Second))
				verify(t, begin.AddDate(0, 0, 28).Add(-time.Second))
			}
		}
		rapid.Check(t, func(rt *rapid.T) {
			verify(rt, time.Unix(rapid.Int64Range(-5e9, 15e9).Draw(rt, "now"), 50_000_000))
		})
	})
}
