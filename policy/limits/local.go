package limits

import (
	"strings"
	"sync"
	"time"
)

// Local counts in this process, for failure_mode: local: while Redis cannot be reached, each
// replica allows its share of every limit, Limit ÷ replicas rounded down, but at least 1 of a limit
// that is not 0, and of slots. It knows nothing of what was spent in Redis, nor of slots there. A
// clock that jumps and returns is met as Store meets it. It is safe for concurrent use.
type Local struct {
	replicas int64
	now      func() time.Time
	maxKeys  int

	mu    sync.Mutex
	keys  map[string]map[localKey]Counter
	swept int64
	slots localSlots
}

// localKey is a window's identity: the same as the field of the Redis hash.
type localKey struct {
	name string
	per  Unit
}

// NewLocal returns counters for at most maxKeys limit ids. replicas is how many processes share the
// limits; less than 1 means 1. now is the clock; nil means time.Now.
func NewLocal(replicas int, now func() time.Time, maxKeys int) *Local {
	if now == nil {
		now = time.Now
	}
	return &Local{
		replicas: int64(max(replicas, 1)),
		now:      now,
		maxKeys:  maxKeys,
		keys:     make(map[string]map[localKey]Counter),
		slots:    localSlots{held: make(map[string]map[string]time.Time)},
	}
}

// Spend takes the cost from all windows or from none. The other replicas' shares are reported as
// spent, so that Denies, Remaining, Tightest and RetryAfter are right for the States of the Result.
//
// When maxKeys limit ids have windows in force, a further id is denied until one of them has ended:
// forgetting a counter would hand out its limit again. An invalid Spend is denied.
func (l *Local) Spend(sp *Spend) Result {
	now := l.now().UTC()
	if sp.Validate() != nil {
		return Result{Now: now}
	}
	res := Result{Allowed: true, Now: now, States: make([]State, len(sp.Windows))}
	if !sp.Asks() {
		return res
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.keys[sp.ID]
	full := counts == nil && len(sp.Windows) > 0 && !l.hasRoom(now.Unix())
	next, returned := make([]Counter, len(sp.Windows)), false
	for i, w := range sp.Windows {
		kept, known := counts[localKey{w.Name, w.Per}]
		returned = returned || kept.Last.Start > now.Unix()
		next[i] = w.Advance(kept, known, now.Unix())
		if full {
			next[i].Last.Spent = w.share(l.replicas)
		}
		res.States[i] = w.localState(next[i].Last, l.replicas)
		res.Allowed = res.Allowed && !full && !w.Denies(res.States[i], sp.Cost)
	}
	if sp.Slot.ID != "" && res.Allowed {
		share := max(sp.Slot.Places/l.replicas, 1)
		res.InUse, res.Allowed = l.slots.take(sp.ID, &sp.Slot, share, l.maxKeys, now)
		res.InUse, res.Full = min(res.InUse+sp.Slot.Places-share, sp.Slot.Places), !res.Allowed
	}
	cost := sp.Cost
	if !res.Allowed || sp.ReadOnly {
		cost = 0
	}
	if cost == 0 && !returned || len(sp.Windows) == 0 {
		return res
	}
	if counts == nil {
		counts = make(map[localKey]Counter, len(sp.Windows))
		l.keys[strings.Clone(sp.ID)] = counts // an id may be part of a larger text, which it would keep
	}
	dropEnded(counts, now.Unix())
	for i, w := range sp.Windows {
		next[i].Last.Spent += cost
		counts[localKey{w.Name, w.Per}] = next[i]
		res.States[i] = w.localState(next[i].Last, l.replicas)
	}
	return res
}

// hasRoom says whether one more id may be kept. A full table is searched for ended windows at most
// once a second, because the search is as long as the table.
func (l *Local) hasRoom(now int64) bool {
	if len(l.keys) < l.maxKeys {
		return true
	}
	if l.swept == now {
		return false
	}
	l.swept = now
	for id, counts := range l.keys {
		dropEnded(counts, now)
		if len(counts) == 0 {
			delete(l.keys, id)
		}
	}
	return len(l.keys) < l.maxKeys
}

// dropEnded forgets the windows that have ended; renamed ones would stay for ever. So would those
// of a clock that was ahead. A month has ended when it has by any anchor.
func dropEnded(counts map[localKey]Counter, now int64) {
	for k, t := range counts {
		end := t.Last.End
		if k.per == Month {
			end = t.Last.Start + leastMonth + 31*secondsPerDay
		}
		if end <= now || t.Last.Start > now {
			delete(counts, k)
		}
	}
}

// share is one replica's part of the limit.
func (w Window) share(replicas int64) int64 {
	if w.Limit <= 0 {
		return 0
	}
	return max(w.Limit/replicas, 1)
}

func (w Window) localState(c Count, replicas int64) State {
	return State{Spent: w.Limit - w.share(replicas) + c.Spent, Reset: time.Unix(c.End, 0).UTC()}
}
