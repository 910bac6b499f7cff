package counters

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/policy/limits"
)

// twin does what spend.lua does, in this process, so that days can be simulated in seconds.
// TestTwinIsTheScript holds the two equal.
type twin struct {
	now     func() time.Time
	records map[windowKey]twinRecord
}

// twinRecord is a window: what is counted, what of that is held, and what is remembered.
type twinRecord struct {
	start, spent, held int64
	previous           limits.Count
}

// at returns the record in force at now.
func (r twinRecord) at(w limits.Window, known bool, now int64) twinRecord {
	_, end := bounds(w, r.start)
	t := w.Advance(limits.Counter{Last: limits.Count{Start: r.start, End: end, Spent: r.spent}, Previous: r.previous}, known, now)
	next := twinRecord{start: t.Last.Start, spent: t.Last.Spent, previous: t.Previous}
	if known && next.start == r.start {
		next.held = r.held
	}
	return next
}

func newTwin(now func() time.Time) *twin { return &twin{now, map[windowKey]twinRecord{}} }

func (t *twin) run(c *operation) outcome {
	now := t.now()
	windows := c.layout.windows
	records := make([]twinRecord, len(windows))
	allowed, grant, changed := int64(1), c.want, false
	if c.readOnly {
		grant = 0
	}
	for i, w := range windows {
		r, known := t.records[windowID(c.id, w, 0)]
		changed = changed || r.start > now.Unix()
		r = r.at(w, known, now.Unix())
		if c.settle.units > 0 && r.held >= c.settle.units && r.start == c.settle.counts[i].Start {
			r.held -= c.settle.units
			r.spent -= c.settle.back
			changed = true
		}
		if w.Denies(limits.State{Spent: r.spent}, c.cost) {
			allowed = 0
		}
		room := w.Limit - r.spent - c.cost
		if grant > 0 {
			most := int64(0)
			if room >= 100 {
				most = (room/50 - r.held) / 2
			}
			grant = min(grant, most)
		}
		records[i] = r
	}
	grant = max(grant, 0) * allowed
	add := c.cost * allowed
	if c.readOnly {
		add = 0
	}
	j := outcome{allowed: allowed == 1, now: now.UnixMilli(), granted: grant}
	for i, w := range windows {
		records[i].spent += add + grant
		records[i].held += grant
		if add+grant > 0 || changed {
			t.records[windowID(c.id, w, 0)] = records[i]
		}
		j.starts, j.spents = append(j.starts, records[i].start), append(j.spents, records[i].spent)
	}
	return j
}

// No operation tells the twin from the script.
func TestTwinIsTheScript(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		ctx := context.Background()
		s := b.store(t)
		rapid.Check(t, func(rt *rapid.T) {
			b.empty(rt)
			var judged time.Time
			twin := newTwin(func() time.Time { return judged })
			now := time.Date(2027, 12, 30, 23, 59, 58, 50_000_000, time.UTC)
			var last []limits.Count
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				now = now.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, 0, 0, time.Second, time.Minute, time.Hour, -time.Minute}).Draw(rt, "move"))
				b.at(t, now)
				c := drawCall(rt, last)
				s.send(ctx, []*operation{c})
				if c.err != nil {
					rt.Fatalf("%+v: %v", c.settle, c.err)
				}
				judged = time.UnixMilli(c.now).UTC()
				want := &operation{layout: c.layout, cost: c.cost, readOnly: c.readOnly, want: c.want}
				if err := want.read(twin.run(c)); err != nil {
					rt.Fatal(err)
				}
				if c.allowed != want.allowed || c.granted != want.granted || fmt.Sprint(c.counts) != fmt.Sprint(want.counts) {
					rt.Fatalf("cost %d, want %d, settle %+v:\nscript %v %d %v\n  twin %v %d %v", c.cost, c.want, c.settle,
						c.allowed, c.granted, c.counts, want.allowed, want.granted, want.counts)
				}
				last = c.counts
			}
			verifyCollected(rt, b)
		})
	})
}

func drawCall(rt *rapid.T, last []limits.Count) *operation {
	windows := []limits.Window{{Name: "m", Per: limits.Minute}, {Name: "h", Per: limits.Hour}, {Name: "q", Per: limits.Month, Anchor: 31}}
	for i := range windows {
		windows[i].Limit = rapid.SampledFrom([]int64{0, 90, 250, 250, 1000, 1000, 1000}).Draw(rt, "limit")
	}
	c := &operation{
		id: "a", layout: newLayout(windows),
		cost:     rapid.SampledFrom([]int64{0, 1, 1, 5, 40, 140, 300}).Draw(rt, "cost"),
		want:     rapid.SampledFrom([]int64{0, 1, 3, 10, 1000}).Draw(rt, "want"),
		readOnly: rapid.IntRange(0, 9).Draw(rt, "read") == 0,
	}
	if c.readOnly {
		c.want = 0
	}
	if last != nil && rapid.Bool().Draw(rt, "settle") {
		c.settle.units = rapid.Int64Range(1, 12).Draw(rt, "units")
		c.settle.back = rapid.Int64Range(0, c.settle.units).Draw(rt, "back")
		c.settle.counts = last
	}
	return c
}

var errLost = errors.New("lost")

// world is a simulated store, its clock, and replicas. It runs one step at a time.
type world struct {
	t      fatal
	at     time.Time     // Redis' clock
	steps  time.Duration // by which that clock was set forward; all else of it is real time
	twin   *twin
	fault  func() fault // drawn for each round trip
	lazy   bool         // what nobody waits for is sent with the next operation only
	calls  int
	direct int64 // units that operations spent themselves
	// charged are units of which the store kept the cost and the caller heard nothing, by window.
	charged, allowed map[windowKey]int64
	most             map[windowKey]int64 // the highest limit that a window had
}

// fault is what happens to one round trip.
type fault struct {
	before, after time.Duration // on the way there and back
	lost          int           // 1: the operations; 2: their answers
}

func newWorld(t fatal, at time.Time) *world {
	w := &world{t: t, at: at, charged: map[windowKey]int64{}, allowed: map[windowKey]int64{}, most: map[windowKey]int64{}}
	w.twin = newTwin(func() time.Time { return w.at })
	w.fault = func() fault { return fault{} }
	return w
}

// replica returns Leases whose clock differs from that of Redis by skew.
func (w *world) replica(skew time.Duration, exact bool) *Leases {
	began := w.at
	l := NewLeases(NewStore(nil, func() time.Duration { return 0 }), Options{
		Exact: exact,
		Clock: func() time.Duration { return w.at.Sub(began) - w.steps + skew },
		Wall:  func() time.Time { return w.at.Add(-w.steps) },
	})
	l.batches.afterLinger = func(f func()) {
		if !w.lazy {
			go f()
		}
	}
	l.batches.afterSlow = func(func()) {} // nothing goes beside a round trip
	l.batches.send = func(_ context.Context, calls []*operation) {
		w.calls += len(calls)
		f := w.fault()
		w.at = w.at.Add(f.before)
		for _, c := range calls {
			if f.lost == 1 {
				c.err = errLost
				continue
			}
			if err := c.read(w.twin.run(c)); err != nil {
				w.t.Fatalf("%v", err)
			}
			if c.allowed && !c.readOnly {
				w.direct += c.cost
			}
			if f.lost == 2 {
				w.charge(c)
				c.err, c.granted, c.counts, c.allowed = errLost, 0, nil, false
			}
		}
		w.at = w.at.Add(f.after)
	}
	return l
}

func (w *world) charge(c *operation) {
	if c.allowed && !c.readOnly {
		for i, win := range c.layout.windows {
			w.charged[windowID(c.id, win, c.counts[i].Start)] += c.cost
		}
	}
}

// windowKey is one window of one limit id.
type windowKey struct {
	id, name string
	per      limits.Unit
	start    int64
}

func windowID(id string, w limits.Window, start int64) windowKey {
	return windowKey{id, w.Name, w.Per, start}
}

// spend spends on a replica and holds the answer to what must always be true. slack is how much of
// a limit, as one part in so many, may be held back; 0: nothing.
func (w *world) spend(l *Leases, s *limits.Spend, slack int64) (limits.Result, error) {
	var res limits.Result
	before, err := w.at, error(nil)
	if l.Try(s, &res) {
		if !w.lazy {
			l.batches.drain(context.Background()) // it may have had the lease renewed
		}
		for _, state := range res.States {
			if !state.Reset.After(before) {
				w.t.Fatalf("answered at %v from a window that ended at %v", w.at, state.Reset)
			}
		}
	} else {
		res, err = l.Spend(context.Background(), s)
		l.batches.drain(context.Background())
	}
	if err != nil {
		return res, err
	}
	if res.Now.Before(before.Add(-time.Second)) || res.Now.After(w.at) {
		w.t.Fatalf("now is %v, between %v and %v", res.Now, before, w.at)
	}
	if s.ReadOnly {
		return res, nil
	}
	tight := false
	for i, win := range s.Windows {
		start, _ := bounds(win, res.Now.Unix())
		id := windowID(s.ID, win, start)
		w.most[id] = max(w.most[id], win.Limit)
		if res.Allowed {
			w.allowed[id] += s.Cost
			if w.allowed[id] > w.most[id] {
				w.t.Fatalf("%d allowed in %v at %v, of %d", w.allowed[id], id, w.at, w.most[id])
			}
		}
		held := int64(0)
		if slack > 0 {
			held = win.Limit / slack
		}
		if res.States[i].Spent < 0 || res.States[i].Reset.Before(res.Now) {
			w.t.Fatalf("%v: %+v at %v", id, res.States[i], res.Now)
		}
		tight = tight || w.allowed[id]+w.charged[id]+s.Cost > win.Limit-held
	}
	if !res.Allowed && !tight {
		w.t.Fatalf("denied early at %v: cost %d of %v: %v, allowed %v", w.at, s.Cost, s.Windows, res.States, w.allowed)
	}
	return res, nil
}
