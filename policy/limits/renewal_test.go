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

// A lease that is taken just after its shard was looked through is renewed at its end all the same, while shards without
// leases wait for their turn.
func TestShardIsDueAtTheEndOfALease(t *testing.T) {
	w := newWorld(t, noon().Add(58*time.Second))
	l, windows := w.replica(0, false), three(100_000, 1_000_000, 1_000_000)
	l.sweep()
	other := &Spend{ID: "b", Windows: windows, Cost: 1}
	for l.shard(other.ID) == l.shard("a") {
		other.ID += "b"
	}
	w.must(l, other, true)
	w.hold(l, windows, 200) // a lease in a shard that was looked through
	calls, looked := w.calls, l.shard(other.ID).due
	w.at = w.at.Add(2*time.Second + 10*time.Millisecond) // 12:01:00.01
	l.sweep()
	l.batches.quiet(t.Context())
	if got := w.calls - calls; got != 1 || l.shard(other.ID).due != looked {
		t.Errorf("%d calls at the end of the window; the other shard was due at %v and is at %v", got, looked, l.shard(other.ID).due)
	}
	w.at = w.at.Add(idleEvery)
	if l.sweep(); l.shard(other.ID).due <= looked {
		t.Error("the other shard is never looked through")
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
	lane.runs = 1
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
	lane.runs = 1
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

// queueRenewal has the lease of a replica renewed, but the renewal not sent.
func queueRenewal(t *testing.T, l *Leases, windows []Window) *lane {
	t.Helper()
	untilRenewal(t, l, windows)
	lane := l.batches.laneOf("a")
	lane.runs = 1
	if !l.Try(spendOf(windows, 1), new(Result)) || len(lane.ahead) != 1 {
		t.Fatalf("%d renewals are queued", len(lane.ahead))
	}
	return lane
}

// A spend that does not fit in the rest of a lease whose renewal is queued is judged by all that is left.
func TestSpendThatOvertakesGivesTheRestBack(t *testing.T) {
	w := newWorld(t, noon())
	l, windows := w.replica(0, false), one(10_000, Minute)
	w.hold(l, windows, 900)
	lane := queueRenewal(t, l, windows)
	spent, _ := w.held(windows[0])
	rest := l.Stats().Held
	if rest < 2 {
		t.Fatalf("%d units are left", rest)
	}
	allowed := make(chan bool, 1)
	go func() {
		res, err := l.Spend(t.Context(), spendOf(windows, 10_000-spent+rest))
		allowed <- err == nil && res.Allowed
	}()
	await(l, "a", 1)
	l.batches.run(lane)
	if !<-allowed {
		t.Errorf("refused, with %d units held here", rest)
	}
	l.giveBack()
	if spent, held := w.held(windows[0]); spent != 10_000 || held != 0 {
		t.Errorf("%d spent, %d held", spent, held)
	}
}

// What is no longer in the table leases nothing: not under the plan before, not at the end.
func TestQueuedRenewalIsWithdrawn(t *testing.T) {
	for _, ends := range []bool{false, true} {
		w := newWorld(t, noon())
		l, windows := w.replica(0, false), three(100_000, 1_000_000, 1_000_000)
		w.hold(l, windows, 200)
		lane := queueRenewal(t, l, windows)
		spent, _ := w.held(windows[2])
		spent -= l.Stats().Held
		send := l.batches.send
		l.batches.send = func(ctx context.Context, calls []*call) {
			for _, c := range calls {
				if c.want > 0 {
					t.Errorf("ends %v: %d units are asked for", ends, c.want)
				}
			}
			send(ctx, calls)
		}
		if ends {
			lane.runs = 0
		} else {
			var work sync.WaitGroup
			work.Go(func() {
				if res, err := l.Spend(context.Background(), spendOf(three(300, 1_000_000, 1_000_000), 1)); err != nil || !res.Allowed {
					t.Error(res, err)
				}
			})
			await(l, "a", 1)
			l.batches.run(lane)
			work.Wait()
			spent++
		}
		l.giveBack()
		if day, held := w.held(windows[2]); day != spent || held != 0 || l.Stats().Stranded != 0 {
			t.Errorf("ends %v: %d spent, %d held, %d stranded, want %d", ends, day, held, l.Stats().Stranded, spent)
		}
	}
}

// A plan that becomes exact leases nothing when its window ends either.
func TestExactLeasesNothingAhead(t *testing.T) {
	w := newWorld(t, noon().Add(55*time.Second))
	l, windows := w.replica(0, false), three(100_000, 1_000_000, 1_000_000)
	w.hold(l, windows, 200)
	l.batches.quiet(t.Context())
	exact := spendOf(windows, 1)
	exact.Exact = true
	w.must(l, exact, true)
	w.at = w.at.Add(5 * time.Second)
	l.sweep()
	l.batches.quiet(t.Context())
	if _, held := w.held(windows[2]); held != 0 {
		t.Errorf("%d held of an exact plan", held)
	}
}

// A key that was busy and is quiet for a whole window is not leased for at the end of each.
func TestQuietKeyIsNotLeasedFor(t *testing.T) {
	w := newWorld(t, noon())
	l := w.replica(0, false)
	windows := []Window{{Name: "second", Limit: 250, Per: Second}, {Name: "day", Limit: 1_000_000, Per: Day}}
	sweep := func() {
		l.sweep()
		l.batches.quiet(t.Context())
	}
	for range 20 {
		w.hold(l, windows, 10)
		w.at = w.at.Add(time.Second)
		sweep()
	}
	w.must(l, spendOf(windows, 1), true)
	calls := w.calls
	for range 70 {
		w.at = w.at.Add(time.Second)
		sweep()
	}
	if _, held := w.held(windows[1]); held != 0 || w.calls-calls > 2 {
		t.Errorf("%d calls for a key that nobody uses, %d held", w.calls-calls, held)
	}
}
