package limits

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// laneOf returns where the calls of a limit id go.
func (b *batches) laneOf(id string) *lane {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lane(b.node(id))
}

// await waits until so many calls are queued for a limit id.
func await(l *Leases, id string, n int) {
	lane := l.batches.laneOf(id)
	for queued := -1; queued < n; runtime.Gosched() {
		l.batches.mu.Lock()
		queued = len(lane.queue)
		l.batches.mu.Unlock()
	}
}

// gate holds up the trips of Leases.
type gate struct{ sent, goOn chan struct{} }

func hold(l *Leases) gate {
	g := gate{make(chan struct{}, 100), make(chan struct{})}
	l.batches.slow = func(func()) {} // nothing goes beside it
	send := l.batches.send
	l.batches.send = func(ctx context.Context, calls []*call) {
		g.sent <- struct{}{}
		<-g.goOn
		send(ctx, calls)
	}
	return g
}

// Spends that arrive while a trip is under way share the next one.
func TestSpendsShareATrip(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
		l := b.leases(t, Options{Exact: true})
		mustSpend(t, l, spendOf(plan(), 1)) // the script is known
		g := hold(l)
		var work sync.WaitGroup
		spend := func(i int) {
			work.Go(func() {
				res := mustSpend(t, l, &Spend{ID: fmt.Sprint("key", i), Windows: plan(), Cost: int64(i)})
				if !res.Allowed || res.States[1].Spent != int64(i) {
					t.Errorf("spend %d: %+v", i, res)
				}
			})
		}
		spend(0)
		<-g.sent
		for i := 1; i <= 20; i++ {
			spend(i)
		}
		await(l, "", 20)
		close(g.goOn)
		work.Wait()
		if s := l.Stats(); s.Calls != 22 || s.Trips != 3 {
			t.Errorf("%+v", s)
		}
	})
}

// A Redis that has not seen the script gets it in a second trip, for those that ran nothing.
func TestPipelineOfAnUnseenScript(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
		s := b.store(t)
		var calls []*call
		for i := range 5 {
			calls = append(calls, &call{id: fmt.Sprint("key", i), layout: newLayout(plan()), cost: 1})
		}
		for round := 1; round <= 2; round++ {
			if round == 2 {
				if err := b.client.ScriptFlush(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
			}
			s.send(t.Context(), calls)
			for _, c := range calls {
				if c.err != nil || c.counts[0].spent != int64(round) {
					t.Errorf("round %d, %s: %v %v", round, c.id, c.counts, c.err)
				}
			}
		}
	})
}

// Each call has its own answer and its own error, and a broken record is left as it is.
func TestOneBadCounterSpoilsNoOther(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
		ctx := t.Context()
		b.client.Set(ctx, "tg:v1:count:{key1}", "text", 0)
		b.client.HSet(ctx, "tg:v1:count:{key2}", "day:day", "5:5:6")
		s := b.store(t)
		layout := newLayout(plan())
		var calls []*call
		for i := range 5 {
			calls = append(calls, &call{id: fmt.Sprint("key", i), layout: layout, cost: 1})
		}
		s.send(ctx, calls)
		for i, about := range []string{"", "limits: spend: WRONGTYPE Operation against a key", "limits: spend: CORRUPT counter day:day", "", ""} {
			c := calls[i]
			var broken *BrokenError
			switch {
			case about == "" && (c.err != nil || !c.allowed || c.counts[0].spent != 1):
				t.Errorf("call %d: %v, %v, %v", i, c.allowed, c.counts, c.err)
			case about != "" && (!errors.As(c.err, &broken) || !strings.HasPrefix(c.err.Error(), about) || c.allowed):
				t.Errorf("call %d: %v", i, c.err)
			}
		}
		if fields := b.client.HGetAll(ctx, "tg:v1:count:{key2}").Val(); len(fields) != 1 || fields["day:day"] != "5:5:6" {
			t.Errorf("the broken record is left as %v", fields)
		}
	})
}

// A caller whose time is up leaves at once. What was not sent then is not; what was goes on, and is counted.
func TestCallersLeave(t *testing.T) {
	b := startEmbedded(t)
	b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
	l := b.leases(t, Options{Exact: true})
	g := hold(l)
	leave := func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan error)
		go func() {
			_, err := l.Spend(ctx, spendOf(plan(), 1))
			left <- err
		}()
		return func() {
			cancel()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("left with %v", err)
			}
		}
	}
	first := leave()
	<-g.sent
	second := leave()
	await(l, "a", 1)
	first()
	second()
	close(g.goOn)
	l.batches.quiet(t.Context())
	if res := mustSpend(t, l, &Spend{ID: "a", Windows: plan(), ReadOnly: true}); res.States[0].Spent != 1 {
		t.Errorf("%d spent, want the one that was on its way", res.States[0].Spent)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	before := l.Stats().Calls
	if _, err := l.Spend(done, spendOf(plan(), 1)); !errors.Is(err, context.Canceled) || l.Stats().Calls != before {
		t.Errorf("a finished context: %v", err)
	}
}

// The queue is bounded; what must go back is never refused.
func TestQueueIsBounded(t *testing.T) {
	b := startEmbedded(t)
	l := b.leases(t, Options{Exact: true})
	l.batches.slow = func(func()) {}
	lane := l.batches.laneOf("a")
	lane.runs = 1
	lane.queue = make([]*call, maxQueue)
	if _, err := l.Spend(t.Context(), spendOf(plan(), 1)); !errors.Is(err, ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	if err := l.batches.add(&call{id: "a"}); err != nil || len(lane.ahead) != 1 {
		t.Errorf("what goes back is refused: %v", err)
	}
}

// Calls that nobody waits for go along where callers would fill each pipeline, and withdrawn ones do not hold them up.
// Where all are waited for, as at the end, they fill pipelines.
func TestAheadGoesAlong(t *testing.T) {
	l := newWorld(t, noon()).replica(0, true)
	var trips [][]*call
	l.batches.send = func(_ context.Context, calls []*call) {
		trips = append(trips, append([]*call(nil), calls...))
		for _, c := range calls {
			c.err = errLost
		}
	}
	queue := func(n int, done bool, state int32) {
		for i := range n {
			c := &call{id: fmt.Sprint("key", i), layout: newLayout(plan()), exact: true}
			if c.state.Store(state); done {
				c.done = make(chan struct{}, 1)
			}
			if err := l.batches.add(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	lane := l.batches.laneOf("a")
	lane.runs = 1
	queue(2*maxBatch, true, queued)
	queue(1000, false, left)
	queue(1, false, queued)
	l.batches.run(lane)
	if n := len(trips[0]); n > maxBatch || trips[0][n-1].done != nil {
		t.Errorf("%d calls in the first trip, and the one that nobody waits for is not among them", n)
	}
	trips = nil
	lane.runs = 1
	queue(2*maxBatch, false, queued)
	lane.idle = append(lane.idle, make(chan struct{}))
	l.batches.run(lane)
	if len(trips) != 2 {
		t.Errorf("%d trips for what two can take", len(trips))
	}
}

// A store that is gone or silent is an error by the context's deadline, and the next caller is not held up by it for longer
// than a trip may take.
func TestLeasesWithoutAStore(t *testing.T) {
	b := startRedis(t)
	l := NewLeases(b.store(t), Options{Timeout: 100 * time.Millisecond})
	mustSpend(t, l, spendOf(plan(), 1))
	b.stop()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		begin := time.Now()
		res, err := l.Spend(ctx, spendOf(plan(), 1))
		cancel()
		if err == nil || res.Allowed || time.Since(begin) > 2*time.Second {
			t.Errorf("%+v, %v after %v", res, err, time.Since(begin))
		}
		var broken *BrokenError
		if errors.As(err, &broken) {
			t.Errorf("a store that is away is taken for a broken limit: %v", err)
		}
	}
}

func TestInvalidSpendOfLeases(t *testing.T) {
	l := startEmbedded(t).leases(t, Options{})
	for _, s := range []*Spend{
		{Windows: plan(), Cost: 1}, {Cost: 1}, {ID: "a", Windows: plan(), Cost: -1}, {ID: "a", Windows: []Window{{}}, Cost: 1},
	} {
		res, err := l.Spend(t.Context(), s)
		var broken *BrokenError
		if l.Try(s, &res) || !errors.As(err, &broken) || res.Allowed {
			t.Errorf("%+v: %+v, %v", *s, res, err)
		}
	}
	if res, err := l.Spend(t.Context(), &Spend{ID: "a"}); err != nil || !res.Allowed {
		t.Errorf("no windows: %+v, %v", res, err)
	}
}
