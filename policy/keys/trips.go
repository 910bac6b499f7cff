package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxTrip bounds the readings that share a round trip.
	maxTrip = 128
	// slowTrip is how long a reading waits for the trip of others. Then all that wait go together, on another connection: one
	// that does not answer holds up no more than those who are under way on it, and a store that is far away needs few.
	slowTrip = 5 * time.Millisecond
)

// trips lets readings share round trips: one that is asked for while none is under way goes at once, and those that are
// asked for meanwhile go together when it returns, or before if that takes long.
type trips struct {
	store   *Store
	breaker *Breaker      // around each trip to a node; nil for none
	timeout time.Duration // of a trip that is shared
	apart   bool          // none is shared

	patience time.Duration // slowTrip, but for tests

	mu      sync.Mutex
	queue   []*errand
	running bool
}

// errand is what one reading waits for.
type errand struct {
	gets []*redis.StringCmd
	done chan struct{} // closed when their trip has ended
}

// newTrips returns trips to s. A cluster has none that are shared: in a pipeline for several nodes, one that does not answer
// holds up what the others have answered.
func newTrips(s *Store, b *Breaker, timeout time.Duration) *trips {
	t := &trips{store: s, breaker: b, timeout: timeout, patience: slowTrip}
	if s != nil {
		_, t.apart = s.client.(*redis.ClusterClient)
	}
	return t
}

// read looks up one secret. It returns by the end of ctx, which must have one: a reading that goes alone has no other.
func (t *trips) read(ctx context.Context, o owned) reading {
	return t.store.readings(ctx, []owned{o}, t.fetch)[0]
}

// fetch carries out gets, and returns an error when ctx ends before all of them have their answers. They are not the caller's
// then: a trip may be under way with them.
func (t *trips) fetch(ctx context.Context, gets []*redis.StringCmd) error {
	if t.apart {
		return t.trip(ctx, gets)
	}
	e := t.enter(gets)
	if e == nil {
		// Alone it goes in its own time, and costs what it would without trips: no goroutine waits for another.
		defer t.next()
		return t.trip(ctx, gets)
	}
	slow := time.NewTimer(t.patience)
	defer slow.Stop()
	for {
		select {
		case <-e.done:
			return nil
		case <-slow.C:
			t.pass(e)
		case <-ctx.Done():
			t.leave(e)
			return fmt.Errorf("keys: store: %w", ctx.Err())
		}
	}
}

// enter queues gets, unless their caller is to send them himself and to call next then.
func (t *trips) enter(gets []*redis.StringCmd) *errand {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.running {
		t.running = true
		return nil
	}
	e := &errand{gets: gets, done: make(chan struct{})}
	t.queue = append(t.queue, e)
	return e
}

// leave takes an errand out of the queue, and reports whether it was still there.
func (t *trips) leave(e *errand) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.queue, e)
	if i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
	}
	return i >= 0
}

// next has what was queued during a trip sent.
func (t *trips) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running = len(t.queue) > 0; t.running {
		go t.run()
	}
}

// run sends what is queued until nothing is.
func (t *trips) run() {
	for batch := t.take(); len(batch) > 0; batch = t.take() {
		t.send(batch)
	}
}

// pass has an errand that is still in the queue sent now, with what came after it.
func (t *trips) pass(e *errand) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.queue, e); i >= 0 {
		end := min(i+maxTrip, len(t.queue))
		batch := slices.Clone(t.queue[i:end])
		t.queue = slices.Delete(t.queue, i, end)
		go t.send(batch)
	}
}

// take returns what goes together next. When that is nothing, the next reading goes alone.
func (t *trips) take() []*errand {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.queue), maxTrip)
	batch := slices.Clone(t.queue[:n])
	t.queue = slices.Delete(t.queue, 0, n)
	t.running = n > 0
	return batch
}

// send makes one trip and hands out its answers.
func (t *trips) send(batch []*errand) {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	var gets []*redis.StringCmd
	for _, e := range batch {
		gets = append(gets, e.gets...)
	}
	_ = t.trip(ctx, gets)
	for _, e := range batch {
		close(e.done)
	}
}

// trip is a fetch in one round trip to each node that has some of what gets asks for. It never fails as a whole.
func (t *trips) trip(ctx context.Context, gets []*redis.StringCmd) error {
	if t.store.nodeOf == nil {
		t.ask(ctx, "", gets)
		return nil
	}
	var work sync.WaitGroup
	for node, gets := range t.store.byNode(gets) {
		work.Go(func() { t.ask(ctx, node, gets) })
	}
	work.Wait()
	return nil
}

// ask is a round trip to one node, which the breaker counts once, however many readings share it.
func (t *trips) ask(ctx context.Context, node string, gets []*redis.StringCmd) {
	err := t.breaker.Do(LookUp, node, func() error {
		_ = t.store.pipeline(ctx, gets)
		for _, get := range gets {
			if !TellsOfStore(get.Err()) {
				return nil
			}
		}
		return gets[0].Err()
	})
	if errors.Is(err, ErrStoreDown) {
		for _, get := range gets {
			get.SetErr(err)
		}
	}
}
