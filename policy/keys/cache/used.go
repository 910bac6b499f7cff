package cache

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// Toucher writes when keys were last used: Store, for all but tests. Of two uses of one key in a
// call the later one counts. It keeps nothing of uses.
type Toucher interface {
	Touch(ctx context.Context, uses []store.Use) error
}

const (
	usagePeriod = time.Minute
	// touchTimeout bounds the writing of one period.
	touchTimeout = 10 * time.Second
	// touchBatch is how many uses one call writes.
	touchBatch = 1_000
)

// ageDays are the upper bounds of the ages that Usage counts keys by, in days.
func ageDays() [6]float64 { return [6]float64{7, 30, 60, 90, 180, 365} }

// Ages counts keys by the time since they were created: each key once for each note of its use. A
// key whose record came into the cache anew after it was noted is noted, and so counted, again in
// the same minute.
type Ages struct {
	Count   uint64             // keys whose age is known
	Days    float64            // the sum of their ages
	Buckets map[float64]uint64 // by 7, 30, 60, 90, 180 and 365 days, how many keys are not older
}

// ages are Ages as they are counted.
type ages struct {
	count uint64
	days  float64
	upTo  [6]uint64 // by ageDays, the keys that are older than the bound before
}

func (a *ages) add(days float64) {
	a.count++
	a.days += days
	for i, bound := range ageDays() {
		if days <= bound {
			a.upTo[i]++
			return
		}
	}
}

func (a *ages) sum() Ages {
	out := Ages{Count: a.count, Days: a.days, Buckets: map[float64]uint64{}}
	n := uint64(0)
	for i, bound := range ageDays() {
		n += a.upTo[i]
		out.Buckets[bound] = n
	}
	return out
}

// Usage notes which keys are used and writes that to the store once a minute, never while a request
// waits. A key is written once a minute, or again with its later use if its record came into the
// cache anew. It is safe for concurrent use.
type Usage struct {
	store  Toucher
	most   int
	now    func() time.Time
	ticks  func() (<-chan time.Time, func())
	period atomic.Uint32
	expect int // how many notes the last period had; of flush alone

	mu     sync.Mutex
	noted  []note           // not written, the oldest first, at most most
	ages   map[string]*ages // by API, of what was noted since the last writing
	before map[string]*ages // of the last whole period
}

// note is a use that is not written yet. Its id is a part of the Grant's text, see Usage.putBack.
type note struct {
	id     string
	second int64 // Unix
}

// NewUsage returns a Usage that keeps at most most notes until they are written, 1,000,000 if most
// is 0; the oldest are dropped for newer ones. now is the clock.
func NewUsage(store Toucher, most int, now func() time.Time) *Usage {
	if most <= 0 {
		most = defaultKeys
	}
	u := &Usage{store: store, most: most, now: now, ages: map[string]*ages{}}
	u.period.Store(1) // the zero of a new Grant is no period
	u.ticks = func() (<-chan time.Time, func()) {
		t := time.NewTicker(usagePeriod)
		return t.C, t.Stop
	}
	return u
}

// Note notes that the key is used now. All but the first call of a minute for a Grant do nearly
// nothing.
func (u *Usage) Note(g *keys.Grant) {
	if g.Noted.Load() == u.period.Load() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	period := u.period.Load()
	if g.Noted.Load() == period {
		return // another call was first
	}
	g.Noted.Store(period)
	now := u.now() // with the lock, so that the notes are in the order of their times
	u.noted = u.newest(append(u.noted, note{g.ID(), now.Unix()}))
	if g.CreatedMinute != 0 {
		u.count(g.API, now.Sub(time.Unix(int64(g.CreatedMinute)*60, 0)).Hours()/24)
	}
}

// newest drops the oldest notes, so that there are no more than most.
func (u *Usage) newest(notes []note) []note { return notes[max(0, len(notes)-u.most):] }

func (u *Usage) count(api string, days float64) {
	a := u.ages[api]
	if a == nil {
		a = &ages{}
		u.ages[api] = a
	}
	a.add(days)
}

// Ages returns, by API, the ages of the keys that were used in the last whole minute.
func (u *Usage) Ages() map[string]Ages {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make(map[string]Ages, len(u.before))
	for api, a := range u.before {
		out[api] = a.sum()
	}
	return out
}

// Run writes what was noted once a minute, and once more when ctx ends. failed, which may be nil,
// is told what could not be written; that is tried again.
func (u *Usage) Run(ctx context.Context, failed func(error)) {
	ticks, stop := u.ticks()
	defer stop()
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-ticks:
		}
		if err := u.flush(context.WithoutCancel(ctx)); err != nil && failed != nil {
			failed(err)
		}
	}
}

func (u *Usage) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, touchTimeout)
	defer cancel()
	next := make([]note, 0, u.expect) // so that it does not grow, which would be a copy, while requests wait
	u.mu.Lock()
	noted := u.noted
	u.noted, u.before, u.ages = next, u.ages, map[string]*ages{}
	u.period.Add(1)
	u.mu.Unlock()
	u.expect = len(noted)
	batch := make([]store.Use, 0, min(len(noted), touchBatch))
	for len(noted) > 0 {
		n := min(len(noted), touchBatch)
		batch = batch[:0]
		for _, use := range noted[:n] {
			batch = append(batch, store.Use{ID: use.id, At: time.Unix(use.second, 0)})
		}
		if err := u.store.Touch(ctx, batch); err != nil {
			u.putBack(noted)
			return err
		}
		noted = noted[n:]
	}
	return nil
}

// putBack keeps what could not be written for the next time, before what was noted meanwhile: only
// the last note of each key, so that keys which are used every minute do not fill it while the
// store is away. The ids are cloned, because they would keep the texts of keys that have left the
// cache.
func (u *Usage) putBack(unwritten []note) {
	last := make(map[string]int, len(unwritten))
	for i, use := range unwritten {
		last[use.id] = i
	}
	kept := make([]note, 0, len(last))
	for i, use := range unwritten {
		if last[use.id] == i {
			kept = append(kept, note{strings.Clone(use.id), use.second})
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.noted = u.newest(slices.Concat(kept, u.noted))
}
