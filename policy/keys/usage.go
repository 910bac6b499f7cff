package keys

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Toucher writes when keys were last used: Store, for all but tests.
type Toucher interface {
	Touch(ctx context.Context, ids map[string]time.Time) error
}

const (
	usagePeriod = time.Minute
	// touchTimeout bounds the writing of one period.
	touchTimeout = 10 * time.Second
	// touchBatch is how many keys one call writes.
	touchBatch = 1_000
)

// AgeDays are the upper bounds of the ages that Usage counts keys by, in days.
func AgeDays() []float64 { return []float64{7, 30, 60, 90, 180, 365} }

// Ages counts keys by the time since they were created.
type Ages struct {
	Count   uint64             // keys whose age is known
	Days    float64            // the sum of their ages
	Buckets map[float64]uint64 // by AgeDays, how many keys are not older
}

// Usage notes which keys are used and writes that to the store once a minute, so each key at most once a minute and
// never while a request waits. It is safe for concurrent use.
type Usage struct {
	store  Toucher
	most   int
	now    func() time.Time
	ticks  func() (<-chan time.Time, func())
	period atomic.Uint32

	mu     sync.Mutex
	noted  map[string]time.Time // by key id, since the last writing
	ages   map[string]*Ages     // by API, of the keys in noted
	before map[string]*Ages     // of the last whole period
}

// NewUsage returns a Usage that notes at most most keys a minute, 1,000,000 if most is 0. now is the clock.
func NewUsage(store Toucher, most int, now func() time.Time) *Usage {
	if most <= 0 {
		most = defaultKeys
	}
	u := &Usage{store: store, most: most, now: now, noted: map[string]time.Time{}, ages: map[string]*Ages{}}
	u.period.Store(1) // the zero of a new Grant is no period
	u.ticks = func() (<-chan time.Time, func()) {
		t := time.NewTicker(usagePeriod)
		return t.C, t.Stop
	}
	return u
}

// Note notes that the key is used now. All but the first call of a minute for a Grant do nearly nothing.
func (u *Usage) Note(g *Grant) {
	period := u.period.Load()
	if g.noted.Load() == period {
		return
	}
	g.noted.Store(period)
	now := u.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	_, again := u.noted[g.ID()]
	if !again && len(u.noted) >= u.most {
		return
	}
	u.noted[g.ID()] = now
	if !again && g.created != 0 {
		u.count(g.API, now.Sub(time.Unix(int64(g.created)*60, 0)).Hours()/24)
	}
}

func (u *Usage) count(api string, days float64) {
	a := u.ages[api]
	if a == nil {
		a = &Ages{Buckets: map[float64]uint64{}}
		u.ages[api] = a
	}
	a.Count++
	a.Days += days
	for _, bound := range AgeDays() {
		n := a.Buckets[bound] // the bucket is there also if it stays empty
		if days <= bound {
			n++
		}
		a.Buckets[bound] = n
	}
}

// Ages returns, by API, the ages of the keys that were used in the last whole minute.
func (u *Usage) Ages() map[string]Ages {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make(map[string]Ages, len(u.before))
	for api, a := range u.before {
		out[api] = Ages{Count: a.Count, Days: a.Days, Buckets: maps.Clone(a.Buckets)}
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
	u.noted, u.before, u.ages = map[string]time.Time{}, u.ages, map[string]*Ages{}
	u.period.Add(1)
	u.mu.Unlock()
	batch := make(map[string]time.Time, min(len(noted), touchBatch))
	for id, at := range noted {
		batch[id] = at
		if len(batch) < touchBatch && len(batch) < len(noted) {
			continue
		}
		if err := u.store.Touch(ctx, batch); err != nil {
			u.putBack(noted)
			return err
		}
		for id := range batch {
			delete(noted, id)
		}
		clear(batch)
	}
	return nil
}

// putBack keeps what could not be written for the next time.
func (u *Usage) putBack(noted map[string]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range noted {
		if _, newer := u.noted[id]; !newer && len(u.noted) < u.most {
			u.noted[id] = at
		}
	}
}
