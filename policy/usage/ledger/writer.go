// Package ledger keeps usage in Redis: what each server has counted is added to a hash for each key
// and day, days are folded into months, and both are read for people.
package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/usage"
)

const (
	// tickInterval is how often hot keys are written. The others follow within usage.Groups of
	// them.
	tickInterval = time.Second
	// addTimeout bounds one round trip.
	addTimeout = 5 * time.Second
	// patience is how many ticks an entry of the log waits for the server that has decided about
	// its request to say so.
	patience = 2*usage.Groups + 2
	// maxWaiting is from how many days of keys that wait on no more are taken from the Counter,
	// which keeps them in a tenth of the memory, and has a bound. Each takes some 600 bytes.
	maxWaiting = 50_000
)

var (
	errReply  = errors.New("the store's answer cannot be read")
	errUnseen = errors.New("the store forgets the script")
)

// Writer adds what a Counter has counted to Redis. One goroutine uses it, but for Stats.
//
// What could not be added is kept and tried again, and a mark in the hash tells whether an earlier
// try had reached it. Where more than eleven other servers have added to the same hash between the
// two, that is not known any more; it is then added, and counted as Uncertain.
type Writer struct {
	client  redis.UniversalClient
	counter *usage.Counter
	now     func() time.Time
	also    []func(*usage.Delta)
	ticks   func() (<-chan time.Time, func())
	sha     string
	me      string // three capitals
	singly  bool   // each hash is a script of its own
	stamps  int
	all     string // stamps, two characters each
	group   int

	batch   usage.Batch
	waiting map[subjectDay]*waiting

	unlisted   map[string]*listing // what could not be put on a list yet
	listFailed error               // why not
	dayNames   map[usage.Day]string
	listKeys   map[apiDay]string
	down       bool // the last trip has added nothing
	failing    bool // something was not added when it was last tried
	renewed    bool // something waits that was not sent yet

	stats stats
}

type apiDay struct {
	api string
	day usage.Day
}

type subjectDay struct {
	usage.Subject
	day usage.Day
}

// waiting is what could not be added yet.
type waiting struct {
	addition
	more  *usage.Delta // came meanwhile; nil if nothing did
	ticks int          // that it has waited for somebody to say that the key was used
}

type stats struct {
	added, failed, uncertain, late, unknown, broken atomic.Uint64
	waiting                                         atomic.Int64
}

// Stats are counts since the start.
type Stats struct {
	Added     uint64 // what a key did on a day, each time that it was added
	Failed    uint64 // tries that did not succeed
	Uncertain uint64 // added, and perhaps twice
	Late      uint64 // lost: the day was folded already
	Unknown   uint64 // lost: the log named a key that no server has seen that day
	Broken    uint64 // lost: Redis holds something else in that place
	Waiting   int    // kept to be added
}

// NewWriter returns a Writer. Build the client with connect.Open, as for counters.NewStore.
func NewWriter(c redis.UniversalClient, counter *usage.Counter, now func() time.Time) *Writer {
	sum := sha1.Sum([]byte(addSource))
	_, whole := c.(*redis.Client)
	w := &Writer{
		client: c, counter: counter, now: now, sha: hex.EncodeToString(sum[:]), me: newMark(), singly: !whole,
		waiting: map[subjectDay]*waiting{}, dayNames: map[usage.Day]string{}, listKeys: map[apiDay]string{},
	}
	w.all = allStamps()
	w.ticks = func() (<-chan time.Time, func()) {
		t := time.NewTicker(tickInterval)
		return t.C, t.Stop
	}
	return w
}

// Tell has also told of what is added, each once; it is called before Run, as often as there are
// such functions. They may keep nothing of the delta but names of APIs, routes and reasons, and
// must not wait.
func (w *Writer) Tell(also func(*usage.Delta)) { w.also = append(w.also, also) }

// newMark returns three capitals. Where two servers have the same, at most a try again is taken for
// the other's, if their stamps are equal too.
func newMark() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // it never fails
	for i := range b {
		b[i] = 'A' + b[i]%26
	}
	return string(b[:])
}

// Stats returns the counts.
func (w *Writer) Stats() Stats {
	s := &w.stats
	return Stats{
		Added: s.added.Load(), Failed: s.failed.Load(), Uncertain: s.uncertain.Load(), Late: s.late.Load(),
		Unknown: s.unknown.Load(), Broken: s.broken.Load(), Waiting: int(s.waiting.Load()),
	}
}

// Run adds once a second until ctx ends, and then all that is left. failed, which may be nil, is
// told why something was not added; that is tried again, at the end once.
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
			tell(w.Flush(context.WithoutCancel(ctx)))
			return
		case <-ticks:
			tell(w.Tick(ctx))
		}
	}
}

// Tick adds what waits, then what hot keys and one group of all keys have done. The error says why
// something was not added.
func (w *Writer) Tick(ctx context.Context) error {
	w.group = (w.group + 1) % usage.Groups
	return w.write(ctx, w.group)
}

// Flush adds all that there is.
func (w *Writer) Flush(ctx context.Context) error { return w.write(ctx, -1) }

func (w *Writer) write(ctx context.Context, group int) error {
	err := w.retry(ctx)
	if group >= 0 && (err != nil && w.down || len(w.waiting) > maxWaiting) {
		return err // the Counter keeps it
	}
	w.counter.Take(&w.batch, group, w.now())
	defer w.counter.Release(&w.batch)
	all, list := make([]addition, len(w.batch.Deltas)), make([]*addition, 0, len(w.batch.Deltas))
	today := usage.DayOf(w.now())
	for i := range w.batch.Deltas {
		d := &w.batch.Deltas[i]
		if at := w.waiting[subjectDay{d.Subject, d.Day}]; at != nil {
			at.wait(d)
			continue
		}
		if w.isLate(d, today) {
			continue
		}
		all[i] = addition{Delta: d, stamp: w.stamp()}
		list = append(list, &all[i])
	}
	if err = errors.Join(err, w.send(ctx, list)); err == nil && group < 0 {
		err = w.retry(ctx)
	}
	return err
}

// wait adds what came meanwhile.
func (at *waiting) wait(d *usage.Delta) {
	if at.more == nil {
		at.more = &usage.Delta{}
	}
	at.more.Merge(d)
}

// lateDays is how many days after its own a delta is still taken: the hash of an older one may be
// folded and gone.
const lateDays = 1

func (w *Writer) isLate(d *usage.Delta, today usage.Day) bool {
	if d.Day+lateDays >= today {
		return false
	}
	w.stats.late.Add(1)
	return true
}

// stamp returns two characters that the next thousand additions do not have.
func (w *Writer) stamp() string {
	w.stamps = (w.stamps + 2) % len(w.all)
	return w.all[w.stamps:][:2]
}

func allStamps() string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var all strings.Builder
	for _, a := range digits {
		for _, b := range digits {
			all.WriteRune(a)
			all.WriteRune(b)
		}
	}
	return all.String()
}

// dayKey is the function dayKey, which makes the names of days anew each time.
func (w *Writer) dayKey(s usage.Subject, d usage.Day) string {
	name, known := w.dayNames[d]
	if !known {
		if len(w.dayNames) > 100 {
			clear(w.dayNames)
		}
		name = d.String()
		w.dayNames[d] = name
	}
	return keyOf(s, name)
}

func (w *Writer) listKey(api string, d usage.Day) string {
	key, known := w.listKeys[apiDay{api, d}]
	if !known {
		if len(w.listKeys) > 100 {
			clear(w.listKeys)
		}
		key = listKey(api, d)
		w.listKeys[apiDay{api, d}] = key
	}
	return key
}

// retry sends what waits, and what came for the same keys meanwhile: a first part alone while the
// store, or a node of it, does not take it.
func (w *Writer) retry(ctx context.Context) error {
	for {
		var list []*addition
		today := usage.DayOf(w.now())
		for at, it := range w.waiting {
			if w.isLate(it.Delta, today) {
				delete(w.waiting, at)
				continue
			}
			list = append(list, &it.addition)
			if w.failing && len(list) == perScript {
				break
			}
		}
		wasFailing := w.failing
		w.renewed = false
		if err := w.send(ctx, list); err != nil || !w.renewed && !wasFailing {
			return err
		}
	}
}

// send adds a list, a trip at a time, and keeps what fails.
func (w *Writer) send(ctx context.Context, list []*addition) error {
	var failed error
	for len(list) > 0 {
		trip := list[:min(len(list), perTrip)]
		list = list[len(trip):]
		if failed == nil || !w.down {
			limited, cancel := context.WithTimeout(ctx, addTimeout)
			w.add(limited, trip)
			cancel()
			w.down = true
		} else {
			for _, a := range trip {
				a.err = failed // and not sent
			}
		}
		for _, a := range trip {
			if err := w.settle(a, failed); err != nil {
				failed = err
			}
		}
	}
	w.stats.waiting.Store(int64(len(w.waiting)))
	w.failing = failed != nil
	if failed == nil && w.listFailed != nil {
		return fmt.Errorf("usage: %w", w.listFailed)
	}
	return failed
}

// settle sees to what became of an addition.
func (w *Writer) settle(a *addition, unsent error) error {
	at := subjectDay{a.Subject, a.Day}
	if a.err != nil {
		w.keep(at, a, a.err != unsent)
		if a.err == unsent {
			return unsent
		}
		w.stats.failed.Add(1)
		return fmt.Errorf("usage: %w", a.err)
	}
	w.down = false
	switch a.status {
	case notUsed:
		if w.keep(at, a, false).waitForUse(w.stamp()) {
			return nil
		}
		w.stats.unknown.Add(1)
	case noHash:
		w.stats.broken.Add(1)
	case addedPerhaps:
		w.stats.uncertain.Add(1)
		fallthrough
	default:
		w.stats.added.Add(1)
		for _, also := range w.also {
			also(a.Delta)
		}
	}
	it := w.waiting[at]
	if it == nil {
		return nil
	}
	if it.more == nil {
		delete(w.waiting, at)
		return nil
	}
	*it = waiting{addition: addition{Delta: it.more, stamp: w.stamp()}}
	w.renewed = true
	return nil
}

// waitForUse reports whether there is still hope that a server says that the key was used: it may
// be what came meanwhile.
func (at *waiting) waitForUse(stamp string) bool {
	if at.more != nil {
		at.Merge(at.more)
		at.more, at.stamp, at.again = nil, stamp, false
	}
	at.ticks++
	return at.ticks < patience || len(at.Decided) > 0
}

// keep keeps an addition for the next try.
func (w *Writer) keep(at subjectDay, a *addition, again bool) *waiting {
	it := w.waiting[at]
	if it == nil {
		d := a.Delta.Clone()
		it = &waiting{addition: addition{Delta: d, stamp: a.stamp}}
		w.waiting[subjectDay{d.Subject, d.Day}] = it
	}
	it.again, it.err = it.again || again, nil
	return it
}
