package counters

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
	// maxBackground bounds the calls of a pipeline that nobody waits for, and with them what they delay others. At the end, when
	// there are none, they fill it.
	maxBackground = 64
	// minBackground is how many of them there is room for in a pipeline that callers could fill: what goes back does not wait
	// for as long as the store is busy.
	minBackground = 16
	// maxQueue bounds the spends that wait in one lane.
	maxQueue = 8192
	// linger is how long calls that nobody waits for let others join them: a trip for one costs Redis and the server
	// many times what it costs for each of several.
	linger = 50 * time.Millisecond
	// slowPipeline is how long calls wait for the end of a pipeline that is under way; then another one goes beside it, on its
	// own connection. Redis in the same place has answered by then, and calls go on sharing trips.
	slowPipeline = 10 * time.Millisecond
	// maxInFlight bounds the pipelines of one lane that are under way: what a Redis that hangs is sent in vain, and the
	// connections that they take from others. A trip of 80 ms, and no shorter one, needs them all.
	maxInFlight = 8
	// maxLanes bounds the lanes that are kept while they are idle. No cluster has more nodes.
	maxLanes = 1000
)

// batches sends calls in pipelines: one that arrives while none is under way goes at once, those that arrive meanwhile
// go together when it returns, or after slowTrip beside it, first those that somebody waits for. Those that nobody waits for
// gather for a moment, or go along.
type batches struct {
	timeout time.Duration // of one pipeline
	// begin is told of each call before it is sent, in order, and says what to do with it. add sends another call before it.
	begin func(c *operation, add func(*operation)) action
	send  func(ctx context.Context, calls []*operation) // Store.send
	// received is told of each call after it was sent.
	received    func(c *operation, asked, now time.Duration)
	now         func() time.Duration
	afterLinger func(f func())              // calls f after gather
	afterSlow   func(f func())              // calls f after slowTrip
	node        func(limitID string) string // whose pipelines a call can share

	calls, pipelines atomic.Uint64 // sent

	mu     sync.Mutex // of all below, lanes included
	queues map[string]*queue
	// inFlight are the limit ids of the calls that are under way, in any lane. An id is in one pipeline at a time, so that the
	// answers about it arrive in the order in which Redis judged.
	inFlight map[string]struct{}
}

type action uint8

const (
	sendNow  action = iota
	sendNext        // in the next pipeline
	answered        // nothing is to be sent
)

// queue is the queue of one node and what sends it. Each node has its own, so that one which does not answer holds up no
// calls of another.
type queue struct {
	node       string
	waiting    []*operation
	background []*operation    // that nobody waits for
	senders    int             // how many times run is at work: each has a pipeline under way, or is about to
	pipelines  uint64          // pipelines
	typical    time.Duration   // what a trip lasts of late
	overtaking bool            // overtake is to be called in a moment
	lingering  bool            // gathered is to be called in a moment
	clock      storeClock      // of the node
	idle       []chan struct{} // closed when nothing is queued and nothing is under way
}

// queueOf returns where the calls of a node go.
func (b *batches) queueOf(node string) *queue {
	l := b.queues[node]
	if l == nil {
		if b.queues == nil {
			b.queues, b.inFlight = make(map[string]*queue), make(map[string]struct{})
		}
		l = &queue{node: node}
		b.queues[node] = l
	}
	return l
}

// add queues a call. Calls that nobody waits for are never refused: they hold what must go back.
func (b *batches) add(c *operation) error {
	node := b.node(c.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.queueOf(node)
	switch {
	case c.done == nil:
		l.background = append(l.background, c)
	case len(l.waiting) >= maxQueue:
		return ErrBusy
	default:
		l.waiting = append(l.waiting, c)
	}
	switch {
	case l.senders > 0:
		b.scheduleOvertake(l)
	case c.done != nil || len(l.background) >= maxBackground:
		b.start(l)
	case !l.lingering:
		l.lingering = true
		b.afterLinger(func() { b.lingered(l) })
	}
	return nil
}

func (b *batches) start(l *queue) {
	l.senders++
	go b.run(l)
}

// scheduleOvertake has what is queued sent beside the pipelines under way, unless one of them returns soon.
func (b *batches) scheduleOvertake(l *queue) {
	if l.overtaking || l.senders >= maxInFlight || len(l.waiting) == 0 && len(l.background) < maxBackground {
		return
	}
	l.overtaking = true
	sent := l.pipelines
	b.afterSlow(func() { b.sendBeside(l, sent) })
}

// sendBeside sends what is queued, if nothing was sent since so many pipelines.
func (b *batches) sendBeside(l *queue, sent uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.overtaking = false
	switch {
	case l.senders == 0:
		b.forget(l)
	case l.pipelines != sent:
		b.scheduleOvertake(l)
	case l.senders < maxInFlight && len(l.waiting)+len(l.background) > 0:
		b.start(l)
	}
}

// lingered sends what has gathered.
func (b *batches) lingered(l *queue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.lingering = false
	if l.senders == 0 && len(l.background) > 0 {
		b.start(l)
	}
}

// do queues a call and waits for its answer. At the end of ctx it leaves; the call then goes on without it, or is
// dropped if it was not sent yet. Without an error the call is the caller's again.
func (b *batches) do(ctx context.Context, c *operation) error {
	if c.done == nil {
		c.done = make(chan struct{}, 1)
	}
	c.deadline, _ = ctx.Deadline()
	if err := b.add(c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	if c.giveUp() {
		return ctx.Err()
	}
	<-c.done
	return nil
}

// run sends what is queued until nothing is that can be sent.
func (b *batches) run(l *queue) {
	var batch, sent, again []*operation
	var ids []string // of the batch; a call belongs to its caller again once it has its answer
	for first := true; ; first = false {
		b.mu.Lock()
		b.pipelineDone(l, ids, again)
		if batch = b.take(l, batch[:0]); len(batch) == 0 {
			b.stopSending(l)
			b.mu.Unlock()
			return
		}
		ids = ids[:0]
		for _, c := range batch {
			ids = append(ids, c.id)
			b.inFlight[c.id] = struct{}{}
		}
		l.pipelines++
		b.scheduleOvertake(l)             // for what found no room
		usual := l.typical + l.typical/32 // about what most last
		if first && l.senders == 1 {
			usual = 0 // nobody has waited; and what was measured is measured again
		}
		b.mu.Unlock()
		sent, again = b.pick(batch, sent[:0], nil, usual)
		if len(sent) > 0 {
			b.observe(l, b.roundTrip(l, sent))
		}
	}
}

// observe takes in what a trip lasted, 0 if it had no answer. The first of all has made a connection, and brought the script.
func (b *batches) observe(l *queue, trip time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if trip > 0 && l.pipelines > 1 {
		l.typical += (trip - l.typical) / 4
	}
}

// pipelineDone notes that the calls of a pipeline are no longer under way. Those of again are to be sent with the next one.
func (b *batches) pipelineDone(l *queue, ids []string, again []*operation) {
	for _, id := range ids {
		delete(b.inFlight, id)
	}
	if len(again) > 0 {
		l.waiting = append(again, l.waiting...)
	}
	// Where slots have moved, calls of another lane may have waited for these.
	if len(b.queues) > 1 && len(ids) > 0 {
		for _, other := range b.queues {
			if other.senders == 0 && (len(other.waiting) > 0 || len(other.background) > 0 && !other.lingering) {
				b.start(other)
			}
		}
	}
}

// stopSending ends a run. With the last one a lane is idle.
func (b *batches) stopSending(l *queue) {
	l.senders--
	if l.senders > 0 || len(l.waiting)+len(l.background) > 0 {
		return
	}
	for _, ch := range l.idle {
		close(ch)
	}
	l.idle = nil
	b.forget(l)
}

// forget drops a lane that is idle, where there are too many: nodes come and go. One that stays knows the clock of its node.
func (b *batches) forget(l *queue) {
	if len(b.queues) > maxLanes && l.senders == 0 && len(l.waiting)+len(l.background) == 0 && !l.lingering && !l.overtaking {
		delete(b.queues, l.node)
	}
}

// take moves the calls of the next pipeline to batch: those that somebody waits for, then others; not those whose limit id
// is under way. Where somebody waits for all of them, the others may fill it. Renewals that were withdrawn take no room.
func (b *batches) take(l *queue, batch []*operation) []*operation {
	free := func(c *operation) bool { _, under := b.inFlight[c.id]; return !under }
	batch, l.waiting = move(batch, l.waiting, maxBatch-min(len(l.background), minBackground), free, func(*operation) int { return 1 })
	room := maxBatch - len(batch)
	if len(l.idle) == 0 {
		room = min(room, maxBackground)
	}
	batch, l.background = move(batch, l.background, room, free, func(c *operation) int {
		if c.state.Load() == queued {
			return 1
		}
		return 0
	})
	return batch
}

// move appends those of list that are free to batch while there is room, each of which takes some, and returns the others.
func move(batch, list []*operation, room int, free func(*operation) bool, takes func(*operation) int) (_, rest []*operation) {
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
func (b *batches) pick(batch, sent, again []*operation, trip time.Duration) (_, _ []*operation) {
	now := time.Now()
	add := func(c *operation) {
		c.state.Store(claimed)
		sent = append(sent, c)
	}
	for _, c := range batch {
		if !c.state.CompareAndSwap(queued, claimed) {
			continue // its caller has left
		}
		if !c.deadline.IsZero() && c.deadline.Sub(now) <= trip {
			continue
		}
		switch b.begin(c, add) {
		case sendNow:
			sent = append(sent, c)
		case sendNext:
			if c.state.CompareAndSwap(claimed, queued) {
				again = append(again, c)
			}
		case answered:
			c.deliver()
			c.signal()
		}
	}
	return sent, again
}

// roundTrip sends one pipeline and hands out its answers. It returns what that took, or 0 if the first call has none.
func (b *batches) roundTrip(l *queue, calls []*operation) (took time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	b.pipelines.Add(1)
	b.calls.Add(uint64(len(calls)))
	began, asked := time.Now(), b.now()
	b.send(ctx, calls)
	now := b.now()
	if calls[0].err == nil {
		took = time.Since(began)
	}
	for _, c := range calls {
		c.deliver()
		c.lane = l
		b.received(c, asked, now)
		c.signal()
	}
	return took
}

// drain sends what gathers and waits until nothing is queued and nothing is under way, or until ctx ends.
func (b *batches) drain(ctx context.Context) {
	for {
		ch := b.nextIdle()
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

// nextIdle returns what is closed when one of the lanes that are not idle is; nil if all are.
func (b *batches) nextIdle() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ch chan struct{}
	for _, l := range b.queues {
		if l.senders == 0 && len(l.waiting)+len(l.background) == 0 {
			continue
		}
		if l.senders == 0 {
			b.start(l)
		}
		ch = make(chan struct{})
		l.idle = append(l.idle, ch)
	}
	return ch
}
