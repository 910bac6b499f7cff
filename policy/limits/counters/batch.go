package counters

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// How operations reach Redis
//
//	 a spend ────do───▶ waiting ───┐        (the queue of a node)
//	                               ├─take─▶ pick ─▶ roundTrip ─▶ received ─▶ signal ─▶ the spend
//	 a renewal,                    │         │
//	 units back ─add─▶ background ─┘         └─ sendNext: waiting again
//
// Each node of the store has a queue, so that one which does not answer holds up no operations of
// others. The first operation goes at once; those that arrive while its pipeline is under way go
// together in the next one, first those that somebody waits for. If the pipeline is slow
// (slowPipeline) another one goes beside it, up to maxInFlight of them. What nobody waits for
// lingers, or fills up a pipeline. A limit id is in one pipeline at a time (inFlight), so that the
// answers about it arrive in the order in which Redis judged.
//
// The state of an operation, which its caller and its sender change by compare-and-swap:
//
//	 queued ──pick──▶ claimed ──answer──▶ delivered: the caller gets it
//	   │                 │
//	   └─ the caller's context ends ─▶ gaveUp: not sent if it was queued; else what it has spent
//	                                   stays charged, and is counted as stranded
//
// Who owns what: a queue and all of batches below its mutex are guarded by that mutex, which is
// held for no more than moving operations between lists. An operation is its caller's until add and
// again after signal; between the two it is the sender's (run), and what it knows of its entry is
// guarded by the shard's lock (lease.go). A shard's lock may be held when the mutex is taken, never
// the other way round: begin and received are called without it.

// ErrBusy says that too many spends wait for the store already. Nothing was spent.
var ErrBusy = errors.New("limits: too many spends wait for the store")

const (
	// maxBatch bounds one pipeline: some milliseconds of Redis' time.
	maxBatch = 256
	// maxBackground bounds the operations of a pipeline that nobody waits for, and with them what
	// they delay others. At the end, when there are none, they fill it.
	maxBackground = 64
	// minBackground is how many of them there is room for in a pipeline that callers could fill:
	// what goes back does not wait for as long as the store is busy.
	minBackground = 16
	// maxQueue bounds the spends that wait in one queue.
	maxQueue = 8192
	// linger is how long operations that nobody waits for let others join them: a round trip for
	// one costs Redis and the server many times what it costs for each of several.
	linger = 50 * time.Millisecond
	// slowPipeline is how long operations wait for the end of a pipeline that is under way; then
	// another one goes beside it, on its own connection. Redis in the same place has answered by
	// then, and operations go on sharing round trips.
	slowPipeline = 10 * time.Millisecond
	// maxInFlight bounds the pipelines of one queue that are under way: what a Redis that hangs is
	// sent in vain, and the connections that they take from others. A round trip of 80 ms, and no
	// shorter one, needs them all.
	maxInFlight = 8
	// maxQueues bounds the queues that are kept while they are idle. No cluster has more nodes.
	maxQueues = 1000
)

// batches sends operations in pipelines: one that arrives while none is under way goes at once,
// those that arrive meanwhile go together when it returns, or after slowPipeline beside it, first
// those that somebody waits for. Those that nobody waits for gather for a moment, or go along.
type batches struct {
	timeout time.Duration // of one pipeline
	// begin is told of each operation before it is sent, in order, and says what to do with it. add
	// sends another operation before it.
	begin func(c *operation, add func(*operation)) action
	send  func(ctx context.Context, ops []*operation) // Store.send
	// received is told of each operation after it was sent.
	received    func(c *operation, asked, now time.Duration)
	now         func() time.Duration
	afterLinger func(f func())              // calls f after linger
	afterSlow   func(f func())              // calls f after slowPipeline
	node        func(limitID string) string // whose pipelines an operation can share

	calls, pipelines atomic.Uint64 // sent

	mu     sync.Mutex // of all below, queues included
	queues map[string]*queue
	// inFlight are the limit ids of the operations that are under way, in any queue. An id is in
	// one pipeline at a time, so that the answers about it arrive in the order in which Redis
	// judged.
	inFlight map[string]struct{}
}

type action uint8

const (
	sendNow  action = iota
	sendNext        // in the next pipeline
	answered        // nothing is to be sent
)

// queue is the queue of one node and what sends it. Each node has its own, so that one which does
// not answer holds up no operations of another.
type queue struct {
	node       string
	waiting    []*operation
	background []*operation    // that nobody waits for
	senders    int             // how many times run is at work: each has a pipeline under way, or is about to
	pipelines  uint64          // sent
	typical    time.Duration   // what a round trip lasts of late
	overtaking bool            // sendBeside is to be called in a moment
	lingering  bool            // lingered is to be called in a moment
	clock      storeClock      // of the node
	idle       []chan struct{} // closed when nothing is queued and nothing is under way
}

// queueOf returns where the operations of a node go.
func (b *batches) queueOf(node string) *queue {
	q := b.queues[node]
	if q == nil {
		if b.queues == nil {
			b.queues, b.inFlight = make(map[string]*queue), make(map[string]struct{})
		}
		q = &queue{node: node}
		b.queues[node] = q
	}
	return q
}

// add queues an operation. Operations that nobody waits for are never refused: they hold what must
// go back.
func (b *batches) add(c *operation) error {
	node := b.node(c.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queueOf(node)
	switch {
	case c.done == nil:
		q.background = append(q.background, c)
	case len(q.waiting) >= maxQueue:
		return ErrBusy
	default:
		q.waiting = append(q.waiting, c)
	}
	switch {
	case q.senders > 0:
		b.scheduleOvertake(q)
	case c.done != nil || len(q.background) >= maxBackground:
		b.start(q)
	case !q.lingering:
		q.lingering = true
		b.afterLinger(func() { b.lingered(q) })
	}
	return nil
}

func (b *batches) start(q *queue) {
	q.senders++
	go b.run(q)
}

// scheduleOvertake has what is queued sent beside the pipelines under way, unless one of them
// returns soon.
func (b *batches) scheduleOvertake(q *queue) {
	if q.overtaking || q.senders >= maxInFlight || len(q.waiting) == 0 && len(q.background) < maxBackground {
		return
	}
	q.overtaking = true
	sent := q.pipelines
	b.afterSlow(func() { b.sendBeside(q, sent) })
}

// sendBeside sends what is queued, if nothing was sent since so many pipelines.
func (b *batches) sendBeside(q *queue, sent uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.overtaking = false
	switch {
	case q.senders == 0:
		b.forget(q)
	case q.pipelines != sent:
		b.scheduleOvertake(q)
	case q.senders < maxInFlight && len(q.waiting)+len(q.background) > 0:
		b.start(q)
	}
}

// lingered sends what has gathered.
func (b *batches) lingered(q *queue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.lingering = false
	if q.senders == 0 && len(q.background) > 0 {
		b.start(q)
	}
}

// do queues an operation and waits for its answer. At the end of ctx it leaves; the operation then
// goes on without it, or is dropped if it was not sent yet. Without an error the operation is the
// caller's again.
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
func (b *batches) run(q *queue) {
	var batch, sent, again []*operation
	var ids []string // of the batch; an operation belongs to its caller again once it has its answer
	for first := true; ; first = false {
		b.mu.Lock()
		b.pipelineDone(q, ids, again)
		if batch = b.take(q, batch[:0]); len(batch) == 0 {
			b.stopSending(q)
			b.mu.Unlock()
			return
		}
		ids = ids[:0]
		for _, c := range batch {
			ids = append(ids, c.id)
			b.inFlight[c.id] = struct{}{}
		}
		q.pipelines++
		b.scheduleOvertake(q)             // for what found no room
		usual := q.typical + q.typical/32 // about what most last
		if first && q.senders == 1 {
			usual = 0 // nobody has waited; and what was measured is measured again
		}
		b.mu.Unlock()
		sent, again = b.pick(batch, sent[:0], nil, usual)
		if len(sent) > 0 {
			b.observe(q, b.roundTrip(q, sent))
		}
	}
}

// observe takes in what a round trip lasted, 0 if it had no answer. The first of all has made a
// connection, and brought the script.
func (b *batches) observe(q *queue, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if took > 0 && q.pipelines > 1 {
		q.typical += (took - q.typical) / 4
	}
}

// pipelineDone notes that the operations of a pipeline are no longer under way. Those of again are
// to be sent with the next one.
func (b *batches) pipelineDone(q *queue, ids []string, again []*operation) {
	for _, id := range ids {
		delete(b.inFlight, id)
	}
	if len(again) > 0 {
		q.waiting = append(again, q.waiting...)
	}
	// Where slots have moved, operations of another queue may have waited for these.
	if len(b.queues) > 1 && len(ids) > 0 {
		for _, other := range b.queues {
			if other.senders == 0 && (len(other.waiting) > 0 || len(other.background) > 0 && !other.lingering) {
				b.start(other)
			}
		}
	}
}

// stopSending ends a run. With the last one a queue is idle.
func (b *batches) stopSending(q *queue) {
	q.senders--
	if q.senders > 0 || len(q.waiting)+len(q.background) > 0 {
		return
	}
	for _, ch := range q.idle {
		close(ch)
	}
	q.idle = nil
	b.forget(q)
}

// forget drops a queue that is idle, where there are too many: nodes come and go. One that stays
// knows the clock of its node.
func (b *batches) forget(q *queue) {
	if len(b.queues) > maxQueues && q.senders == 0 && len(q.waiting)+len(q.background) == 0 && !q.lingering && !q.overtaking {
		delete(b.queues, q.node)
	}
}

// take moves the operations of the next pipeline to batch: those that somebody waits for, then
// others; not those whose limit id is under way. Where somebody waits for all of them, the others
// may fill it. Cancelled renewals take no room.
func (b *batches) take(q *queue, batch []*operation) []*operation {
	free := func(c *operation) bool { _, under := b.inFlight[c.id]; return !under }
	batch, q.waiting = move(batch, q.waiting, maxBatch-min(len(q.background), minBackground), free, func(*operation) int { return 1 })
	room := maxBatch - len(batch)
	if len(q.idle) == 0 {
		room = min(room, maxBackground)
	}
	batch, q.background = move(batch, q.background, room, free, func(c *operation) int {
		if c.state.Load() == queued {
			return 1
		}
		return 0
	})
	return batch
}

// move appends those of list that are free to batch while there is room, each of which takes some,
// and returns the others.
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

// pick sorts out which operations of a batch are sent, and which wait for the next one. An
// operation that has less time left than a round trip lasts is not sent: it would be charged, and
// its caller gone.
func (b *batches) pick(batch, sent, again []*operation, took time.Duration) (_, _ []*operation) {
	now := time.Now()
	add := func(c *operation) {
		c.state.Store(claimed)
		sent = append(sent, c)
	}
	for _, c := range batch {
		if !c.state.CompareAndSwap(queued, claimed) {
			continue // its caller has left
		}
		if !c.deadline.IsZero() && c.deadline.Sub(now) <= took {
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

// roundTrip sends one pipeline and hands out its answers. It returns what that took, or 0 if the
// first operation has none.
func (b *batches) roundTrip(q *queue, ops []*operation) (took time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	b.pipelines.Add(1)
	b.calls.Add(uint64(len(ops)))
	began, asked := time.Now(), b.now()
	b.send(ctx, ops)
	now := b.now()
	if ops[0].err == nil {
		took = time.Since(began)
	}
	for _, c := range ops {
		c.deliver()
		c.queue = q
		b.received(c, asked, now)
		c.signal()
	}
	return took
}

// drain sends what lingers and waits until nothing is queued and nothing is under way, or until ctx
// ends.
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

// nextIdle returns what is closed when one of the queues that are not idle is; nil if all are.
func (b *batches) nextIdle() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ch chan struct{}
	for _, q := range b.queues {
		if q.senders == 0 && len(q.waiting)+len(q.background) == 0 {
			continue
		}
		if q.senders == 0 {
			b.start(q)
		}
		ch = make(chan struct{})
		q.idle = append(q.idle, ch)
	}
	return ch
}
