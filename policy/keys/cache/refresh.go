package cache

import (
	"context"
	"sync"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

const (
	// A grant that is used in the last quarter of its TTL is read again before it ends, so that no
	// request waits for a key in use.
	refreshPart = 4
	// refreshGather is how long such readings are gathered for one round trip.
	refreshGather = 50 * time.Millisecond
	// maxRefreshBatch bounds one round trip, maxRefreshes what waits. A grant for which there is no
	// room is read when it is too old.
	maxRefreshBatch = 64
	maxRefreshes    = 8192
)

// refreshes are the readings ahead of time that wait.
type refreshes struct {
	mu      sync.Mutex
	due     []store.LookupRequest
	running bool
}

// refreshSoon has a grant read again. It does not wait.
func (c *Cache) refreshSoon(o store.LookupRequest) {
	r := &c.refreshes
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.due) == maxRefreshes {
		return
	}
	r.due = append(r.due, o)
	if !r.running {
		r.running = true
		c.gather(c.refreshAll)
	}
}

// refreshAll reads what waits, one batch after the other.
func (c *Cache) refreshAll() {
	r := &c.refreshes
	for {
		r.mu.Lock()
		n := min(len(r.due), maxRefreshBatch)
		batch := r.due[:n:n]
		r.due = r.due[n:]
		if n == 0 {
			r.due, r.running = nil, false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		c.refresh(batch)
	}
}

// refresh reads grants again in one round trip. What the store does not say now is asked again when
// it is too old.
func (c *Cache) refresh(batch []store.LookupRequest) {
	changes := make([]uint64, len(batch))
	for i, o := range batch {
		changes[i] = c.fence(o.Digest).current()
	}
	at, generation := c.now(), c.stream.generation.Load()
	ctx, cancel := context.WithTimeout(context.Background(), c.options.Timeout)
	defer cancel()
	readings := c.store.LookupMany(ctx, batch, c.options.Breaker)
	for i, r := range readings {
		r = c.vouched(ctx, r)
		if r.Err != nil && !keys.AboutKey(r.Err) {
			continue
		}
		if c.afterRead != nil {
			c.afterRead(batch[i].Digest, 0)
		}
		c.counts.refreshes.Add(1)
		d := batch[i].Digest
		if _, kept := c.keep(c.fence(d), changes[i], d, r, at, generation); !kept {
			c.counts.overtaken.Add(1)
			if e, _ := c.grants.peek(d); e != nil {
				e.refreshing.Store(false) // it may be asked for again
			}
		}
	}
}
