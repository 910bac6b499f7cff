package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"pgregory.net/rapid"
)

// touches keeps what was written.
type touches struct {
	mu    sync.Mutex
	calls [][]store.Use
	err   error
}

func (s *touches) Touch(_ context.Context, uses []store.Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.calls = append(s.calls, slices.Clone(uses))
	return nil
}

func TestUsageWritesEachGrantOnceAMinute(t *testing.T) {
	writes, clock := &touches{}, &keystest.Clock{}
	u := NewUsage(writes, 100, clock.Now)
	g := keys.NewGrant(keystest.Sample())
	var want []store.Use
	for i := range 3 {
		u.Note(g)
		if i > 0 {
			u.Note(keys.NewGrant(keystest.Sample())) // the cache reads a record again, or forgets it
		}
		want = append(want, store.Use{ID: g.ID(), At: clock.Now().Local()})
		clock.Advance(time.Second)
	}
	if err := u.flush(t.Context()); err != nil || len(writes.calls) != 1 || !slices.Equal(writes.calls[0], want) {
		t.Fatalf("%v, %v, want %v", writes.calls, err, want)
	}
	if err := u.flush(t.Context()); err != nil || len(writes.calls) != 1 {
		t.Errorf("a minute without use: %v, %v", writes.calls, err)
	}
	u.Note(g)
	if err := u.flush(t.Context()); err != nil || len(writes.calls) != 2 {
		t.Errorf("the next minute: %v, %v", writes.calls, err)
	}
}

func TestUsageInBatches(t *testing.T) {
	store, clock := &touches{}, &keystest.Clock{}
	u := NewUsage(store, 2_500, clock.Now)
	for i := range 3_000 {
		u.Note(keys.NewGrant(keystest.Sample(func(k *keys.Key) { k.ID = fmt.Sprintf("key_%04d", i) })))
	}
	if err := u.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for _, call := range store.calls {
		if len(call) > touchBatch {
			t.Errorf("%d keys in one call", len(call))
		}
		for _, use := range call {
			written[use.ID] = true
		}
	}
	if len(store.calls) != 3 || len(written) != 2_500 || written["key_0499"] {
		t.Errorf("%d keys in %d calls", len(written), len(store.calls))
	}
}

func TestUsageTriesAgain(t *testing.T) {
	store, clock := &touches{err: errors.New("away")}, &keystest.Clock{}
	u := NewUsage(store, 100, clock.Now)
	u.Note(keys.NewGrant(keystest.Sample()))
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

// unsteady is a store that at one call writes a part only, and where keys are used while it is
// called.
type unsteady struct {
	t      *rapid.T
	told   map[string]time.Time
	fail   int    // the call of a flush that fails; negative for none
	part   int    // what that call writes nevertheless
	during func() // is called in the first call of a flush
	calls  int    // of this flush
}

func (s *unsteady) Touch(_ context.Context, uses []store.Use) error {
	if len(uses) == 0 || len(uses) > touchBatch {
		s.t.Fatalf("%d uses in one call", len(uses))
	}
	if s.calls == 0 {
		s.during()
	}
	fails := s.calls == s.fail
	s.calls++
	if fails {
		uses = uses[:min(s.part, len(uses))]
	}
	for _, use := range uses {
		if use.At.Before(s.told[use.ID]) {
			s.t.Fatalf("%s: %v is written after %v", use.ID, use.At, s.told[use.ID])
		}
		s.told[use.ID] = use.At
	}
	if fails {
		return errors.New("away")
	}
	return nil
}

// Over writings that fail and that do not, each key is at the end written with its newest use, if
// that is one of the newest notes that there is room for; and nothing newer is overwritten by
// something older.
func TestUsageWritesTheNewestUse(t *testing.T) {
	const inUse = 5_000
	kinds := make([]*keys.Key, inUse)
	for i := range kinds {
		kinds[i] = keystest.Sample(func(k *keys.Key) { k.ID = fmt.Sprintf("key_%04d", i) + strings.Repeat("_", i%50) })
	}
	rapid.Check(t, func(t *rapid.T) {
		type note struct {
			at    time.Time
			place int // among all notes
		}
		most := rapid.SampledFrom([]int{1, 700, 2_500, 1_000_000}).Draw(t, "most")
		clock, store := &keystest.Clock{}, &unsteady{t: t, told: map[string]time.Time{}}
		u := NewUsage(store, most, clock.Now)
		newest, grants, noted, places := map[string]note{}, make([]*keys.Grant, inUse), make([]int, inUse), 0
		flushes := 1
		use := func() { // of some inUse after each other
			from := rapid.IntRange(0, inUse-1).Draw(t, "from")
			anew := rapid.IntRange(1, 5).Draw(t, "anew") == 1
			for i := range rapid.IntRange(1, 3_000).Draw(t, "keys") {
				i = (from + i) % inUse
				if grants[i] == nil || anew {
					grants[i], noted[i] = keys.NewGrant(kinds[i]), 0
				}
				u.Note(grants[i])
				if noted[i] != flushes {
					noted[i], newest[kinds[i].ID] = flushes, note{clock.Now(), places}
					places++
				}
				if len(u.noted) > most {
					t.Fatalf("%d notes", len(u.noted))
				}
			}
			clock.Advance(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second)
		}
		flush := func(fail int) {
			store.calls, store.fail, store.part = 0, fail, rapid.IntRange(0, touchBatch).Draw(t, "part")
			store.during = func() {
				if rapid.Bool().Draw(t, "meanwhile") {
					use()
				}
			}
			flushes++
			if err := u.flush(context.Background()); (err != nil) != (fail >= 0 && fail < store.calls) {
				t.Fatalf("%v in %d calls, of which %d fails", err, store.calls, fail)
			}
			if len(u.noted) > most {
				t.Fatalf("%d notes", len(u.noted))
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "use") {
				use()
			} else {
				flush(rapid.IntRange(-1, 5).Draw(t, "fail"))
			}
		}
		flush(-1)
		flush(-1) // of what was used meanwhile
		store.calls, store.fail, store.during = 0, -1, func() {}
		if err := u.flush(context.Background()); err != nil || len(u.noted) != 0 {
			t.Fatalf("%v, %d notes are left", err, len(u.noted))
		}
		for id, last := range newest {
			if at := store.told[id]; last.place >= places-most && !at.Equal(last.at) {
				t.Fatalf("%s is written as used at %v, want %v", id, at, last.at)
			}
		}
	})
}

// Keys that are used every minute do not fill what is kept while the store is away.
func TestUsageKeepsOneNoteOfAKeyWhileTheStoreIsAway(t *testing.T) {
	store, clock := &touches{err: errors.New("away")}, &keystest.Clock{}
	u := NewUsage(store, 1_000, clock.Now)
	u.Note(keys.NewGrant(keystest.Sample(func(k *keys.Key) { k.ID = "key_once" })))
	grants := make([]*keys.Grant, 400)
	for i := range grants {
		grants[i] = keys.NewGrant(keystest.Sample(func(k *keys.Key) { k.ID = fmt.Sprintf("key_%04d", i) }))
	}
	for range 10 {
		for _, g := range grants {
			u.Note(g)
		}
		if err := u.flush(t.Context()); err == nil || len(u.noted) != 401 {
			t.Fatalf("%v, %d notes", err, len(u.noted))
		}
		clock.Advance(time.Minute)
	}
	store.err = nil
	if err := u.flush(t.Context()); err != nil || len(store.calls[0]) != 401 || store.calls[0][0].ID != "key_once" {
		t.Errorf("%v, %v", err, store.calls)
	}
}

// What waits for the store keeps no texts of keys that have left the cache.
func TestUsageClonesWhatItKeeps(t *testing.T) {
	u, g := NewUsage(&touches{err: errors.New("away")}, 100, time.Now), keys.NewGrant(keystest.Sample())
	u.Note(g)
	if err := u.flush(t.Context()); err == nil || len(u.noted) != 1 || unsafe.StringData(u.noted[0].id) == unsafe.StringData(g.ID()) {
		t.Errorf("%v, %v", err, u.noted)
	}
}

// A Grant that many use at once is noted and counted once.
func TestNoteAtOnce(t *testing.T) {
	store := &touches{}
	u := NewUsage(store, 100_000, time.Now)
	created := func(k *keys.Key) { k.CreatedAt = keystest.Noon() }
	for range 200 {
		g := keys.NewGrant(keystest.Sample(created))
		var come atomic.Int32
		var wg sync.WaitGroup
		u.mu.Lock()
		for range 4 {
			wg.Go(func() { come.Add(1); u.Note(g) })
		}
		for come.Load() < 4 {
			runtime.Gosched()
		}
		u.mu.Unlock()
		wg.Wait()
	}
	if err := u.flush(t.Context()); err != nil || len(store.calls) != 1 || len(store.calls[0]) != 200 {
		t.Errorf("%d calls, %v", len(store.calls), err)
	}
	if n := u.Ages()["pixelbyte"].Count; n != 200 {
		t.Errorf("%d ages", n)
	}
}

func TestAges(t *testing.T) {
	clock := &keystest.Clock{}
	u := NewUsage(&touches{}, 100, clock.Now)
	for i, days := range []int{1, 30, 31, 400} {
		g := keys.NewGrant(keystest.Sample(func(k *keys.Key) {
			k.ID, k.CreatedAt = fmt.Sprintf("key_%04d", i), clock.Now().AddDate(0, 0, -days)
		}))
		u.Note(g)
		u.Note(g)
	}
	u.Note(keys.NewGrant(keystest.Sample())) // of unknown age
	if len(u.Ages()) != 0 {
		t.Error("a minute that is not over")
	}
	if err := u.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := u.Ages()["pixelbyte"]
	if want := map[float64]uint64{7: 1, 30: 2, 60: 3, 90: 3, 180: 3, 365: 3}; a.Count != 4 || a.Days != 462 || !maps.Equal(a.Buckets, want) {
		t.Errorf("%+v", a)
	}
}

func TestNoteAgainDoesNotAllocate(t *testing.T) {
	u, g := NewUsage(&touches{}, 100, time.Now), keys.NewGrant(keystest.Sample())
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

// manyGrants have ids of 26 bytes.
func manyGrants(n int) []*keys.Grant {
	grants := make([]*keys.Grant, n)
	for i := range grants {
		grants[i] = keys.NewGrant(keystest.Sample(func(k *keys.Key) {
			k.ID, k.CreatedAt = fmt.Sprintf("key_%022d", i), keystest.Noon()
			k.LimitID = k.ID
		}))
	}
	return grants
}

func TestMemoryOfAMillionNotes(t *testing.T) {
	if testing.Short() || keystest.RaceDetector {
		t.Skip("not in short runs, and not under the race detector, which needs memory of its own")
	}
	const n, most = 1_000_000, 45
	grants, u := manyGrants(n), NewUsage(&touches{}, n, time.Now)
	before := liveHeap()
	for _, g := range grants {
		u.Note(g)
	}
	each := float64(liveHeap()-before) / n
	if len(u.noted) != n || each <= 0 || each > most {
		t.Errorf("%d notes, %.1f bytes each, want at most %d", len(u.noted), each, most)
	}
	t.Logf("%d keys noted: %.1f bytes of live heap each", len(u.noted), each)
	runtime.KeepAlive(grants)
	runtime.KeepAlive(u)
}

// nowhere forgets what is written.
type nowhere struct{}

func (nowhere) Touch(context.Context, []store.Use) error { return nil }

// BenchmarkFirstNote is a minute in which 200,000 keys are used.
func BenchmarkFirstNote(b *testing.B) {
	const n = 200_000
	grants := manyGrants(n)
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("%d_at_once", workers), func(b *testing.B) {
			u := NewUsage(nowhere{}, 0, time.Now)
			for b.Loop() {
				var wg sync.WaitGroup
				for w := range workers {
					wg.Go(func() {
						for i := w; i < n; i += workers {
							u.Note(grants[i])
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				if err := u.flush(b.Context()); err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/key")
		})
	}
}
