package limits

import (
	"context"
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
	if l.Stats().Held < leaseAhead {
		t.Errorf("%d units are held after the renewal", l.Stats().Held)
	}
	w.at = w.at.Add(time.Second)
	w.must(l, &Spend{ID: "a", Windows: windows, Cost: 1}, true)
}
