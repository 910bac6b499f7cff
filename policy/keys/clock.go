package keys

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// clockShards is how many parts a clock has that can change at the same time.
const clockShards = 64

// clock keeps a bounded number of values by digest, and drops those that were not read lately when it is full (CLOCK, also
// called second chance). It holds one object for each value and few pointers, because the collector follows each of them,
// with a million keys, several times a minute. Readers take no lock, unless the part they look in is growing. It is safe for concurrent use.
type clock[V any] struct {
	most   int64
	seed   maphash.Seed
	size   atomic.Int64
	shards [clockShards]clockShard[V]
}

// clockShard is a hash table with chains.
type clockShard[V any] struct {
	heads  atomic.Pointer[[]atomic.Pointer[dial[V]]] // a power of two of them
	widens atomic.Uint64                             // odd while the table grows
	_      [64]byte                                  // keeps what readers write away from what they read
	hits   atomic.Uint64

	mu      sync.Mutex
	count   int
	hand    int // the chain at which the next search for a value to drop begins
	dropped uint64
	_       [64]byte // keeps the shards out of each other's cache lines
}

// dial is one value in a clock, and its place. It is put into one clock, once. One that was taken out still leads to what
// came after it, so that readers who stand there go on; whoever keeps it keeps those too, which are few.
type dial[V any] struct {
	key   Digest
	next  atomic.Pointer[dial[V]]
	value V
	read  atomic.Bool // since the hand came by
}

// newClock returns an empty clock for most values.
func newClock[V any](most int) *clock[V] {
	c := &clock[V]{most: int64(most), seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].heads.Store(new(make([]atomic.Pointer[dial[V]], 1)))
	}
	return c
}

func (c *clock[V]) hash(key *Digest) uint64 { return maphash.Bytes(c.seed, key[:]) }

func (c *clock[V]) shard(hash uint64) *clockShard[V] { return &c.shards[hash%clockShards] }

// chain returns the place of the first value of the chain that a hash belongs to.
func chain[V any](heads []atomic.Pointer[dial[V]], hash uint64) *atomic.Pointer[dial[V]] {
	return &heads[hash/clockShards&uint64(len(heads)-1)]
}

// get returns the value of the key, or nil, and notes that it was read.
func (c *clock[V]) get(key Digest) *V {
	h := c.hash(&key)
	s := c.shard(h)
	d := s.look(h, &key)
	if d == nil {
		return nil
	}
	s.hits.Add(1)
	if !d.read.Load() {
		d.read.Store(true)
	}
	return &d.value
}

// peek is get that notes nothing.
func (c *clock[V]) peek(key Digest) *V {
	h := c.hash(&key)
	if d := c.shard(h).look(h, &key); d != nil {
		return &d.value
	}
	return nil
}

// look is find without the lock. Where the table has grown meanwhile, which can hide what is there, it takes the lock and
// looks again.
func (s *clockShard[V]) look(h uint64, key *Digest) *dial[V] {
	widens := s.widens.Load()
	_, d := s.find(h, key)
	if d == nil && (widens%2 == 1 || widens != s.widens.Load()) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, d = s.find(h, key)
	}
	return d
}

// find returns the value of the key and what points to it, or nil and the end of its chain.
func (s *clockShard[V]) find(h uint64, key *Digest) (at *atomic.Pointer[dial[V]], d *dial[V]) {
	at = chain(*s.heads.Load(), h)
	for d = at.Load(); d != nil && d.key != *key; d = at.Load() {
		at = &d.next
	}
	return at, d
}

// put keeps d, in the place of what had its key. Its value must not change any more. It counts as not read yet, so that
// many new values that come once do not push out those that are in use.
func (c *clock[V]) put(d *dial[V]) {
	h := c.hash(&d.key)
	s := c.shard(h)
	s.mu.Lock()
	at, old := s.find(h, &d.key)
	if old != nil {
		d.next.Store(old.next.Load())
		d.read.Store(old.read.Load())
		at.Store(d) // readers find the old one or this one
	} else {
		s.link(h, d)
		c.size.Add(1)
		c.widen(s)
	}
	s.mu.Unlock()
	// Each part drops for itself, and for others only what it has no place for.
	for i := uint64(0); i < clockShards && c.size.Load() > c.most; i++ {
		c.drop(c.shard(h+i), d)
	}
}

// delete drops the value of the key, if there is one. Whoever calls get after it does not find it.
func (c *clock[V]) delete(key Digest) {
	h := c.hash(&key)
	s := c.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, d := s.find(h, &key); d != nil {
		at.Store(d.next.Load())
		s.count--
		c.size.Add(-1)
	}
}

// link puts d in front of its chain.
func (s *clockShard[V]) link(h uint64, d *dial[V]) {
	head := chain(*s.heads.Load(), h)
	d.next.Store(head.Load())
	head.Store(d)
	s.count++
}

// widen doubles the number of chains where they have become long. The chains are at no time circular, so readers end.
func (c *clock[V]) widen(s *clockShard[V]) {
	old := *s.heads.Load()
	if s.count <= len(old) {
		return
	}
	s.widens.Add(1)
	defer s.widens.Add(1)
	wide := make([]atomic.Pointer[dial[V]], 2*len(old))
	s.heads.Store(&wide)
	s.count = 0
	for i := range old {
		for d := old[i].Load(); d != nil; {
			next := d.next.Load()
			s.link(c.hash(&d.key), d)
			d = next
		}
	}
}

// drop makes room in a shard: it takes out the first value but keep that was not read since the hand came by.
func (c *clock[V]) drop(s *clockShard[V], keep *dial[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heads := *s.heads.Load()
	for range 2 * len(heads) {
		at := &heads[s.hand&(len(heads)-1)]
		s.hand++
		for d := at.Load(); d != nil; d = at.Load() {
			if d != keep && !d.read.Swap(false) {
				at.Store(d.next.Load())
				s.count--
				s.dropped++
				c.size.Add(-1)
				return
			}
			at = &d.next
		}
	}
}

// clockStats are counts since the start.
type clockStats struct {
	hits, dropped uint64
	size          int
}

func (c *clock[V]) stats() clockStats {
	n := clockStats{size: int(c.size.Load())}
	for i := range c.shards {
		s := &c.shards[i]
		n.hits += s.hits.Load()
		s.mu.Lock()
		n.dropped += s.dropped
		s.mu.Unlock()
	}
	return n
}
