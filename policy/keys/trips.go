package keys

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxTrip bounds the readings that share a round trip.
const maxTrip = 128

// trips lets readings share round trips: one that is asked for while none is under way goes at once, and those that are
// asked for meanwhile go together when it returns.
type trips struct {
	store   *Store
	timeout time.Duration // of a trip that is shared
	apart   bool          // none is shared

	mu      sync.Mutex
	queue   []*errand
	running bool
}

// errand is what one reading waits for.
type errand struct {
	gets []*redis.StringCmd
	left atomic.Bool   // nobody waits any more
	done chan struct{} // closed when all have their answers
}

// newTrips returns trips to s. A cluster has none that are shared: in a pipeline for several nodes, one that does not answer
// holds up what the others have answered.
func newTrips(s *Store, timeout time.Duration) *trips {
	t := &trips{store: s, timeout: timeout}
	if s != nil {
		_, t.apart = s.client.(*redis.ClusterClient)
	}
	return t
}

// read looks up one secret. It returns by the end of ctx, which must have one: a reading that goes alone has no other.
func (t *trips) read(ctx context.Context, o owned) reading {
	return t.store.readings(ctx, []owned{o}, t.fetch)[0]
}

// fetch carries out gets, and returns an error when ctx ends before all of them have their answers. They are not the
// caller's then: a trip may be under way with them.
func (t *trips) fetch(ctx context.Context, gets []*redis.StringCmd) error {
	e := t.enter(gets)
	if e == nil {
		// Alone it goes in its own time, and costs what it would without trips: no goroutine waits for another.
		defer t.next()
		return t.store.pipeline(ctx, gets)
	}
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		e.left.Store(true)
		return fmt.Errorf("keys: store: %w", ctx.Err())
	}
}

// enter queues gets, unless their caller is to send them himself and to call next then.
func (t *trips) enter(gets []*redis.StringCmd) *errand {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.running || t.apart {
		t.running = true
		return nil
	}
	e := &errand{gets: gets, done: make(chan struct{})}
	t.queue = append(t.queue, e)
	return e
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

// take returns what goes together next. When that is nothing, the next reading goes alone.
func (t *trips) take() []*errand {
	t.mu.Lock()
	defer t.mu.Unlock()
	batch, n := make([]*errand, 0, min(len(t.queue), maxTrip)), 0
	for ; n < len(t.queue) && len(batch) < maxTrip; n++ {
		if e := t.queue[n]; !e.left.Load() {
			batch = append(batch, e)
		}
	}
	t.queue = slices.Delete(t.queue, 0, n)
	t.running = len(batch) > 0
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
	_ = t.store.pipeline(ctx, gets) // each has its own error
	for _, e := range batch {
		close(e.done)
	}
}
