package usage

import (
	"math"

	"tollgate/policy"
)

// table holds the counts of some keys since they were last taken. Its lists are made of blocks
// which are used again, so that counting allocates nothing once they are there. It has no lock of
// its own.
type table struct {
	hash    func(k kind, text string) uint32
	day     Day      // of the list that isListed speaks of; 0 before there is one
	heads   []uint32 // by hash: the first entry of a chain, plus 1
	entries blocks[entry]
	more    blocks[cell] // the cells of entries beyond their first
	seen    blocks[seenCell]
	hot     []uint32 // entries that have counted hotAt requests, each once
	apis    int      // entries of another kind than ofKey
}

// kind says whose an entry is.
type kind uint8

const (
	ofKey    kind = iota
	ofNobody      // requests of an API without a known key
	ofOthers      // keys of an API beyond the bound
)

// entry is what one key did: 64 bytes. Its text belongs to the Grant that it came with, or is its
// own.
type entry struct {
	text      string // id and, further on, team; of a kind but ofKey the name of the API
	api       *policy.API
	first     cell
	next      uint32 // in the chain, plus 1
	seen      uint32 // first seenCell, plus 1
	hits      uint16 // since it was taken, up to hotAt
	kind      kind
	idBytes   uint8
	teamStart uint8 // counted from the end of the id
	teamBytes uint8
	isListed  bool // the key was handed out to be put on the list of those used on the table's day
}

func (e *entry) id() string { return e.text[:e.idBytes] }

func (e *entry) team() string {
	return e.text[int(e.idBytes)+int(e.teamStart):][:e.teamBytes]
}

// cell counts the decisions about a key's requests to one route in one hour that came to the same.
// The cost of a request is its route's.
type cell struct {
	route *policy.Route // nil if none matched
	hour  Hour
	n     uint32
	next  uint32 // in table.more, plus 1
	outcome
}

// seenCell is what the log said of a key's requests to one route on one day: 64 bytes.
type seenCell struct {
	route     *policy.Route
	bytesIn   uint64
	bytesOut  uint64
	millis    uint64
	status    [statusClasses]uint32
	maxMillis uint32
	next      uint32 // in table.seen, plus 1
	day       uint16 // a Day: enough until 2149
	slow      uint16
}

// hotAt is how many requests of a key make it worth a flush within the second.
const hotAt = 16

func (t *table) head(k kind, text string) *uint32 {
	return &t.heads[t.hash(k, text)&uint32(len(t.heads)-1)]
}

// find returns the entry of that kind and text and its place, nil if there is none. hash is that of
// both.
func (t *table) find(hash uint32, k kind, text string) (*entry, uint32) {
	if len(t.heads) == 0 {
		return nil, 0
	}
	for i := t.heads[hash&uint32(len(t.heads)-1)]; i > 0; {
		e := t.entries.at(i - 1)
		if e.kind == k && e.id() == text {
			return e, i - 1
		}
		i = e.next
	}
	return nil, 0
}

// firstHeads is a power of two, as every number of heads.
const firstHeads = 16

// add adds an entry that the table does not have.
func (t *table) add(hash uint32, e entry) (*entry, uint32) {
	if t.entries.n >= len(t.heads) {
		t.grow()
	}
	if e.kind != ofKey {
		t.apis++
	}
	i, added := t.entries.add()
	head := &t.heads[hash&uint32(len(t.heads)-1)]
	e.next, *head = *head, i+1
	*added = e
	return added, i
}

func (t *table) grow() {
	t.heads = make([]uint32, max(2*len(t.heads), firstHeads))
	for i := range uint32(t.entries.n) {
		e := t.entries.at(i)
		head := t.head(e.kind, e.id())
		e.next, *head = *head, i+1
	}
}

// count counts a decision. It reports false if that needed a cell more than there may be.
func (t *table) count(e *entry, route *policy.Route, hour Hour, of outcome, most int) bool {
	c := &e.first
	for c.n > 0 && (c.route != route || c.hour != hour || c.outcome != of || c.n == math.MaxUint32) {
		if c.next > 0 {
			c = t.more.at(c.next - 1)
			continue
		}
		if t.more.n >= most {
			return false
		}
		i, added := t.more.add()
		c.next, c = i+1, added
	}
	if c.n == 0 {
		c.route, c.hour, c.outcome = route, hour, of
	}
	c.n++
	return true
}

// heat notes that the entry at a place has counted a request. What is counted for APIs is hot at
// once: there is little of it.
func (t *table) heat(e *entry, place uint32) {
	at := uint16(hotAt)
	if e.kind != ofKey {
		at = 1
	}
	if e.hits < at {
		if e.hits++; e.hits == at {
			t.hot = append(t.hot, place)
		}
	}
}

// observe adds what the log said of a request. It reports false if that needed a cell more than
// there may be.
func (t *table) observe(e *entry, route *policy.Route, day Day, f *Finished, slow bool, most int) bool {
	class := ClassOf(f.Status)
	place := &e.seen
	var c *seenCell
	for *place > 0 {
		c = t.seen.at(*place - 1)
		if Day(c.day) == day && c.route == route && c.status[class] < math.MaxUint32 && c.slow < math.MaxUint16 {
			break
		}
		place, c = &c.next, nil
	}
	if c == nil {
		if t.seen.n >= most {
			return false
		}
		var i uint32
		i, c = t.seen.add()
		*place, c.day, c.route = i+1, uint16(day), route
	}
	c.status[class]++
	c.bytesIn += min(f.BytesIn, mostBytes)
	c.bytesOut += min(f.BytesOut, mostBytes)
	millis := uint64(max(f.Took.Milliseconds(), 0))
	c.millis += min(millis, mostMillis)
	c.maxMillis = max(c.maxMillis, uint32(min(millis, mostMillis)))
	if slow {
		c.slow++
	}
	return true
}

const (
	mostBytes  = 1 << 40    // of one request, so that no sum can overflow
	mostMillis = 99_999_999 // of one request: 27 hours
	// With the word that Go's allocator adds, a block of 64-byte elements takes 4 KiB.
	blockSize = 63
)

// empty makes the table one that holds nothing, and keeps the memory that it has just used.
func (t *table) empty() {
	clear(t.heads)
	t.entries.empty()
	t.more.empty()
	t.seen.empty()
	t.hot, t.apis = t.hot[:0], 0
}

// blocks is a list that grows without being copied.
type blocks[T any] struct {
	all [][]T // of blockSize each
	n   int
}

func (b *blocks[T]) at(i uint32) *T { return &b.all[i/blockSize][i%blockSize] }

// add returns a zero element and its place.
func (b *blocks[T]) add() (uint32, *T) {
	if b.n == len(b.all)*blockSize {
		b.all = append(b.all, make([]T, blockSize))
	}
	i := uint32(b.n)
	b.n++
	return i, b.at(i)
}

// empty keeps the blocks that were in use.
func (b *blocks[T]) empty() {
	used := (b.n + blockSize - 1) / blockSize
	clear(b.all[used:])
	b.all = b.all[:used]
	for _, block := range b.all {
		clear(block)
	}
	b.n = 0
}
