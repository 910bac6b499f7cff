package counters

import (
	"context"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy/limits"
)

// Options say how Leases work. The zero value leases.
type Options struct {
	// Exact forbids leases: each spend that is allowed is one of the store's own. Refusals are
	// still remembered.
	Exact bool
	// Keys bounds the limit ids that something is remembered of, about 300 bytes each; beyond them
	// each spend is one of the store's own. 0 means 100,000, which is far more than are in use
	// within a minute on one server.
	Keys int
	// Timeout bounds one round trip to the store; callers leave at the end of their own context. 0
	// means a second.
	Timeout time.Duration
	// Clock is the monotonic clock; nil means this process's. Only tests give another one.
	Clock func() time.Duration
	// Wall is the time of day by this process; nil means time.Now with the Store's offset. What the
	// store says of a window that is not in force by it is believed for a second.
	Wall func() time.Time
	// Jumped is told by how much the store's clock has jumped, and how often it has so far. It is
	// called ten times a minute at most, and must not wait for anything; nil tells nobody.
	Jumped func(by time.Duration, total uint64)
}

const (
	defaultKeys    = 100_000
	defaultTimeout = time.Second
	// giveBackTime bounds what a server that ends takes to give back its leases.
	giveBackTime = 1500 * time.Millisecond
	shardCount   = 64
	// A sweep gives back idle leases. It comes every sweepEvery and looks through the shards that
	// are due: idleEvery after they were looked through last, because that takes 10 ms for all
	// shards of 100,000 limit ids, or when a lease in them ends. Two sweeps are sweepAgain apart at
	// least.
	sweepEvery = time.Second
	sweepAgain = 20 * time.Millisecond
	idleEvery  = 4 * time.Second
)

// Leases spends limits for one replica, in front of a Store. Units that it has leased, and
// refusals that it remembers, answer at once; all else goes to the store, that of concurrent spends
// in one round trip.
//
// A lease is charged to all windows when it is taken, so no limit is ever exceeded, over any number
// of replicas. What is held and not spent can make a limit refuse early, by at most 2 % of it, all
// replicas together, crashed ones included. With Options.Exact or Spend.Exact nothing is held.
// Leases end by the monotonic clock of this process: if Redis' clock is set forward meanwhile, what
// is left of them, charged to the window before, can be spent in the new one until Redis is asked
// again. Of a window that by this process's own clock is not the present one, nothing is believed
// for longer than a second.
//
// A limit id has one lease, for one set of windows. Spends that alternate between two (keys that
// share a limit id, on two plans) drop it each time: that costs operations, and is as exact as
// counting without leases.
type Leases struct {
	store      *Store
	options    Options
	batches    *batches
	closed     atomic.Bool
	operations sync.Pool // of *operation, which their callers have done with
	seed       maphash.Seed
	shards     [shardCount]shard

	stranded atomic.Uint64
	jumps    jumps

	slots     slotCounts
	noWindows *layout // of operations about slots alone
}

// shard is a part of the table.
type shard struct {
	mu      sync.Mutex
	entries map[string]*entry
	due     time.Duration // when sweep is to look through them again
	dropped time.Duration // when Drop was last called for one of them
	served  [sources]uint64
	_       [64]byte // keeps the locks of two shards out of one cache line
}

// NewLeases returns Leases on the store. Run must be called, else nothing that is idle is given
// back.
func NewLeases(s *Store, o Options) *Leases {
	if o.Keys == 0 {
		o.Keys = defaultKeys
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Clock == nil {
		began := time.Now()
		o.Clock = func() time.Duration { return time.Since(began) }
	}
	if o.Wall == nil {
		o.Wall = func() time.Time { return time.Now().Add(s.offset()) }
	}
	l := &Leases{store: s, options: o, seed: maphash.MakeSeed(), noWindows: newLayout(nil)}
	for i := range l.shards {
		l.shards[i].entries, l.shards[i].dropped = make(map[string]*entry), -1
	}
	l.batches = &batches{
		timeout: o.Timeout, now: o.Clock, node: s.Node, begin: l.begin, send: s.send, received: l.receive,
		afterLinger: func(f func()) { time.AfterFunc(linger, f) }, afterSlow: func(f func()) { time.AfterFunc(slowPipeline, f) },
	}
	return l
}

func (l *Leases) shard(id string) *shard {
	return &l.shards[maphash.String(l.seed, id)%shardCount]
}

// Node returns the address of the server that counts for a limit id, "" where there is one only.
func (l *Leases) Node(id string) string { return l.store.Node(id) }

// Try answers a Spend at once, without asking the store, and reports whether it could: from units
// that are leased, from a refusal that is remembered, or, if it is ReadOnly, from counters that
// were seen within the last second. If not, ask Spend; into is then unchanged. The room of
// into.States is used again. An invalid Spend is left to Spend.
func (l *Leases) Try(s *limits.Spend, into *limits.Result) bool {
	if s.Cost < 0 || s.ID == "" {
		return false
	}
	if !s.Asks() {
		states := into.States[:0]
		*into = l.store.unlimited()
		into.States = states
		return true
	}
	exact := s.Exact || l.options.Exact || s.Slot.ID != ""
	now := l.options.Clock()
	sh := l.shard(s.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[s.ID]
	if e == nil || !e.layout.is(s.Windows) || l.closed.Load() {
		return false
	}
	from := e.answer(s.Cost, s.ReadOnly, exact, &s.Slot, now)
	if from == fromStore {
		return false
	}
	sh.served[from]++
	e.write(into, from, s.Cost, now)
	if from == fromLease && !s.ReadOnly && e.renews() {
		l.addBackground(e.renewal(now))
	}
	return true
}

// Spend takes the cost from all windows or from none, as Store.Spend does, and with the same
// errors, or ErrBusy. It may lease units in the same step. It returns at the end of ctx; it
// may have spent then.
func (l *Leases) Spend(ctx context.Context, s *limits.Spend) (limits.Result, error) {
	layout, err := l.store.layouts.of(s)
	if err != nil {
		return limits.Result{}, &limits.BrokenError{Err: err}
	}
	if !s.Asks() {
		return l.store.unlimited(), nil
	}
	if err := ctx.Err(); err != nil {
		return limits.Result{}, spendError(err)
	}
	c, _ := l.operations.Get().(*operation)
	if c == nil {
		c = &operation{}
	}
	c.id, c.layout, c.cost, c.readOnly, c.slot = s.ID, layout, s.Cost, s.ReadOnly, s.Slot
	c.exact = s.Exact || l.options.Exact || s.Slot.ID != ""
	if err := l.batches.do(ctx, c); err != nil {
		return limits.Result{}, spendError(err) // the batch may still use the operation
	}
	res, err := c.result, c.err
	c.reset()
	l.operations.Put(c)
	return res, err
}

// begin decides what an operation does beside its spend, when it is about to be sent.
func (l *Leases) begin(c *operation, add func(*operation)) action {
	if c.done == nil {
		return sendNow // made here, complete
	}
	now := l.options.Clock()
	sh := l.shard(c.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[c.id]
	if e != nil && e.layout != c.layout && !e.layout.is(c.layout.windows) {
		l.remove(sh, e, add) // the plan or the key has changed
		e = nil
	}
	c.exact = c.exact || l.closed.Load()
	if e == nil {
		if !c.exact {
			c.entry = l.addEntry(sh, c, now)
		}
		return sendNow
	}
	if from := e.answer(c.cost, c.readOnly, c.exact, &c.slot, now); from != fromStore {
		sh.served[from]++
		e.write(&c.result, from, c.cost, now)
		if from == fromLease && e.renews() && !c.readOnly && !l.closed.Load() {
			add(e.renewal(now))
		}
		return answered
	}
	c.entry = e
	return e.prepare(c, now)
}

// addEntry makes an entry for the limit id of an operation, if there is room.
func (l *Leases) addEntry(sh *shard, c *operation, now time.Duration) *entry {
	if len(sh.entries) >= l.room() {
		return nil
	}
	// A copy, because an id may be part of a larger text, which it would keep.
	e := &entry{id: strings.Clone(c.id), layout: c.layout, refused: -1, lastUsed: now}
	sh.entries[e.id] = e
	return e
}

// room is how many entries a shard holds at most.
func (l *Leases) room() int {
	return (l.options.Keys + shardCount - 1) / shardCount
}

// remove takes an entry out of the table. add gets the operations that give back what it holds.
func (l *Leases) remove(sh *shard, e *entry, add func(*operation)) {
	delete(sh.entries, e.id)
	e.removed = true
	if r := e.cancelRenewal(); r != nil && r.settle.units > 0 {
		add(&operation{id: e.id, layout: e.layout, settle: r.settle})
	}
	for e.pending() > 0 {
		add(&operation{id: e.id, layout: e.layout, settle: e.settlement(0, false)})
	}
}

// Drop forgets what is known of a limit id, because it was reset in the store: counters, refusals,
// and the lease, of which what is not spent goes back. It does not wait.
func (l *Leases) Drop(limitID string) {
	now := l.options.Clock()
	sh := l.shard(limitID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.dropped = now // what was asked before is not remembered
	if e := sh.entries[limitID]; e != nil {
		l.remove(sh, e, l.addBackground)
	}
}

// receive takes in an answer of the store.
func (l *Leases) receive(c *operation, asked, now time.Duration) {
	if c.err == nil {
		l.watchClock(c, asked, now)
	}
	if c.entry == nil && c.err == nil && !c.allowed && c.exact && c.done != nil {
		sh := l.shard(c.id)
		sh.mu.Lock()
		if sh.entries[c.id] == nil && asked > sh.dropped {
			c.entry = l.addEntry(sh, c, now) // a refusal, to be remembered
		}
		sh.mu.Unlock()
	}
	l.addStranded(c.strandedUnits())
	l.slots.took(c)
	if c.slot.ID != "" && !c.holds && c.mayHoldUnseen() {
		l.addBackground(&operation{id: c.id, layout: l.noWindows, slot: limits.Slot{ID: c.slot.ID}, holds: true})
	}
	if c.entry == nil {
		if c.err == nil && c.done != nil {
			c.result = c.resultOf(0)
		}
		return
	}
	sh := l.shard(c.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := c.entry
	l.addStranded(e.update(c, asked, now))
	if c.err == nil && outOfWindow(c.counts, l.options.Wall()) {
		e.distrust()
	}
	sh.sweepAt(e, now)
	if c.err == nil && c.done != nil {
		c.result = c.resultOf(e.unspent)
	}
	for e.removed && e.pending() > 0 {
		l.addBackground(&operation{id: e.id, layout: e.layout, settle: e.settlement(0, false)})
	}
}

func (l *Leases) addStranded(units int64) {
	if units > 0 {
		l.stranded.Add(uint64(units))
	}
}

// Run gives back what is idle, and leases anew for busy keys when a window ends, until ctx ends;
// then it gives back everything, which takes 1.5 seconds at most, and leases nothing any more. End
// ctx after the last Spend, so that nothing is leased anew.
func (l *Leases) Run(ctx context.Context) {
	next := time.NewTimer(sweepEvery)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			next.Reset(l.sweep())
		case <-ctx.Done():
			l.returnAll()
			return
		}
	}
}

// sweep looks through the shards that are due. It returns when to come again: when the next one is,
// but not before sweepAgain and not after sweepEvery.
func (l *Leases) sweep() time.Duration {
	now := l.options.Clock()
	next := now + sweepEvery
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		if now >= sh.due {
			l.sweepShard(sh, now)
		}
		next = min(next, sh.due)
		sh.mu.Unlock()
	}
	return max(next-now, sweepAgain)
}

// sweepShard gives back what is idle in a shard, and forgets it; where the table is more than half
// full, what is of few units does not stay longer than the rest. It renews leases that ended with
// their window.
func (l *Leases) sweepShard(sh *shard, now time.Duration) {
	sh.due = now + idleEvery
	for _, e := range sh.entries {
		patience := idleAfter
		if e.pending() <= smallLease && len(sh.entries) <= l.room()/2 {
			patience = smallLeaseIdle
		}
		switch {
		case !e.leasing && now-e.lastUsed >= patience:
			l.remove(sh, e, l.addBackground)
		case e.renewsAtWindowEnd(now):
			l.addBackground(e.renewal(now))
		default:
			sh.sweepAt(e, now)
		}
	}
}

// sweepAt has the shard looked through at the end of the entry's lease, if it has one.
func (sh *shard) sweepAt(e *entry, now time.Duration) {
	if end := e.until + afterWindowEnd; e.renewBelow > 0 && now < end {
		sh.due = min(sh.due, end)
	}
}

// returnAll gives back everything.
func (l *Leases) returnAll() {
	l.closed.Store(true)
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		for _, e := range sh.entries {
			l.remove(sh, e, l.addBackground)
		}
		sh.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTime)
	defer cancel()
	l.batches.drain(ctx)
}

// addBackground queues an operation that nobody waits for; batches never refuses one.
func (l *Leases) addBackground(c *operation) {
	_ = l.batches.add(c)
}

// Stats are counts since the start.
type Stats struct {
	Lease, Refusal, Reading uint64 // answers from leased units, remembered refusals, counters read in the last second
	Calls, Trips            uint64 // what the store was asked, and the round trips for it
	Stranded                uint64 // units that may stay charged and unspent, because a reply of the store was lost or came too late
	Jumps                   uint64 // of the store's clock
	Keys                    int    // limit ids of which something is remembered
	Held                    int64  // units leased and not spent
}

// Stats returns the counts. It looks through the table.
func (l *Leases) Stats() Stats {
	s := Stats{Calls: l.batches.calls.Load(), Trips: l.batches.pipelines.Load(), Stranded: l.stranded.Load(), Jumps: l.jumps.count()}
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		s.Lease += sh.served[fromLease]
		s.Refusal += sh.served[fromRefusal] + sh.served[fromFull]
		s.Reading += sh.served[fromReading]
		s.Keys += len(sh.entries)
		for _, e := range sh.entries {
			s.Held += e.unspent
		}
		sh.mu.Unlock()
	}
	return s
}
