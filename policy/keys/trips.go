package keys

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxTrip bounds the GETs of one pipeline: two for each of 128 keys that are known.
	maxTrip = 256
	// clusterLanes keeps a node of a cluster that does not answer from holding up the readings of others: a lane is a
	// range of slots, and nodes usually have ranges.
	clusterLanes = 16
)

// trips lets readings share round trips: what is asked for while no trip is under way goes at once, and what is asked
// for meanwhile goes together when it returns. In a cluster that holds for each lane.
type trips struct {
	store   *Store
	timeout time.Duration // of one trip
	lanes   [clusterLanes]lane
}

// lane is a queue and what sends it, one pipeline at a time.
type lane struct {
	mu      sync.Mutex
	queue   []want
	running bool
}

// want is a GET that an errand waits for.
type want struct {
	get *redis.StringCmd
	of  *errand
}

// errand is what one reading waits for.
type errand struct {
	left    atomic.Bool // nobody waits any more
	pending atomic.Int32
	done    chan struct{} // closed when none is pending
}

// read looks up one secret by trips that are shared. It returns by the end of ctx, which must have one: a reading that goes
// alone has no other.
func (t *trips) read(ctx context.Context, o owned) reading {
	return t.store.readings(ctx, []owned{o}, t.fetch)[0]
}

// fetch carries out gets, and returns an error when ctx ends before all of them have their answers. They are not the
// caller's then: a trip may be under way with them.
func (t *trips) fetch(ctx context.Context, gets []*redis.StringCmd) error {
	// Alone it goes in its own time, and costs what it would without trips: no goroutine waits for another.
	first, n := t.alike(gets)
	if n == len(gets) && first.begin() {
		defer t.end(first)
		return t.store.pipeline(ctx, gets)
	}
	e := &errand{done: make(chan struct{})}
	e.pending.Store(int32(len(gets)))
	for rest := gets; len(rest) > 0; rest = rest[n:] {
		var l *lane
		l, n = t.alike(rest)
		t.add(l, rest[:n], e)
	}
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		e.left.Store(true)
		return fmt.Errorf("keys: store: %w", ctx.Err())
	}
}

// laneOf returns where a GET goes. Only in a cluster can one that waits go to another node than the one under way.
func (t *trips) laneOf(get *redis.StringCmd) *lane {
	if _, cluster := t.store.client.(*redis.ClusterClient); !cluster {
		return &t.lanes[0]
	}
	return &t.lanes[hashSlot(get.Args()[1].(string))*clusterLanes/hashSlots]
}

// alike returns the lane of the first of gets, and how many from there on are of it.
func (t *trips) alike(gets []*redis.StringCmd) (l *lane, n int) {
	l = t.laneOf(gets[0])
	for n = 1; n < len(gets) && t.laneOf(gets[n]) == l; n++ {
	}
	return l, n
}

// begin takes a lane in which nothing is under way.
func (l *lane) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		return false
	}
	l.running = true
	return true
}

// end leaves a lane to what has been queued meanwhile.
func (t *trips) end(l *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running = len(l.queue) > 0; l.running {
		go t.run(l)
	}
}

// add queues GETs of one lane, at once, so that they go together.
func (t *trips) add(l *lane, gets []*redis.StringCmd, e *errand) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, get := range gets {
		l.queue = append(l.queue, want{get, e})
	}
	if !l.running {
		l.running = true
		go t.run(l)
	}
}

// run sends what is queued until nothing is.
func (t *trips) run(l *lane) {
	for batch := l.take(); len(batch) > 0; batch = l.take() {
		t.trip(batch)
	}
}

// take returns what goes in the next pipeline. It stops the lane when that is nothing.
func (l *lane) take() []want {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch, n := make([]want, 0, min(len(l.queue), maxTrip)), 0
	for ; n < len(l.queue) && len(batch) < maxTrip; n++ {
		if !l.queue[n].of.left.Load() {
			batch = append(batch, l.queue[n])
		}
	}
	l.queue = slices.Delete(l.queue, 0, n)
	l.running = len(batch) > 0
	return batch
}

// trip sends one pipeline and hands out its answers.
func (t *trips) trip(batch []want) {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	gets := make([]*redis.StringCmd, len(batch))
	for i, w := range batch {
		gets[i] = w.get
	}
	_ = t.store.pipeline(ctx, gets) // each has its own error
	for _, w := range batch {
		if w.of.pending.Add(-1) == 0 {
			close(w.of.done)
		}
	}
}

// hashSlots is how many hash slots a Redis Cluster has.
const hashSlots = 16384

// hashSlot returns the hash slot of a key, as in the Redis Cluster specification: CRC16 (XMODEM) of what stands between the
// first { and the next }, or of the whole key.
func hashSlot(key string) int {
	if _, tag, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok = strings.Cut(tag, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % hashSlots
}
