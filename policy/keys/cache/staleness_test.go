package cache

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

// served reports whether a key is served while the store may be away.
func served(t *testing.T, c *Cache, d keys.Digest) bool {
	t.Helper()
	g, err := c.Lookup(t.Context(), d)
	if err != nil && !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	return err == nil && g.Status == keys.Active
}

// beatFor lets so many heartbeats be heard, a second each.
func beatFor(t *testing.T, c *Cache, clock *keystest.Clock, ticks chan<- time.Time, n int) {
	t.Helper()
	for range n {
		clock.Advance(store.HeartbeatInterval)
		ticks <- time.Time{}
		keystest.Await(t, "the heartbeat is heard", func(context.Context) bool { return c.Stream().Silent == 0 })
	}
}

// reconnect kills the stream and waits until there is a new one.
func reconnect(t *testing.T, c *Cache, admin *redis.Client, ticks chan<- time.Time) {
	t.Helper()
	before := c.Stats().Generation
	if n, err := admin.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result(); err != nil || n != 1 {
		t.Fatalf("%d killed, %v", n, err)
	}
	keystest.Await(t, "a stream again", func(context.Context) bool {
		tick(ticks)
		return c.Stats().Generation >= before+2 && c.Stream().Listening
	})
}

func staleFor(d time.Duration) func(*Options) {
	return func(o *Options) { o.StaleFor = func(string) time.Duration { return d } }
}

// The time without the store counts from the outage, not from the last reading.
func TestStaleFromTheOutage(t *testing.T) {
	client := keystest.NewServer(t)
	asked := watched(client)
	c, clock := newTestCache(client, staleFor(10*time.Second))
	k := keystest.Sample()
	create(t, client, k)
	ticks := run(t, c)
	status(t, c, k.Digest)
	beatFor(t, c, clock, ticks, 200)
	asked.away.Store(true) // the heartbeats fail too
	clock.Advance(10*time.Second - 1)
	if !served(t, c, k.Digest) {
		t.Error("refused within stale_for of the outage")
	}
	clock.Advance(1)
	if served(t, c, k.Digest) {
		t.Error("served after stale_for")
	}
}

// A key that is revoked while the store is away from this server is refused in time, however often
// the stream comes back: a stream without an answer about the key says nothing about it.
func TestReconnectsRenewNothing(t *testing.T) {
	client := keystest.NewServer(t)
	admin := keystest.Administrator(t, client)
	var away noKeys
	client.AddHook(&away)
	c, clock := newTestCache(client, staleFor(10*time.Second))
	k := keystest.Sample()
	create(t, client, k)
	ticks := run(t, c)
	status(t, c, k.Digest)
	beatFor(t, c, clock, ticks, 20)
	away.Store(true)
	change(t, admin, revoked(k), false) // in a moment without a stream
	for range 4 {
		reconnect(t, c, admin, ticks)
		clock.Advance(2 * time.Second)
		publish(t, c, admin)
		if !served(t, c, k.Digest) {
			t.Fatal("refused within stale_for")
		}
	}
	clock.Advance(2*time.Second - 1)
	publish(t, c, admin)
	if !served(t, c, k.Digest) {
		t.Error("refused within stale_for")
	}
	reconnect(t, c, admin, ticks)
	clock.Advance(1)
	publish(t, c, admin)
	if served(t, c, k.Digest) {
		t.Error("a revoked key was renewed by a stream that came after its revocation")
	}
	away.Store(false)
	if got := status(t, c, k.Digest); got != keys.Revoked {
		t.Error(got)
	}
}

// noKeys keeps a store from saying anything about keys, while messages go on.
type noKeys struct{ atomic.Bool }

func (n *noKeys) DialHook(next redis.DialHook) redis.DialHook { return next }
func (n *noKeys) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !n.Load() || cmds[0].Name() != "get" {
			return next(ctx, cmds)
		}
		for _, cmd := range cmds {
			cmd.SetErr(errAway)
		}
		return errAway
	}
}
func (n *noKeys) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if n.Load() && cmd.Name() == "get" {
			cmd.SetErr(errAway)
			return errAway
		}
		return next(ctx, cmd)
	}
}

// publish sends a heartbeat and waits until it is heard.
func publish(t *testing.T, c *Cache, admin *redis.Client) {
	t.Helper()
	if err := admin.Publish(t.Context(), keystest.Changes, store.Heartbeat).Err(); err != nil {
		t.Fatal(err)
	}
	keystest.Await(t, "the heartbeat is heard", func(context.Context) bool { return c.Stream().Silent == 0 })
}

// A key that was read without a stream is as old as its reading, whatever streams come later.
func TestStaleFromTheReadingWithoutAStream(t *testing.T) {
	client := keystest.NewServer(t)
	asked := watched(client)
	c, clock := newTestCache(client, staleFor(10*time.Second))
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	ticks := run(t, c)
	beatFor(t, c, clock, ticks, 9)
	asked.away.Store(true)
	if !served(t, c, k.Digest) {
		t.Error("refused within stale_for")
	}
	clock.Advance(time.Second)
	if served(t, c, k.Digest) {
		t.Error("renewed by a stream that did not know it")
	}
}

// In a cluster another node than the one with the key could be all that is heard.
func TestStaleInACluster(t *testing.T) {
	t.Parallel()
	client := keystest.NewClusterAs(t, asServer())
	asked := watched(client)
	c, clock := newTestCache(client, staleFor(10*time.Second))
	k := keystest.Sample()
	create(t, client, k)
	ticks := run(t, c)
	status(t, c, k.Digest)
	beatFor(t, c, clock, ticks, 35)
	asked.away.Store(true)
	clock.Advance(5*time.Second - 1)
	if !served(t, c, k.Digest) {
		t.Error("refused within TTL and stale_for")
	}
	clock.Advance(1)
	if served(t, c, k.Digest) {
		t.Error("served after TTL and stale_for, by the heartbeat of another node")
	}
}

func TestBeatsAreBounded(t *testing.T) {
	var b heartbeats
	for g := range uint32(3 * maxHeartbeats) {
		b.note(g, int64(g)+1)
		b.note(g, int64(g)+2)
	}
	if len(b.latest) != maxHeartbeats || b.of(3*maxHeartbeats-1) != 3*maxHeartbeats+1 || b.of(2*maxHeartbeats) != 2*maxHeartbeats+2 || b.of(2*maxHeartbeats-1) != 0 {
		t.Errorf("%d remembered: %d, %d, %d", len(b.latest), b.of(3*maxHeartbeats-1), b.of(2*maxHeartbeats), b.of(2*maxHeartbeats-1))
	}
}
