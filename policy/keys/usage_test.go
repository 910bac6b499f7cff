package keys

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// touches keeps what was written.
type touches struct {
	mu    sync.Mutex
	calls []map[string]time.Time
	err   error
}

func (s *touches) Touch(_ context.Context, ids map[string]time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	call := map[string]time.Time{}
	for id, at := range ids {
		call[id] = at
	}
	s.calls = append(s.calls, call)
	return nil
}

func TestUsageWritesEachKeyOnceAMinute(t *testing.T) {
	store, clock := &touches{}, &testClock{}
	u := NewUsage(store, 100, clock.Now)
	g := NewGrant(sample())
	for range 3 {
		u.Note(g)
		u.Note(NewGrant(sample())) // the cache reads a record again, or forgets it
		clock.Advance(time.Second)
	}
	if err := u.flush(t.Context()); err != nil || len(store.calls) != 1 || len(store.calls[0]) != 1 {
		t.Fatalf("%v, %v", store.calls, err)
	}
	if at := store.calls[0][g.ID()]; clock.Now().Sub(at) > time.Minute {
		t.Errorf("used at %v", at)
	}
	if err := u.flush(t.Context()); err != nil || len(store.calls) != 1 {
		t.Errorf("a minute without use: %v, %v", store.calls, err)
	}
	u.Note(g)
	if err := u.flush(t.Context()); err != nil || len(store.calls) != 2 {
		t.Errorf("the next minute: %v, %v", store.calls, err)
	}
}

func TestUsageInBatches(t *testing.T) {
	store, clock := &touches{}, &testClock{}
	u := NewUsage(store, 2_500, clock.Now)
	for i := range 3_000 {
		u.Note(NewGrant(sample(func(k *Key) { k.ID = fmt.Sprintf("key_%04d", i) })))
	}
	if err := u.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for _, call := range store.calls {
		if len(call) > touchBatch {
			t.Errorf("%d keys in one call", len(call))
		}
		for id := range call {
			written[id] = true
		}
	}
	if len(store.calls) != 3 || len(written) != 2_500 {
		t.Errorf("%d keys in %d calls", len(written), len(store.calls))
	}
}

func TestUsageTriesAgain(t *testing.T) {
	store, clock := &touches{err: errors.New("away")}, &testClock{}
	u := NewUsage(store, 100, clock.Now)
	u.Note(NewGrant(sample()))
	ticks, failed := make(chan time.Time), make(chan error)
	u.ticks = func() (<-chan time.Time, func()) { return ticks, func() {} }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); u.Run(ctx, func(err error) { failed <- err }) }()
	ticks <- time.Time{}
	if err := <-failed; err == nil {
		t.Error("no error")
	}
	store.mu.Lock()
	store.err = nil
	store.mu.Unlock()
	cancel() // the end writes once more
	<-ended
	if len(store.calls) != 1 || len(store.calls[0]) != 1 {
		t.Errorf("%v", store.calls)
	}
}

func TestUsageKeepsTheNewerTime(t *testing.T) {
	u := NewUsage(&touches{}, 1, (&testClock{}).Now)
	u.noted["key_a"] = time.Unix(9, 0)
	u.putBack(map[string]time.Time{"key_a": time.Unix(1, 0), "key_b": time.Unix(1, 0)})
	if len(u.noted) != 1 || u.noted["key_a"].Unix() != 9 {
		t.Errorf("%v", u.noted)
	}
}

func TestAges(t *testing.T) {
	clock := &testClock{}
	u := NewUsage(&touches{}, 100, clock.Now)
	for i, days := range []int{1, 31, 31, 400} {
		g := NewGrant(sample(func(k *Key) {
			k.ID, k.CreatedAt = fmt.Sprintf("key_%04d", i), clock.Now().AddDate(0, 0, -days)
		}))
		u.Note(g)
		u.Note(g)
	}
	u.Note(NewGrant(sample())) // of unknown age
	if len(u.Ages()) != 0 {
		t.Error("a minute that is not over")
	}
	if err := u.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := u.Ages()["pixelbyte"]
	if a.Count != 4 || a.Days != 463 || a.Buckets[7] != 1 || a.Buckets[30] != 1 || a.Buckets[60] != 3 || a.Buckets[365] != 3 {
		t.Errorf("%+v", a)
	}
}

func TestNoteAgainDoesNotAllocate(t *testing.T) {
	u, g := NewUsage(&touches{}, 100, time.Now), NewGrant(sample())
	u.Note(g)
	if n := testing.AllocsPerRun(1_000, func() { u.Note(g) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestUsageTicksByItself(t *testing.T) {
	u := NewUsage(&touches{}, 1, time.Now)
	ticks, stop := u.ticks()
	stop()
	if ticks == nil {
		t.Error("no ticks")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u.Run(ctx, nil)
}
