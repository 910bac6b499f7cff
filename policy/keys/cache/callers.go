package cache

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"tollgate/policy/keys"
)

const (
	// ownPart is the part of the look-ups in vain that each caller has for himself, whatever others
	// do.
	ownPart = 20
	// ceiling is how many times the whole their own parts can make, so that guesses from ever new
	// addresses cost the store no more than is known.
	ceiling = 16
	// A caller has a counter in each row, and shares each with others. He is held to have used up
	// his part only if all are used up, so that many who guess leave one for nearly everybody else.
	callerRows = 4
	rowShares  = 1 << 13
)

// callers bound how many secrets the store is asked about in vain. Nobody knows beforehand whether
// a secret is unknown, so only answers count, and only those that found nothing: the keys of
// customers cost nothing, even when they all come at once to a new replica. A caller that guesses
// uses up its own share and what others leave of the whole, and nothing of theirs. The counters
// have a fixed size.
type callers struct {
	own, whole float64 // look-ups in vain a second
	seed       maphash.Seed

	mu     sync.Mutex
	all    spent // of whole
	top    spent // of ceiling times whole
	shares [callerRows][rowShares]spent
}

// spent is what was used up lately of a rate.
type spent struct {
	n  float64
	at int64 // cache time
}

// left reports whether anything remains, at a rate of which a second's worth may come at once.
func (s *spent) left(now int64, rate float64) bool { return s.now(now, rate) < rate }

func (s *spent) now(now int64, rate float64) float64 {
	return max(s.n-float64(now-s.at)*rate/1e9, 0)
}

// add counts one. What is under way at the same time can go over the rate, and is made good in the
// second after.
func (s *spent) add(now int64, rate float64) {
	s.n, s.at = min(s.now(now, rate)+1, 2*rate), now
}

func newCallers(perSecond int) *callers {
	return &callers{own: float64(max(perSecond/ownPart, 1)), whole: float64(perSecond), seed: maphash.MakeSeed()}
}

// may reports whether the store may be asked about a secret for a caller.
func (c *callers) may(from keys.Caller, now int64) bool {
	places := c.places(from)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all.left(now, c.whole) {
		return true
	}
	if !c.top.left(now, ceiling*c.whole) {
		return false
	}
	for row, at := range places {
		if c.shares[row][at].left(now, c.own) {
			return true
		}
	}
	return false
}

// vain counts a look-up in vain.
func (c *callers) vain(from keys.Caller, now int64) {
	if from.More || from.Verified {
		return
	}
	places := c.places(from)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all.add(now, c.whole)
	c.top.add(now, ceiling*c.whole)
	for row, at := range places {
		c.shares[row][at].add(now, c.own)
	}
}

// places returns where a caller is counted: by the network that one subscriber has, and the API.
func (c *callers) places(from keys.Caller) (at [callerRows]uint16) {
	var h maphash.Hash
	h.SetSeed(c.seed)
	if a := from.Address.Unmap(); a.IsValid() {
		bits := 32
		if a.Is6() {
			bits = 64
		}
		network, _ := a.WithZone("").Prefix(bits)
		b := network.Addr().As16()
		_, _ = h.Write(b[:])
	}
	_ = h.WriteByte(0)
	_, _ = h.WriteString(from.API)
	var sum [8]byte
	binary.LittleEndian.PutUint64(sum[:], h.Sum64())
	for row := range at {
		at[row] = binary.LittleEndian.Uint16(sum[2*row:]) % rowShares
	}
	return at
}
