package limits

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// spendAll spends one unit of each of n limit ids at once, and returns how many were allowed.
func spendAll(t *testing.T, l *Leases, n int, windows []Window) (allowed int64) {
	t.Helper()
	var mu sync.Mutex
	var work sync.WaitGroup
	for i := range n {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s := &Spend{ID: fmt.Sprint("key", i), Windows: windows, Cost: 1}
			res := Result{}
			if !l.Try(s, &res) {
				res, _ = l.Spend(ctx, s)
			}
			mu.Lock()
			defer mu.Unlock()
			if res.Allowed {
				allowed++
			}
		})
	}
	work.Wait()
	l.batches.quiet(t.Context())
	return allowed
}

// charged is what the store has charged for these limit ids.
func charged(t *testing.T, b *backend, n int, windows []Window) (sum int64) {
	t.Helper()
	for i := range n {
		res, err := b.store(t).Spend(t.Context(), &Spend{ID: fmt.Sprint("key", i), Windows: windows, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		sum += res.States[0].Spent
	}
	return sum
}

// What Redis refuses is not charged, and so not stranded, however much was asked for: while it is full, and while it is away.
func TestNothingIsStrandedWhereNothingWasRun(t *testing.T) {
	b := startRedis(t)
	l := NewLeases(b.store(t), Options{Timeout: 2 * time.Second})
	const ids = 40
	windows := []Window{{Name: "m", Limit: 1_000_000, Per: Month}}
	var allowed int64
	for range 20 { // they lease
		allowed += spendAll(t, l, ids, windows)
	}
	if l.Stats().Held == 0 {
		t.Fatal("nothing is leased")
	}
	if err := b.client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		allowed += spendAll(t, l, ids, windows)
	}
	if err := b.client.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); charged(t, b, ids, windows) != allowed+s.Held+int64(s.Stranded) || s.Stranded > 0 {
		t.Errorf("%d charged, %d allowed, %+v", charged(t, b, ids, windows), allowed, s)
	}
	b.stop()
	spendAll(t, l, ids, windows)
	if s := l.Stats(); s.Stranded != 0 {
		t.Errorf("%d stranded by a store that is away", s.Stranded)
	}
}

// What was sent and not answered in time may be charged, and it is counted, the spends themselves too.
func TestSpendsThatTimeOutAreStranded(t *testing.T) {
	for _, exact := range []bool{true, false} {
		b := startRedis(t)
		l := NewLeases(b.store(t), Options{Exact: exact, Timeout: 300 * time.Millisecond})
		const ids = 20
		windows := []Window{{Name: "m", Limit: 1_000_000, Per: Month}}
		allowed := spendAll(t, l, ids, windows)
		b.signal(syscall.SIGSTOP)
		if n := spendAll(t, l, ids, windows); n != 0 {
			t.Errorf("%d are allowed by a Redis that hangs", n)
		}
		b.signal(syscall.SIGCONT)
		before := charged(t, b, ids, windows) // Redis runs what it was sent first
		s := l.Stats()
		if lost := before - allowed - s.Held; s.Stranded != uint64(lost) || lost == 0 {
			t.Errorf("exact %v: %d charged, %d allowed, %+v", exact, before, allowed, s)
		}
	}
}
