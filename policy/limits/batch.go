package limits

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBusy says that too many spends wait for the store already. Nothing was spent.
var ErrBusy = errors.New("limits: too many spends wait for the store")

const (
	// maxBatch bounds one pipeline: some milliseconds of Redis' time.
	maxBatch = 256
	// maxAhead bounds the calls of a pipeline that nobody waits for, and with them what they delay others. At the end, when
	// there are none, they fill it.
	maxAhead = 64
	// leastAhead is how many of them there is room for in a pipeline that callers could fill: what goes back does not wait
	// for as long as the store is busy.
	leastAhead = 16
	// maxQueue bounds the spends that wait in one lane.
	maxQueue = 8192
	// gather is how long calls that nobody waits for let others join them: a trip for one costs Redis and the server
	// many times what it costs for each of several.
	gather = 50 * time.Millisecond
	// slowTrip is how long calls wait for the end of a pipeline that is under way; then another one goes beside it, on its
	// own connection. Redis in the same place has answered by then, and calls go on sharing trips.
	slowTrip = 10 * time.Millisecond
	// maxUnderWay bounds the pipelines of one lane that are under way: what a Redis that hangs is sent in vain, and the
	// connections that they take from others. A trip of 80 ms, and no shorter one, needs them all.
	maxUnderWay = 8
	// maxLanes bounds the lanes that are kept while they are idle. No cluster has more nodes.
	maxLanes = 1000
)

// batches sends calls in pipelines: one that arrives while none is under way goes at once, those that arrive meanwhile
// go together when it returns, or after slowTrip beside it, first those that somebody waits for. Those that nobody waits for
// gather for a moment, or go along.
type batches struct {
	timeout time.Duration // of one pipeline
	// begin is told of each call before it is sent, in order, and says what to do with it. add sends another call before it.
	begin func(c *call, add func(*call)) verdict
	send  func(ctx context.Context, calls []*call) // Store.send
	// landed is told of each call after it was sent.
	landed func(c *call, asked, now time.Duration)
	now    func() time.Duration
	later  func(f func())              // calls f after gather
	slow   func(f func())              // calls f after slowTrip
	node   func(limitID string) string // whose pipelines a call can share

	calls, trips atomic.Uint64 // sent

	mu    sync.Mutex // of all below, lanes included
	lanes map[string]*lane
	// under are the limit ids of the calls that are under way, in any lane. An id is in one pipeline at a time, so that the
	// answers about it arrive in the order in which Redis judged.
	under map[string]struct{}
}

type verdict uint8

const (
	sendNow   verdict = iota
	sendAgain         // in the next pipeline
	answered          // nothing is to be sent
)

// lane is the queue of one node and what sends it. Each node has its own, so that one which does not answer holds up no
// calls of another.
type lane struct {
	node      string
	queue     []*call
	ahead     []*call         // that nobody waits for
	runs      int             // how many times run is at work: each has a pipeline under way, or is about to
	sent      uint64          // pipelines
	usual     time.Duration   // what a trip lasts of late
	watched   bool            // overtake is to be called in a moment
	gathering bool            // gathered is to be called in a moment
	clock     storeClock      // of the node
	idle      []chan struct{} // closed when nothing is queued and nothing is under way
}

// lane returns where the calls of a node go.
func (b *batches) lane(node string) *lane {
	l := b.lanes[node]
	if l == nil {
		if b.lanes == nil {
			b.lanes, b.under = make(map[string]*lane), make(map[string]struct{})
		}
		l = &lane{node: node}
		b.lanes[node] = l
	}
	return l
}

// add queues a call. Calls that nobody waits for are never refused: they hold what must go back.
func (b *batches) add(c *call) error {
	node := b.node(c.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lane(node)
	switch {
	case c.done == nil:
		l.ahead = append(l.ahead, c)
	case len(l.queue) >= maxQueue:
		return ErrBusy
	default:
		l.queue = append(l.queue, c)
	}
	switch {
	case l.runs > 0:
		b.watch(l)
	case c.done != nil || len(l.ahead) >= maxAhead:
		b.start(l)
	case !l.gathering:
		l.gathering = true
		b.later(func() { b.gathered(l) })
	}
	return nil
}

func (b *batches) start(l *lane) {
	l.runs++
	go b.run(l)
}

// watch has what is queued sent beside the pipelines under way, unless one of them returns soon.
func (b *batches) watch(l *lane) {
	if l.watched || l.runs >= maxUnderWay || len(l.queue) == 0 && len(l.ahead) < maxAhead {
		return
	}
	l.watched = true
	sent := l.sent
	b.slow(func() { b.overtake(l, sent) })
}

// overtake sends what is queued, if nothing was sent since so many pipelines.
func (b *batches) overtake(l *lane, sent uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.watched = false
	switch {
	case l.runs == 0:
		b.forget(l)
	case l.sent != sent:
		b.watch(l)
	case l.runs < maxUnderWay && len(l.queue)+len(l.ahead) > 0:
		b.start(l)
	}
}

// gathered sends what has gathered.
func (b *batches) gathered(l *lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.gathering = false
	if l.runs == 0 && len(l.ahead) > 0 {
		b.start(l)
	}
}

// do queues a call and waits for its answer. At the end of ctx it leaves; the call then goes on without it, or is
// dropped if it was not sent yet. Without an error the call is the caller's again.
func (b *batches) do(ctx context.Context, c *call) error {
	if c.done == nil {
		c.done = make(chan struct{}, 1)
	}
	c.end, _ = ctx.Deadline()
	if err := b.add(c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	if c.leave() {
		return ctx.Err()
	}
	<-c.done
	return nil
}

// run sends what is queued until nothing is that can be sent.
func (b *batches) run(l *lane) {
	var batch, sent, again []*call
	var ids []string // of the batch; a call belongs to its caller again once it has its answer
	for first := true; ; first = false {
		b.mu.Lock()
		b.ended(l, ids, again)
		if batch = b.take(l, batch[:0]); len(batch) == 0 {
			b.rest(l)
			b.mu.Unlock()
			return
		}
		ids = ids[:0]
		for _, c := range batch {
			ids = append(ids, c.id)
			b.under[c.id] = struct{}{}
		}
		l.sent++
		b.watch(l)                    // for what found no room
		usual := l.usual + l.usual/32 // about what most last
		if first && l.runs == 1 {
			usual = 0 // nobody has waited; and what was measured is measured again
		}
		b.mu.Unlock()
		sent, again = b.pick(batch, sent[:0], nil, usual)
		if len(sent) > 0 {
			b.measured(l, b.trip(l, sent))
		}
	}
}

// measured takes in what a trip lasted, 0 if it had no answer. The first of all has made a connection, and brought the script.
func (b *batches) measured(l *lane, trip time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if trip > 0 && l.sent > 1 {
		l.usual += (trip - l.usual) / 4
	}
}

// ended notes that the calls of a pipeline are no longer under way. Those of again are to be sent with the next one.
func (b *batches) ended(l *lane, ids []string, again []*call) {
	for _, id := range ids {
		delete(b.under, id)
	}
	if len(again) > 0 {
		l.queue = append(again, l.queue...)
	}
	// Where slots have moved, calls of another lane may have waited for these.
	if len(b.lanes) > 1 && len(ids) > 0 {
		for _, other := range b.lanes {
			if other.runs == 0 && (len(other.queue) > 0 || len(other.ahead) > 0 && !other.gathering) {
				b.start(other)
			}
		}
	}
}

// rest ends a run. With the last one a lane is idle.
func (b *batches) rest(l *lane) {
	l.runs--
	if l.runs > 0 || len(l.queue)+len(l.ahead) > 0 {
		return
	}
	for _, ch := range l.idle {
		close(ch)
	}
	l.idle = nil
	b.forget(l)
}

// forget drops a lane that is idle, where there are too many: nodes come and go. One that stays knows the clock of its node.
func (b *batches) forget(l *lane) {
	if len(b.lanes) > maxLanes && l.runs == 0 && len(l.queue)+len(l.ahead) == 0 && !l.gathering && !l.watched {
		delete(b.lanes, l.node)
	}
}

// take moves the calls of the next pipeline to batch: those that somebody waits for, then others; not those whose limit id
// is under way. Where somebody waits for all of them, the others may fill it. Renewals that were withdrawn take no room.
func (b *batches) take(l *lane, batch []*call) []*call {
	free := func(c *call) bool { _, under := b.under[c.id]; return !under }
	batch, l.queue = move(batch, l.queue, maxBatch-min(len(l.ahead), leastAhead), free, func(*call) int { return 1 })
	room := maxBatch - len(batch)
	if len(l.idle) == 0 {
		room = min(room, maxAhead)
	}
	batch, l.ahead = move(batch, l.ahead, room, free, func(c *call) int {
		if c.state.Load() == queued {
			return 1
		}
		return 0
	})
	return batch
}

// move appends those of list that are free to batch while there is room, each of which takes some, and returns the others.
func move(batch, list []*call, room int, free func(*call) bool, takes func(*call) int) (_, rest []*call) {
	rest = list[:0]
	for i, c := range list {
		if room <= 0 {
			rest = append(rest, list[i:]...)
			break
		}
		if !free(c) {
			rest = append(rest, c)
			continue
		}
		room -= takes(c)
		batch = append(batch, c)
	}
	clear(list[len(rest):])
	return batch, rest
}

// pick sorts out which calls of a batch are sent, and which wait for the next one. A call that has less time left than a trip
// lasts is not sent: it would be charged, and its caller gone.
func (b *batches) pick(batch, sent, again []*call, trip time.Duration) (_, _ []*call) {
	now := time.Now()
	add := func(c *call) {
		c.state.Store(taken)
		sent = append(sent, c)
	}
	for _, c := range batch {
		if !c.state.CompareAndSwap(queued, taken) {
			continue // its caller has left
		}
		if !c.end.IsZero() && c.end.Sub(now) <= trip {
			continue
		}
		switch b.begin(c, add) {
		case sendNow:
			sent = append(sent, c)
		case sendAgain:
			if c.state.CompareAndSwap(taken, queued) {
				again = append(again, c)
			}
		case answered:
			c.land()
			c.finished()
		}
	}
	return sent, again
}

// trip sends one pipeline and hands out its answers. It returns what that took, or 0 if the first call has none.
func (b *batches) trip(l *lane, calls []*call) (took time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	b.trips.Add(1)
	b.calls.Add(uint64(len(calls)))
	began, asked := time.Now(), b.now()
	b.send(ctx, calls)
	now := b.now()
	if calls[0].err == nil {
		took = time.Since(began)
	}
	for _, c := range calls {
		c.land()
		c.lane = l
		b.landed(c, asked, now)
		c.finished()
	}
	return took
}

// quiet sends what gathers and waits until nothing is queued and nothing is under way, or until ctx ends.
func (b *batches) quiet(ctx context.Context) {
	for {
		ch := b.busy()
		if ch == nil {
			return
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
	}
}

// busy returns what is closed when one of the lanes that are not idle is; nil if all are.
func (b *batches) busy() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ch chan struct{}
	for _, l := range b.lanes {
		if l.runs == 0 && len(l.queue)+len(l.ahead) == 0 {
			continue
		}
		if l.runs == 0 {
			b.start(l)
		}
		ch = make(chan struct{})
		l.idle = append(l.idle, ch)
	}
	return ch
}
