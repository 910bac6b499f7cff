package limits

import (
	"strings"
	"sync"
	"time"
)

// Local counts in this process, for failure_mode: local: while Redis cannot be reached, each replica allows its share
// of every limit, Limit ÷ replicas rounded down, but at least 1 of a limit that is not 0. It knows nothing of what was
// spent in Redis. A clock that jumps and returns is met as Store meets it. It is safe for concurrent use.
type Local struct {
	replicas int64
	now      func() time.Time
	maxKeys  int

	mu    sync.Mutex
	keys  map[string]map[counter]tally
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

// tally is the window that was in force last, and the one before it: none if that has no end.
type tally struct{ count, previous count }

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
		keys:     make(map[string]map[counter]tally),
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
	next, returned := make([]tally, len(sp.Windows)), false
	for i, w := range sp.Windows {
		kept, known := counts[counter{w.Name, w.Per}]
		returned = returned || kept.count.start > now.Unix()
		next[i] = w.advance(kept, known, now.Unix())
		if full {
			next[i].count.spent = w.share(l.replicas)
		}
		res.States[i] = w.localState(next[i].count, l.replicas)
		res.Allowed = res.Allowed && !full && !w.Denies(res.States[i], sp.Cost)
	}
	cost := sp.Cost
	if !res.Allowed || sp.ReadOnly {
		cost = 0
	}
	if cost == 0 && !returned {
		return res
	}
	if counts == nil {
		counts = make(map[counter]tally, len(sp.Windows))
		l.keys[strings.Clone(sp.ID)] = counts // an id may be part of a larger text, which it would keep
	}
	dropEnded(counts, now.Unix())
	for i, w := range sp.Windows {
		next[i].count.spent += cost
		counts[counter{w.Name, w.Per}] = next[i]
		res.States[i] = w.localState(next[i].count, l.replicas)
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

// dropEnded forgets the windows that have ended; renamed ones would stay for ever. So would those of a clock that was
// ahead. A month has ended when it has by any anchor.
func dropEnded(counts map[counter]tally, now int64) {
	for k, t := range counts {
		end := t.count.end
		if k.per == Month {
			end = t.count.start + leastMonth + 31*secondsPerDay
		}
		if end <= now || t.count.start > now {
			delete(counts, k)
		}
	}
}

// advance returns the window in force now, and what is to be remembered of the one before: spend.lua says why.
func (w Window) advance(t tally, known bool, now int64) tally {
	start, end := w.bounds(now)
	next := count{start: start, end: end}
	if !known {
		return tally{count: next}
	}
	last := t.count
	if end, ok := w.holds(last.start, now); ok {
		last.end = end
		return tally{last, t.previous}
	}
	remembered := t.previous.end != 0
	end, found := w.holds(t.previous.start, now)
	if found = found && remembered; found {
		next = count{start: t.previous.start, end: end}
	}
	keeps := true
	switch {
	case last.start > now:
		next.spent = last.spent
		if found {
			next.spent += t.previous.spent
		}
		keeps = !remembered || t.previous.start > now
	case found:
		next.spent = max(last.spent, t.previous.spent)
	}
	next.spent = min(next.spent, MaxLimit)
	if keeps {
		return tally{next, last}
	}
	return tally{next, t.previous}
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
