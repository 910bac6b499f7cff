package cache

import (
	"slices"
	"sync"
	"time"
)

// maxHeartbeats bounds the generations whose last heartbeat is remembered. A key that is older than
// all of them is stale from the moment at which it was read.
const maxHeartbeats = 256

// heartbeats remember when a message was last heard in each of the latest generations. Until then
// no change was missed, so a key that was read in that generation was valid then. Later generations
// say nothing about it, until it is read again.
type heartbeats struct {
	mu     sync.Mutex
	latest []lastHeartbeat // ascending by generation
}

type lastHeartbeat struct {
	generation uint32
	at         int64 // cache time
}

// note says that a message was heard.
func (b *heartbeats) note(generation uint32, at int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.latest); n > 0 && b.latest[n-1].generation == generation {
		b.latest[n-1].at = at
		return
	}
	if len(b.latest) == maxHeartbeats {
		b.latest = slices.Delete(b.latest, 0, 1)
	}
	b.latest = append(b.latest, lastHeartbeat{generation, at})
}

// of returns when a message was last heard in a generation, 0 if that is not known.
func (b *heartbeats) of(generation uint32) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, last := range slices.Backward(b.latest) {
		if last.generation == generation {
			return last.at
		}
	}
	return 0
}

// hear notes that the stream is alive.
func (c *Cache) hear() {
	now := c.now()
	c.stream.heard.Store(now)
	c.stream.heartbeats.note(c.stream.generation.Load(), now)
}

// validAt returns when a grant was last known to be what the store says: when it was read, or later
// when something was heard in the same generation. In a cluster a heartbeat that comes from one
// node does not prove that another one, which has the key, is there to be heard: it counts for the
// TTL of the grant.
func (c *Cache) validAt(e *cached) int64 {
	read := e.at.Load()
	heard := c.stream.heartbeats.of(e.generation.Load())
	if c.store.IsCluster() {
		heard = min(heard, read+int64(c.options.TTL))
	}
	return max(read, heard)
}

// stale reports whether a grant that the store could not be asked about is too old to be served.
func (c *Cache) stale(e *cached, most time.Duration) bool {
	return c.now()-c.validAt(e) >= int64(most)
}
