package limits

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
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
	// clusterLanes keeps a node of a cluster that does not answer from holding up the others' calls: a lane is a range of
	// slots, and nodes usually have ranges.
	clusterLanes = 16
)

// batches sends calls in pipelines: one that arrives while none is under way goes at once, those that arrive meanwhile
// go together when it returns, first those that somebody waits for. Those that nobody waits for gather for a moment, or
// go along.
type batches struct {
	lanes   []lane
	timeout time.Duration // of one pipeline
	// begin is told of each call before it is sent, in order, and says what to do with it. add sends another call before it.
	begin func(c *call, add func(*call)) verdict
	send  func(ctx context.Context, calls []*call) // Store.send
	// landed is told of each call after it was sent.
	landed func(c *call, asked, now time.Duration)
	now    func() time.Duration
	later  func(f func()) // calls f after gather

	calls, trips atomic.Uint64 // sent
}

type verdict uint8

const (
	sendNow   verdict = iota
	sendAgain         // in the next pipeline
	answered          // nothing is to be sent
)

// lane is a queue and what sends it. One pipeline is under way at a time, so that the answers about one limit id arrive
// in the order in which Redis judged.
type lane struct {
	mu        sync.Mutex
	queue     []*call
	ahead     []*call // that nobody waits for
	running   bool
	gathering bool            // run is to be called in a moment
	clock     storeClock      // of the node
	idle      []chan struct{} // closed when nothing is queued and nothing is under way
}

// lanesFor returns how many lanes a client is worth.
func lanesFor(c redis.UniversalClient) int {
	if _, ok := c.(*redis.ClusterClient); ok {
		return clusterLanes
	}
	return 1
}

// laneOf returns where the calls of a limit id go.
func (b *batches) laneOf(id string) *lane {
	if len(b.lanes) == 1 {
		return &b.lanes[0]
	}
	return &b.lanes[slot(id)*len(b.lanes)/slots]
}

// add queues a call. Calls that nobody waits for are never refused: they hold what must go back.
func (b *batches) add(c *call) error {
	l := b.laneOf(c.id)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.done == nil:
		l.ahead = append(l.ahead, c)
	case len(l.queue) >= maxQueue:
		return ErrBusy
	default:
		l.queue = append(l.queue, c)
	}
	switch {
	case l.running:
	case c.done != nil || len(l.ahead) >= maxAhead:
		l.running = true
		go b.run(l)
	case !l.gathering:
		l.gathering = true
		b.later(func() { b.gathered(l) })
	}
	return nil
}

// gathered sends what has gathered.
func (b *batches) gathered(l *lane) {
	l.mu.Lock()
	l.gathering = false
	start := !l.running && len(l.ahead) > 0
	l.running = l.running || start
	l.mu.Unlock()
	if start {
		b.run(l)
	}
}

// do queues a call and waits for its answer. At the end of ctx it leaves; the call then goes on without it, or is
// dropped if it was not sent yet. Without an error the call is the caller's again.
func (b *batches) do(ctx context.Context, c *call) error {
	if c.done == nil {
		c.done = make(chan struct{}, 1)
	}
	if err := b.add(c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		c.state.Store(left)
		return ctx.Err()
	}
}

// run sends what is queued until nothing is.
func (b *batches) run(l *lane) {
	var batch, sent, again []*call
	for {
		l.mu.Lock()
		if len(again) > 0 {
			l.queue = append(again, l.queue...)
		}
		if len(l.queue)+len(l.ahead) == 0 {
			l.running = false
			for _, ch := range l.idle {
				close(ch)
			}
			l.idle = nil
			l.mu.Unlock()
			return
		}
		batch = l.take(batch[:0])
		l.mu.Unlock()
		sent, again = b.pick(batch, sent[:0], nil)
		if len(sent) > 0 {
			b.trip(sent)
		}
	}
}

// take moves the calls of the next pipeline to batch: those that somebody waits for, then others. Where somebody waits
// for all of them, the others may fill it. Renewals that were withdrawn take no room.
func (l *lane) take(batch []*call) []*call {
	n := min(len(l.queue), maxBatch-min(len(l.ahead), leastAhead))
	room, m := maxBatch-n, 0
	if len(l.idle) == 0 {
		room = min(room, maxAhead)
	}
	for ; m < len(l.ahead) && room > 0; m++ {
		if l.ahead[m].state.Load() == queued {
			room--
		}
	}
	batch = append(append(batch, l.queue[:n]...), l.ahead[:m]...)
	l.queue, l.ahead = slices.Delete(l.queue, 0, n), slices.Delete(l.ahead, 0, m)
	return batch
}

// pick sorts out which calls of a batch are sent, and which wait for the next one.
func (b *batches) pick(batch, sent, again []*call) (_, _ []*call) {
	add := func(c *call) {
		c.state.Store(taken)
		sent = append(sent, c)
	}
	for _, c := range batch {
		if !c.state.CompareAndSwap(queued, taken) {
			continue // its caller has left
		}
		switch b.begin(c, add) {
		case sendNow:
			sent = append(sent, c)
		case sendAgain:
			if c.state.CompareAndSwap(taken, queued) {
				again = append(again, c)
			}
		case answered:
			c.finished()
		}
	}
	return sent, again
}

// trip sends one pipeline and hands out its answers.
func (b *batches) trip(calls []*call) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	b.trips.Add(1)
	b.calls.Add(uint64(len(calls)))
	asked := b.now()
	b.send(ctx, calls)
	now := b.now()
	for _, c := range calls {
		b.landed(c, asked, now)
		c.finished()
	}
}

func (c *call) finished() {
	if c.done != nil {
		c.done <- struct{}{}
	}
}

// quiet sends what gathers and waits until nothing is queued and nothing is under way, or until ctx ends.
func (b *batches) quiet(ctx context.Context) {
	for i := range b.lanes {
		l := &b.lanes[i]
		l.mu.Lock()
		if !l.running && len(l.ahead) == 0 {
			l.mu.Unlock()
			continue
		}
		if !l.running {
			l.running = true
			go b.run(l)
		}
		ch := make(chan struct{})
		l.idle = append(l.idle, ch)
		l.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
	}
}

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// slot returns the hash slot of `tg:v1:count:{<id>}`, as in the Redis Cluster specification: CRC16 (XMODEM) of what
// stands between the first { and the next }. An id with a } in it ends there; an empty one would make it the whole key,
// and goes to some lane just as well.
func slot(id string) int {
	if end := strings.IndexByte(id, '}'); end >= 0 {
		id = id[:end]
	}
	var crc uint16
	for i := range len(id) {
		crc ^= uint16(id[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slots
}
