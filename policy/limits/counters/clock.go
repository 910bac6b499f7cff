package counters

import (
	"sync"
	"time"

	"tollgate/policy/limits"
)

const (
	// leastJump is the least that counts as a jump of the store's clock: less is what clocks do
	// that are being set right.
	leastJump = 500 * time.Millisecond
	// jumpsToldPerMinute bounds how often Options.Jumped is called.
	jumpsToldPerMinute = 10
)

// storeClock follows the clock of one node of the store by the monotonic one of this process.
type storeClock struct {
	mu                   sync.Mutex
	known                bool
	minOffset, maxOffset int64 // from the monotonic clock, ms
}

// observe takes in that the store's clock was at ms some time between asked and now, and returns
// how far it has jumped since it was seen before, or 0. A round trip that took long tells little,
// and is no reason to speak of a jump.
func (s *storeClock) observe(ms int64, asked, now time.Duration) time.Duration {
	lo, hi := ms-now.Milliseconds()-1, ms-asked.Milliseconds()+1
	s.mu.Lock()
	defer s.mu.Unlock()
	by := int64(0)
	switch least := leastJump.Milliseconds(); {
	case !s.known:
	case lo > s.maxOffset+least || hi < s.minOffset-least:
		by = (lo+hi)/2 - (s.minOffset+s.maxOffset)/2
	case hi-lo > least && hi-lo > s.maxOffset-s.minOffset:
		return 0
	}
	s.known, s.minOffset, s.maxOffset = true, lo, hi
	const longest = int64(1 << 42) // ms, some 139 years
	return time.Duration(min(max(by, -longest), longest)) * time.Millisecond
}

// jumps counts the jumps of the store's clocks, and says which are told.
type jumps struct {
	mu     sync.Mutex
	total  uint64
	minute time.Duration // since when told counts
	told   int
}

// add counts one, and reports whether it is told: at most jumpsToldPerMinute are.
func (j *jumps) add(now time.Duration) (total uint64, tell bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.total++
	if j.told == 0 || now-j.minute >= time.Minute {
		j.minute, j.told = now, 0
	}
	j.told++
	return j.total, j.told <= jumpsToldPerMinute
}

func (j *jumps) count() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.total
}

// watchClock sees whether the clock of the store has jumped since an answer of the same node.
func (l *Leases) watchClock(c *operation, asked, now time.Duration) {
	if c.queue.node == "" && l.store.nodeOf != nil {
		return // one of several, and it is not known which
	}
	by := c.queue.clock.observe(c.now, asked, now)
	if by == 0 {
		return
	}
	if total, tell := l.jumps.add(now); tell && l.options.Jumped != nil {
		l.options.Jumped(by, total)
	}
}

// outOfWindow reports whether this process's own clock is in none of a window that the store says
// is in force. One of the two clocks is wrong, maybe for a moment only.
func outOfWindow(counts []limits.Count, wall time.Time) bool {
	at := wall.Unix()
	for _, n := range counts {
		if at < n.Start || at >= n.End {
			return true
		}
	}
	return false
}
