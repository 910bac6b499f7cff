package cache

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"

	"tollgate/policy/keys"
)

const (
	// clockShards is how many parts a clockCache has that can change at the same time.
	clockShards = 64
	// blockSlots is how many values lie together; block.live has a bit for each.
	blockSlots = 64
)

// clockCache keeps a bounded number of values by digest, and drops those that were not read lately
// when it is full (CLOCK, also called second chance). It is safe for concurrent use; readers take
// no lock, unless the part they look in is being moved.
//
// Values lie in blocks and are named by numbers. So the garbage collector, which follows each
// pointer several times a minute, has nothing to do with a million of them if V holds no pointer.
// What values of one block refer to, and may share, is in S, which the block has once.
type clockCache[V, S any] struct {
	most   int64
	seed   maphash.Seed
	size   atomic.Int64
	move   func(to *V, toShared *S, from *V, fromShared *S) // writes what from is to an empty place
	shards [clockShards]clockShard[V, S]
}

// clockShard is a hash table with chains.
type clockShard[V, S any] struct {
	heads  atomic.Pointer[[]atomic.Uint32]               // the first slot of each chain; a power of two of them
	blocks atomic.Pointer[[]atomic.Pointer[block[V, S]]] // nil where a number is free
	moves  atomic.Uint64                                 // odd while slots go to other chains or blocks
	_      [64]byte                                      // keeps what readers write away from what they read
	hits   atomic.Uint64

	mu      sync.Mutex
	count   int
	hand    int // the chain at which the next search for a value to drop begins
	dropped uint64
	current uint32   // the number of the block that is being filled, if there is one
	free    []uint32 // numbers of blocks
	sparse  []uint32 // numbers of blocks that are to be emptied
	_       [64]byte // keeps the shards out of each other's cache lines
}

// block is where values lie. A slot is used once, so what a reader has found stays what it is, for
// as long as he keeps it.
type block[V, S any] struct {
	filled atomic.Uint32 // the slots before it are written
	live   uint64        // of them, those in a chain
	shared S
	slots  [blockSlots]slot[V] // last: the collector does not look behind the last pointer
}

// slot is one value in a clockCache, and its place. One that was taken out still leads to what came
// after it, so that readers who stand there go on.
type slot[V any] struct {
	key   keys.Digest
	value V
	next  atomic.Uint32 // of its chain; slots are named by numbers from 1, 0 is its end
	read  atomic.Bool   // since the hand came by
}

// sparse reports whether more than half of a full block is of no use.
func (b *block[V, S]) sparse() bool { return bits.OnesCount64(b.live) < blockSlots/2 }

// newClockCache returns an empty clockCache for most values.
func newClockCache[V, S any](most int, move func(to *V, toShared *S, from *V, fromShared *S)) *clockCache[V, S] {
	c := &clockCache[V, S]{most: int64(most), seed: maphash.MakeSeed(), move: move}
	for i := range c.shards {
		s := &c.shards[i]
		s.heads.Store(new(make([]atomic.Uint32, 1)))
		s.blocks.Store(new([]atomic.Pointer[block[V, S]]))
	}
	return c
}

func (c *clockCache[V, S]) hash(key *keys.Digest) uint64 { return maphash.Bytes(c.seed, key[:]) }

func (c *clockCache[V, S]) shard(hash uint64) *clockShard[V, S] { return &c.shards[hash%clockShards] }

// chain returns the beginning of the chain that a hash belongs to.
func chain(heads []atomic.Uint32, hash uint64) *atomic.Uint32 {
	return &heads[hash/clockShards&uint64(len(heads)-1)]
}

// get returns the value of the key and what its block's values share, or nil and nil, and notes
// that it was read. What it returns stays as it is, but for what is atomic in V.
func (c *clockCache[V, S]) get(key keys.Digest) (*V, *S) {
	h := c.hash(&key)
	s := c.shard(h)
	b, d := s.look(h, &key)
	if d == nil {
		return nil, nil
	}
	s.hits.Add(1)
	if !d.read.Load() {
		d.read.Store(true)
	}
	return &d.value, &b.shared
}

// peek is get that notes nothing.
func (c *clockCache[V, S]) peek(key keys.Digest) (*V, *S) {
	h := c.hash(&key)
	if b, d := c.shard(h).look(h, &key); d != nil {
		return &d.value, &b.shared
	}
	return nil, nil
}

// look is find without the lock. Where slots went to other chains or blocks meanwhile, which can
// hide what is there, it takes the lock and looks again.
func (s *clockShard[V, S]) look(h uint64, key *keys.Digest) (*block[V, S], *slot[V]) {
	moves := s.moves.Load()
	_, b, d := s.find(h, key)
	if d == nil && (moves%2 == 1 || moves != s.moves.Load()) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, b, d = s.find(h, key)
	}
	return b, d
}

// find returns the slot of the key with its block and what names it, or nil and the end of its
// chain.
func (s *clockShard[V, S]) find(h uint64, key *keys.Digest) (at *atomic.Uint32, b *block[V, S], d *slot[V]) {
	at = chain(*s.heads.Load(), h)
	for {
		b, d = s.slot(at.Load())
		if d == nil || d.key == *key {
			return at, b, d
		}
		at = &d.next
	}
}

// slot returns a slot by its number, and its block; nil for 0, and where a reader is overtaken and
// it is not written.
func (s *clockShard[V, S]) slot(n uint32) (*block[V, S], *slot[V]) {
	if n == 0 {
		return nil, nil
	}
	i := (n - 1) % blockSlots
	b := (*s.blocks.Load())[(n-1)/blockSlots].Load()
	if b == nil || i >= b.filled.Load() {
		return nil, nil
	}
	return b, &b.slots[i]
}

// put keeps a value, which fill writes to an empty place, instead of what the key had. It counts as
// not read yet, so that many new values that come once do not push out those that are in use.
func (c *clockCache[V, S]) put(key keys.Digest, fill func(*V, *S)) {
	h := c.hash(&key)
	c.write(h, &key, fill)
	// Each part drops for itself, and for others only what it has no place for.
	for i := uint64(0); i < clockShards && c.size.Load() > c.most; i++ {
		c.drop(c.shard(h+i), &key)
	}
}

// write is put without regard to how much there is.
func (c *clockCache[V, S]) write(h uint64, key *keys.Digest, fill func(*V, *S)) {
	s := c.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, b, d := s.place()
	d.key = *key
	fill(&d.value, &b.shared)
	at, _, old := s.find(h, key)
	if old != nil {
		number := at.Load()
		s.replace(at, n, d, old)
		s.leave(number)
	} else {
		s.link(h, n, d)
		s.count++
		c.size.Add(1)
		c.widen(s)
	}
	c.tidy(s)
}

// delete drops the value of the key, if there is one. A get that begins after it does not find it.
func (c *clockCache[V, S]) delete(key keys.Digest) {
	h := c.hash(&key)
	s := c.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, _, d := s.find(h, &key); d != nil {
		s.unlink(at, d)
		c.size.Add(-1)
		c.tidy(s)
	}
}

// place returns an empty slot of the block that is being filled.
func (s *clockShard[V, S]) place() (n uint32, b *block[V, S], d *slot[V]) {
	blocks := *s.blocks.Load()
	if len(blocks) > 0 {
		b = blocks[s.current].Load()
	}
	if b == nil || b.filled.Load() == blockSlots {
		if b != nil && b.sparse() {
			s.sparse = append(s.sparse, s.current)
		}
		b = s.open()
	}
	i := b.filled.Load()
	return s.current*blockSlots + i + 1, b, &b.slots[i]
}

// open makes a block, the one that is filled from now on.
func (s *clockShard[V, S]) open() *block[V, S] {
	if len(s.free) == 0 {
		old := *s.blocks.Load()
		blocks := make([]atomic.Pointer[block[V, S]], max(2*len(old), 1))
		for i := range old {
			blocks[i].Store(old[i].Load())
		}
		s.blocks.Store(&blocks)
		for i := len(blocks) - 1; i >= len(old); i-- {
			s.free = append(s.free, uint32(i))
		}
	}
	b := &block[V, S]{}
	s.current, s.free = s.free[len(s.free)-1], s.free[:len(s.free)-1]
	(*s.blocks.Load())[s.current].Store(b)
	return b
}

// enter has a slot that was just written found under its number, which at is to hold.
func (s *clockShard[V, S]) enter(at *atomic.Uint32, n uint32) {
	i := (n - 1) % blockSlots
	b := (*s.blocks.Load())[(n-1)/blockSlots].Load()
	b.live |= 1 << i
	b.filled.Store(i + 1)
	at.Store(n)
}

// link puts a new slot in front of its chain.
func (s *clockShard[V, S]) link(h uint64, n uint32, d *slot[V]) {
	head := chain(*s.heads.Load(), h)
	d.next.Store(head.Load())
	s.enter(head, n)
}

// replace puts a new slot into the place of an old one, which at names. Readers find the one or the
// other.
func (s *clockShard[V, S]) replace(at *atomic.Uint32, n uint32, d, old *slot[V]) {
	d.next.Store(old.next.Load())
	d.read.Store(old.read.Load())
	s.enter(at, n)
}

// unlink takes the slot that at names out of its chain.
func (s *clockShard[V, S]) unlink(at *atomic.Uint32, d *slot[V]) {
	n := at.Load()
	at.Store(d.next.Load())
	s.leave(n)
	s.count--
}

// leave notes that a slot is in no chain any more.
func (s *clockShard[V, S]) leave(n uint32) {
	number := (n - 1) / blockSlots
	b := (*s.blocks.Load())[number].Load()
	b.live &^= 1 << ((n - 1) % blockSlots)
	if number != s.current && b.sparse() {
		s.sparse = append(s.sparse, number)
	}
}

// tidy moves what is left in sparse blocks, and frees them.
func (c *clockCache[V, S]) tidy(s *clockShard[V, S]) {
	if len(s.sparse) == 0 {
		return
	}
	s.moves.Add(1)
	defer s.moves.Add(1)
	for len(s.sparse) > 0 {
		number := s.sparse[len(s.sparse)-1]
		s.sparse = s.sparse[:len(s.sparse)-1]
		from := (*s.blocks.Load())[number].Load()
		if from == nil || number == s.current {
			continue // it is done already
		}
		for live := from.live; live != 0; live &= live - 1 {
			old := &from.slots[bits.TrailingZeros64(live)]
			n, b, d := s.place()
			d.key = old.key
			c.move(&d.value, &b.shared, &old.value, &from.shared)
			at, _, _ := s.find(c.hash(&old.key), &old.key)
			s.replace(at, n, d, old)
		}
		(*s.blocks.Load())[number].Store(nil)
		s.free = append(s.free, number)
	}
}

// widen doubles the number of chains where they have become long. The chains are at no time
// circular, so readers end.
func (c *clockCache[V, S]) widen(s *clockShard[V, S]) {
	old := *s.heads.Load()
	if s.count <= len(old) {
		return
	}
	s.moves.Add(1)
	defer s.moves.Add(1)
	wide := make([]atomic.Uint32, 2*len(old))
	s.heads.Store(&wide)
	for i := range old {
		for n := old[i].Load(); n != 0; {
			_, d := s.slot(n)
			next := d.next.Load()
			head := chain(wide, c.hash(&d.key))
			d.next.Store(head.Load())
			head.Store(n)
			n = next
		}
	}
}

// drop makes room in a shard: it takes out the first value but that of keep that was not read since
// the hand came by.
func (c *clockCache[V, S]) drop(s *clockShard[V, S], keep *keys.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heads := *s.heads.Load()
	for range 2 * len(heads) {
		at := &heads[s.hand&(len(heads)-1)]
		s.hand++
		for _, d := s.slot(at.Load()); d != nil; _, d = s.slot(at.Load()) {
			if d.key != *keep && !d.read.Swap(false) {
				s.unlink(at, d)
				s.dropped++
				c.size.Add(-1)
				c.tidy(s)
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

func (c *clockCache[V, S]) stats() clockStats {
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
