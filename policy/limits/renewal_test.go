package limits

import (
	"context"
	"sync"
	"testing"
	"time"
)

// While another trip hangs, a lease that is due for renewal is spent to its last unit.
func TestRenewalDoesNotWait(t *testing.T) {
	w := newWorld(t, noon())
	l, windows := w.replica(0, false), three(100_000, 1_000_000, 1_000_000)
	w.hold(l, windows, 200)
	send, sent, goOn := l.batches.send, make(chan struct{}), make(chan struct{})
	first := true // trips of one lane follow each other
	l.batches.send = func(ctx context.Context, calls []*call) {
		if first {
			first = false
			sent <- struct{}{}
			<-goOn
		}
		send(ctx, calls)
	}
	other := make(chan error, 1)
	go func() {
		_, err := l.Spend(t.Context(), &Spend{ID: "b", Windows: windows, Cost: 1})
		other <- err
	}()
	<-sent
	held := l.Stats().Held
	var res Result
	for i := range held {
		if !l.Try(&Spend{ID: "a", Windows: windows, Cost: 1}, &res) || !res.Allowed {
			t.Fatalf("unit %d of %d that are there is not given", i, held)
		}
	}
	close(goOn)
	if err := <-other; err != nil {
		t.Fatal(err)
	}
	l.batches.quiet(t.Context())
	if l.Stats().Held < 32 {
		t.Errorf("%d units are held after the renewal", l.Stats().Held)
	}
	w.at = w.at.Add(time.Second)
	w.must(l, &Spend{ID: "a", Windows: windows, Cost: 1}, true)
}

// When a window ends, what is left of the lease of a busy key goes back to the longer windows and a new one is leased
// before anybody asks; for a key that is hardly used, nothing is done.
func TestLeaseOfTheNextWindow(t *testing.T) {
	for _, c := range []struct {
		spends int
		ahead  bool
	}{{2, true}, {200, true}, {1, false}} {
		w := newWorld(t, noon().Add(55*time.Second))
		l, windows := w.replica(0, false), three(100_000, 1_000_000, 1_000_000)
		w.hold(l, windows, c.spends)
		l.batches.quiet(t.Context())
		calls := w.calls
		w.at = w.at.Add(4*time.Second + 900*time.Millisecond) // 12:00:59.95
		if next := l.sweep(); c.ahead && (next < 50*time.Millisecond || next > 60*time.Millisecond) {
			t.Errorf("%+v: the next sweep is in %v", c, next)
		}
		w.at = w.at.Add(60 * time.Millisecond)
		l.sweep()
		l.batches.quiet(t.Context())
		if got := w.calls - calls; (got == 1) != c.ahead || got > 1 {
			t.Fatalf("%+v: %d calls", c, got)
		}
		if !c.ahead {
			continue
		}
		minute, held := w.held(windows[0])
		if day, _ := w.held(windows[2]); held == 0 || minute != held || day != int64(c.spends)+held {
			t.Errorf("%+v: %d in the minute, %d in the day, %d held", c, minute, day, held)
		}
		if !l.Try(spendOf(windows, 1), new(Result)) {
			t.Errorf("%+v: the first request of the minute waits", c)
		}
	}
}

// A spend that comes while a renewal of its key is queued does what the renewal was to do.
func TestSpendOvertakesRenewal(t *testing.T) {
	w := newWorld(t, noon())
	l, windows := w.replica(0, false), three(100_000, 1_000_000, 1_000_000)
	w.hold(l, windows, 100)
	spent := int64(100)
	held := l.Stats().Held
	rest := untilRenewal(t, l, windows)
	lane := l.batches.laneOf("a")
	lane.running = true
	calls := w.calls
	for range rest {
		l.Try(spendOf(windows, 1), new(Result))
	}
	res := make(chan Result)
	go func() {
		r, err := l.Spend(t.Context(), spendOf(windows, 1))
		if err != nil {
			t.Error(err)
		}
		res <- r
	}()
	await(l, "a", 1)
	l.batches.run(lane)
	if r := <-res; !r.Allowed || w.calls-calls != 1 || l.Stats().Held < 32 {
		t.Errorf("%+v after %d calls, %d held", r, w.calls-calls, l.Stats().Held)
	}
	spent += held + 1
	if day, _ := w.held(windows[2]); day-l.Stats().Held != spent {
		t.Errorf("%d in the day, of which %d are held, after %d spends", day, l.Stats().Held, spent)
	}
}

// A renewal that is about to be sent is not overtaken: what it settles would be settled twice.
func TestRenewalThatIsSentIsNotOvertaken(t *testing.T) {
	w := newWorld(t, noon())
	l, windows := w.replica(0, false), three(100_000, 1_000_000, 1_000_000)
	w.hold(l, windows, 2)
	w.hold(l, windows, int(l.Stats().Held)-1)
	spent := int64(2 + 3)
	lane := l.batches.laneOf("a")
	lane.running = true
	var work sync.WaitGroup
	for n := range 2 { // the first takes the last unit and has the lease renewed
		work.Go(func() {
			if res, err := l.Spend(context.Background(), spendOf(windows, 1)); err != nil || !res.Allowed {
				t.Error(res, err)
			}
		})
		await(l, "a", n+1)
	}
	calls := w.calls
	l.batches.run(lane)
	work.Wait()
	spent += 2
	if n := w.calls - calls; n != 1 {
		t.Errorf("%d calls, want the renewal alone", n)
	}
	l.giveBack()
	if day, held := w.held(windows[2]); day != spent || held != 0 {
		t.Errorf("%d spent and %d held in the store, want %d and none", day, held, spent)
	}
}
