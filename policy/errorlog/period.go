package errorlog

import (
	"math"
	"sync/atomic"
	"time"

	"tollgate/policy"
)

// places is a power of two, and so many more than PerPeriod that an entry is found soon.
const places = 256

// period holds the entries of an API by key and reason: a hash table that is read without a lock.
// Entries are added under the lock of the API and never removed.
type period struct {
	n, failed atomic.Int32 // entries, and those of requests that failed
	places    [places]atomic.Pointer[slot]
}

func (p *period) hasRoom(r policy.Reason) bool {
	return p.n.Load() < PerPeriod && (r != upstream || p.failed.Load() < failedPerPeriod)
}

// slot is an entry, and how many others it stands for.
type slot struct {
	reason policy.Reason
	more   atomic.Int64 // less than 0 once it was taken
	entry  Entry
}

// taken is so far below 0 that no count comes up to it.
const taken = math.MinInt64 / 2

// find returns the entry of a key and reason, nil if there is none.
func (p *period) find(hash uint32, id string, r policy.Reason) *slot {
	for i := hash; ; i++ {
		s := p.places[i%places].Load()
		if s == nil || s.reason == r && s.entry.Key == id {
			return s
		}
	}
}

// add adds an entry that is not there, if there is room.
func (p *period) add(hash uint32, s *slot) {
	for i := hash; ; i++ {
		if place := &p.places[i%places]; place.Load() == nil {
			place.Store(s)
			p.n.Add(1)
			if s.reason == upstream {
				p.failed.Add(1)
			}
			return
		}
	}
}

// take returns the entry. Who counts after it finds that out.
func (s *slot) take(now time.Time) Entry {
	e := s.entry
	if n := s.more.Swap(taken); n > 0 {
		e.More, e.Until = uint64(n), later(now, e.Time)
	}
	return e
}
