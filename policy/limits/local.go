package limits

import (
	"strings"
	"sync"
	"time"
)

// Local counts in this process, for failure_mode: local: while Redis cannot be reached, each replica allows its share
// of every limit, Limit ÷ replicas rounded down, but at least 1 of a limit that is not 0. It knows nothing of what was
// spent in Redis. A clock that is set back finds the windows of the same Spend as they were. It is safe for concurrent use.
type Local struct {
	replicas int64
	now      func() time.Time
	maxKeys  int

	mu    sync.Mutex
	keys  map[string]map[counter]count
	swept int64
}

// counter is a window's identity: the same as the field of the Redis hash.
type counter struct {
	name string
	per  Unit
}

// count is what a window holds; start and end are Unix seconds.
type count struct {
	start, end int64
	spent      int64
}

// NewLocal returns counters for at most maxKeys limit ids. replicas is how many processes share the limits; less than 1
// means 1. now is the clock; nil means time.Now.
func NewLocal(replicas int, now func() time.Time, maxKeys int) *Local {
	if now == nil {
		now = time.Now
	}
	return &Local{
		replicas: int64(max(replicas, 1)),
		now:      now,
		maxKeys:  maxKeys,
		keys:     make(map[string]map[counter]count),
	}
}

// Spend takes the cost from all windows or from none. The other replicas' shares are reported as spent, so that Denies,
// Remaining, Tightest and RetryAfter are right for the States of the Result.
//
// When maxKeys limit ids have windows in force, a further id is denied until one of them has ended: forgetting a
// counter would hand out its limit again. An invalid Spend is denied.
func (l *Local) Spend(sp *Spend) Result {
	now := l.now().UTC()
	if sp.validate() != nil {
		return Result{Now: now}
	}
	res := Result{Allowed: true, Now: now, States: make([]State, len(sp.Windows))}
	if len(sp.Windows) == 0 {
		return res
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.keys[sp.ID]
	full := counts == nil && !l.hasRoom(now.Unix())
	next := make([]count, len(sp.Windows))
	for i, w := range sp.Windows {
		kept, known := counts[counter{w.Name, w.Per}]
		next[i] = w.advance(kept, known, now.Unix())
		if full {
			next[i].spent = w.share(l.replicas)
		}
		res.States[i] = w.localState(next[i], l.replicas)
		res.Allowed = res.Allowed && !full && !w.Denies(res.States[i], sp.Cost)
	}
	if !res.Allowed || sp.ReadOnly || sp.Cost == 0 {
		return res
	}
	if counts == nil {
		counts = make(map[counter]count, len(sp.Windows))
		l.keys[strings.Clone(sp.ID)] = counts // an id may be part of a larger text, which it would keep
	}
	dropEnded(counts, now.Unix())
	for i, w := range sp.Windows {
		next[i].spent += sp.Cost
		counts[counter{w.Name, w.Per}] = next[i]
		res.States[i] = w.localState(next[i], l.replicas)
	}
	return res
}

// hasRoom says whether one more id may be kept. A full table is searched for ended windows at most once a second,
// because the search is as long as the table.
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

// dropEnded forgets the windows that have ended; renamed ones would stay for ever.
func dropEnded(counts map[counter]count, now int64) {
	for k, c := range counts {
		if c.end <= now {
			delete(counts, k)
		}
	}
}

// advance returns the window in force now: c itself, also if its start is later than the clock's, or a new empty one.
func (w Window) advance(c count, known bool, now int64) count {
	start, end := w.bounds(now)
	if !known || c.start < start {
		return count{start: start, end: end}
	}
	_, c.end = w.bounds(c.start)
	return c
}

// share is one replica's part of the limit.
func (w Window) share(replicas int64) int64 {
	if w.Limit <= 0 {
		return 0
	}
	return max(w.Limit/replicas, 1)
}

func (w Window) localState(c count, replicas int64) State {
	return State{Spent: w.Limit - w.share(replicas) + c.spent, Reset: time.Unix(c.end, 0).UTC()}
}
