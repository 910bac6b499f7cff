// Package journal keeps the error log in Redis: the latest entries of each key, within bounds that
// scripts hold. It writes what each server has sampled, and reads it for people.
//
// What belongs to an API is on one node of a cluster. Entries are in the order in which they came
// to Redis; their times are those of the servers' clocks, while their age is judged by Redis'.
package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/errorlog"
)

const (
	// tickInterval is how often entries are written.
	tickInterval = time.Second
	// tripTimeout bounds one round trip.
	tripTimeout = 5 * time.Second
	// perScript bounds a run of the script, so that Redis serves others after a fraction of a
	// millisecond.
	perScript = 32
)

// APIsOf returns of which API the key of each id is, "" where there is none. Its error means that
// it is not known.
type APIsOf func(ctx context.Context, ids []string) ([]string, error)

// Options say how a Writer works. The zero value is what servers use.
type Options struct {
	Bounds Bounds // default DefaultBounds
	// Days returns after how many days an API's entries are gone; default that of policies.
	Days func(api string) int
	// Offset is added to Redis' clock; nil outside tests.
	Offset func() time.Duration
}

// Writer writes what a Log has sampled to Redis. One goroutine uses it, but for Stats.
//
// While entries of an API cannot be written they are kept, and no more of it are taken from the
// Log, which then only counts: so there are never more than those of two periods. What was written
// and whose reply was lost is not written twice.
type Writer struct {
	client  redis.UniversalClient
	log     *errorlog.Log
	apisOf  APIsOf
	options Options
	ticks   func() (<-chan time.Time, func())
	append  *redis.Script
	back    *redis.Script

	waiting []*entry
	stats   stats
}

// entry is one on its way.
type entry struct {
	errorlog.Entry
	member, text string
	looked       bool // its key is known to be one of the API
	again        bool // an earlier try may have written it
	done         bool
}

type stats struct {
	written, failed, unknown, dropped, givenBack atomic.Uint64
	waiting                                      atomic.Int64
}

// Stats are counts since the start.
type Stats struct {
	Written   uint64 // entries
	Failed    uint64 // tries to write an entry that did not succeed
	Unknown   uint64 // requests of the access log alone, whose key is none of the API's
	Dropped   uint64 // entries that will not be written: the end came, or Redis holds something else there
	GivenBack uint64 // lists that were deleted, because the API had too much or they were too old
	Waiting   int    // entries kept to be written
}

// NewWriter returns a Writer. Build the client with connect.Open, as for counters.NewStore.
func NewWriter(c redis.UniversalClient, log *errorlog.Log, apisOf APIsOf, o Options) *Writer {
	if o.Bounds == (Bounds{}) {
		o.Bounds = DefaultBounds()
	}
	return &Writer{
		client: c, log: log, apisOf: apisOf, options: o, append: redis.NewScript(appendSource), back: redis.NewScript(backSource),
		ticks: func() (<-chan time.Time, func()) {
			t := time.NewTicker(tickInterval)
			return t.C, t.Stop
		},
	}
}

// Stats returns the counts.
func (w *Writer) Stats() Stats {
	s := &w.stats
	return Stats{
		Written: s.written.Load(), Failed: s.failed.Load(), Unknown: s.unknown.Load(), Dropped: s.dropped.Load(),
		GivenBack: s.givenBack.Load(), Waiting: int(s.waiting.Load()),
	}
}

// Run writes once a second until ctx ends, and then what is left. failed, which may be nil, is told
// why something was not written; that is tried again, at the end once.
func (w *Writer) Run(ctx context.Context, failed func(error)) {
	ticks, stop := w.ticks()
	defer stop()
	tell := func(err error) {
		if err != nil && failed != nil {
			failed(err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			tell(w.end(context.WithoutCancel(ctx)))
			return
		case <-ticks:
			tell(w.Tick(ctx))
		}
	}
}

// end writes what there is, and counts what could not be written as dropped.
func (w *Writer) end(ctx context.Context) error {
	err := w.Tick(ctx)
	if err == nil {
		err = w.Tick(ctx) // what has come meanwhile, where something had waited
	}
	w.stats.dropped.Add(uint64(len(w.waiting)))
	w.waiting = nil
	w.stats.waiting.Store(0)
	return err
}

// Tick writes what waits, and what the Log has of APIs of which nothing waits. The error says why
// something was not written.
func (w *Writer) Tick(ctx context.Context) error {
	w.take()
	if len(w.waiting) == 0 {
		return nil
	}
	err := errors.Join(w.lookUp(ctx), w.write(ctx))
	w.waiting = slices.DeleteFunc(w.waiting, func(e *entry) bool { return e.done })
	w.stats.failed.Add(uint64(len(w.waiting)))
	w.stats.waiting.Store(int64(len(w.waiting)))
	if err != nil {
		return fmt.Errorf("error log: %w", err)
	}
	return nil
}

func (w *Writer) take() {
	waiting := map[string]bool{}
	for _, e := range w.waiting {
		waiting[e.API] = true
	}
	taken := w.log.Take(func(api string) bool { return waiting[api] })
	for i := range taken {
		e := &entry{Entry: taken[i]}
		e.member, e.text = memberOf(&e.Entry), e.Pack()
		// What a decision tells of is a key that was found.
		e.looked = e.Reason != errorlog.Upstream || e.Key == ""
		w.waiting = append(w.waiting, e)
	}
}

// lookUp drops the entries of the access log whose key is none of their API: whoever reaches its
// port can write them.
func (w *Writer) lookUp(ctx context.Context) error {
	var ids []string
	var of []*entry
	for _, e := range w.waiting {
		if !e.looked {
			ids, of = append(ids, e.Key), append(of, e)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, tripTimeout)
	defer cancel()
	apis, err := w.apisOf(limited, ids)
	if err != nil {
		return err
	}
	for i, e := range of {
		if e.looked = apis[i] == e.API; !e.looked {
			e.done = true
			w.stats.unknown.Add(1 + e.More)
		}
	}
	return nil
}

// write writes what waits. Where an API has no room it gives some back first, once.
func (w *Writer) write(ctx context.Context) error {
	err := w.tryAll(ctx)
	if err == nil && slices.ContainsFunc(w.waiting, (*entry).due) {
		err = w.tryAll(ctx)
	}
	return err
}

// due reports whether an entry can be written and was not.
func (e *entry) due() bool { return e.looked && !e.done }

// tryAll tries each entry that is due, the APIs one after the other.
func (w *Writer) tryAll(ctx context.Context) (failed error) {
	for i := 0; i < len(w.waiting); {
		part := w.waiting[i:]
		n := 1
		for n < len(part) && n < perScript && part[n].API == part[0].API {
			n++
		}
		i += n
		todo := slices.DeleteFunc(slices.Clone(part[:n]), func(e *entry) bool { return !e.due() })
		if len(todo) == 0 {
			continue
		}
		if err := w.appendPart(ctx, todo[0].API, todo); err != nil {
			failed = err
			if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
				break // others would wait as long
			}
		}
	}
	return failed
}

// appendPart appends entries of one API, and gives back what the script says.
func (w *Writer) appendPart(ctx context.Context, api string, part []*entry) error {
	limited, cancel := context.WithTimeout(ctx, tripTimeout)
	defer cancel()
	statuses, back, err := w.appendOnce(limited, api, part)
	if err != nil {
		for _, e := range part {
			e.again = true
		}
		return err
	}
	for i, e := range part {
		w.settle(e, statuses[i])
	}
	if len(back) == 0 {
		return nil
	}
	return w.giveBack(limited, api, back)
}

// settle sees to what became of an entry.
func (w *Writer) settle(e *entry, status int64) {
	switch status {
	case appended, appendedBefore:
		w.stats.written.Add(1)
		e.done = true
	case tooMany:
		w.log.NotKept(&e.Entry)
		e.done = true
	case broken:
		w.stats.dropped.Add(1)
		e.done = true
	}
}
