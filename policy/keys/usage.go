package keys

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Toucher writes when keys were last used: Store, for all but tests. Of two uses of one key in a call the later one
// counts. It keeps nothing of uses.
type Toucher interface {
	Touch(ctx context.Context, uses []Use) error
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

// Ages counts keys by the time since they were created: each key once for each note of its use. A key whose record came
// into the cache anew after it was noted is noted, and so counted, again in the same minute.
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

// Usage notes which keys are used and writes that to the store once a minute, never while a request waits. A key is
// written once a minute, or again with its later use if its record came into the cache anew. It is safe for concurrent
// use.
type Usage struct {
	store  Toucher
	most   int
	now    func() time.Time
	ticks  func() (<-chan time.Time, func())
	period atomic.Uint32

	mu     sync.Mutex
	noted  notes            // not written, at most most
	ages   map[string]*ages // by API, of what was noted since the last writing
	before map[string]*ages // of the last whole period
}

// NewUsage returns a Usage that keeps at most most notes until they are written, 1,000,000 if most is 0; the oldest
// are dropped for newer ones. now is the clock.
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

// Note notes that the key is used now. All but the first call of a minute for a Grant do nearly nothing.
func (u *Usage) Note(g *Grant) {
	if g.noted.Load() == u.period.Load() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	period := u.period.Load()
	if g.noted.Load() == period {
		return // another call was first
	}
	g.noted.Store(period)
	now := u.now() // with the lock, so that the notes are in the order of their times
	u.noted.add(g.ID(), now.Unix())
	u.noted.dropTo(u.most)
	if g.created != 0 {
		u.count(g.API, now.Sub(time.Unix(int64(g.created)*60, 0)).Hours()/24)
	}
}

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

// Run writes what was noted once a minute, and once more when ctx ends. failed, which may be nil, is told what could
// not be written; that is tried again.
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
	u.mu.Lock()
	noted := u.noted
	u.noted, u.before, u.ages = notes{}, u.ages, map[string]*ages{}
	u.period.Add(1)
	u.mu.Unlock()
	batch := make([]Use, 0, min(noted.n, touchBatch))
	for noted.n > 0 {
		var rest notes
		batch, rest = noted.uses(batch[:0])
		if err := u.store.Touch(ctx, batch); err != nil {
			u.putBack(noted.newest())
			return err
		}
		noted = rest
	}
	return nil
}

// putBack keeps what could not be written for the next time, before what was noted meanwhile.
func (u *Usage) putBack(unwritten notes) {
	u.mu.Lock()
	defer u.mu.Unlock()
	unwritten.join(u.noted)
	unwritten.dropTo(u.most)
	u.noted = unwritten
}
