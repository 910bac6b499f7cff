package cache

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

// run starts the cache's stream with ticks by hand and waits until it listens.
func run(t *testing.T, c *Cache) (ticks chan<- time.Time) {
	t.Helper()
	by := start(t, c)
	keystest.Await(t, "the cache listens", func(context.Context) bool { return c.Stream().Listening })
	return by
}

func start(t *testing.T, c *Cache) (ticks chan<- time.Time) {
	by := make(chan time.Time)
	c.stream.ticks = func() (<-chan time.Time, func()) { return by, func() {} }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return by
}

func tick(ticks chan<- time.Time) {
	select {
	case ticks <- time.Time{}:
	case <-time.After(5 * time.Millisecond):
	}
}

func TestChangesArePushed(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		var told atomic.Int64
		c, _ := newTestCache(client, func(o *Options) { o.Changed = func(time.Duration) { told.Add(1) } })
		run(t, c)
		k := keystest.Sample()
		create(t, client, k)
		status(t, c, k.Digest)
		change(t, client, revoked(k), true)
		keystest.Await(t, "the key is revoked", func(context.Context) bool { return status(t, c, k.Digest) == keys.Revoked })

		// A secret that was refused works as soon as it belongs to a key.
		later := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_later", keys.Digest{4} })
		later.LimitID = later.ID
		if _, err := c.Lookup(t.Context(), later.Digest); err != keys.ErrUnknown {
			t.Fatal(err)
		}
		create(t, client, later)
		keystest.Await(t, "the new key works", func(context.Context) bool {
			g, err := c.Lookup(t.Context(), later.Digest)
			return err == nil && g.Status == keys.Active
		})
		if told.Load() < 2 || c.Stats().Changes < 2 {
			t.Errorf("%d changes told, %d counted", told.Load(), c.Stats().Changes)
		}
	})
}

// A reset of what is counted for a key is handed on, and is no change of the key.
func TestResetsAreHandedOn(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		told := make(chan string, 2)
		c, _ := newTestCache(client, func(o *Options) { o.Reset = func(limitID string) { told <- limitID } })
		run(t, c)
		k := keystest.Sample(func(k *keys.Key) { k.LimitID = "key_first" })
		create(t, client, k)
		if err := store.New(client).PublishReset(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if got := <-told; got != "key_first" {
			t.Errorf("reset of %q", got)
		}
		if got := status(t, c, k.Digest); got != keys.Active || c.Stats().Changes < 2 {
			t.Errorf("%s, %d changes", got, c.Stats().Changes)
		}
	})
}

// Every change that Store makes reaches the cache, whose clock stands still.
func TestStoreChangesArePushed(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		s := store.New(client)
		c, _ := newTestCache(client)
		run(t, c)
		k := keystest.Sample()
		create(t, client, k)
		arrives := func(what string, d keys.Digest, want string) {
			t.Helper()
			keystest.Await(t, what, func(ctx context.Context) bool {
				g, err := c.Lookup(ctx, d)
				return err == nil && string(g.Status) == want || err != nil && err.Error() == want
			})
		}
		write := func(status keys.Status) {
			t.Helper()
			next := *k
			next.Status = status
			var err error
			if k, err = s.Write(t.Context(), k, &next); err != nil {
				t.Fatal(err)
			}
			arrives("the key is "+string(status), k.Digest, string(status))
		}
		arrives("the key is new", k.Digest, "active")
		write(keys.Inactive)
		write(keys.Active)
		from, to := k.Digest, keys.Digest{7}
		arrives("the other secret is unknown", to, keys.ErrUnknown.Error())
		if err := s.Rehash(t.Context(), k.ID, from, to); err != nil {
			t.Fatal(err)
		}
		arrives("the new digest", to, "active")
		arrives("the old digest", from, keys.ErrUnknown.Error())
		var err error
		if k, err = s.Get(t.Context(), k.ID); err != nil {
			t.Fatal(err)
		}
		write(keys.Revoked)
		if err := s.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		arrives("the key is deleted", to, keys.ErrUnknown.Error())
	})
}

func TestChangeDelay(t *testing.T) {
	client := keystest.NewEmbedded(t)
	var delays []time.Duration
	c, clock := newTestCache(client, func(o *Options) {
		o.Changed = func(d time.Duration) { delays = append(delays, d) }
	})
	c.apply(changeOf(keystest.Sample(), clock.Now().Add(-20*time.Millisecond)))
	c.apply(changeOf(keystest.Sample(), clock.Now().Add(time.Second))) // a clock that is ahead
	if len(delays) != 2 || delays[0] != 20*time.Millisecond || delays[1] != 0 {
		t.Errorf("%v", delays)
	}
}

func TestUnreadableMessageMeansEveryKey(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, _ := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k)
	good := changeOf(k, time.Now())
	for _, message := range []string{
		"", "all", "HB", "x " + good, "-", good[:len(good)-len(k.ID)-1], strings.Replace(good, " ", "  ", 1),
		fmt.Sprintf("1 %s %s", strings.Repeat("g", 64), k.ID), fmt.Sprintf("1 %s %s", k.Digest.Hex()[2:], k.ID),
	} {
		status(t, c, k.Digest)
		c.apply(message)
		if got := said(c, k.Digest); got != ErrNotCached.Error() {
			t.Errorf("%q: %s", message, got)
		}
	}
	status(t, c, k.Digest)
	c.apply(store.Heartbeat)
	c.apply(changeOf(keystest.Sample(func(k *keys.Key) { k.Digest = keys.Digest{5} }), time.Now()))
	if got := said(c, k.Digest); got != "active" {
		t.Errorf("the message of another key: %s", got)
	}
	if _, err := c.Lookup(t.Context(), keys.Digest{6}); err != keys.ErrUnknown {
		t.Fatal(err)
	}
	c.apply(changeOf(keystest.Sample(func(k *keys.Key) { k.Digest = keys.Digest{6} }), time.Now()))
	if got := said(c, keys.Digest{6}); got != ErrNotCached.Error() {
		t.Errorf("a secret that was refused: %s", got)
	}
}

func TestKilledSubscription(t *testing.T) {
	client := keystest.NewServer(t)
	var log keystest.Lines
	c, _ := newTestCache(client, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	k := keystest.Sample()
	create(t, client, k) // before anybody listens: its message is not to disturb
	ticks := run(t, c)
	status(t, c, k.Digest)
	if got := said(c, k.Digest); got != "active" {
		t.Fatal(got)
	}
	before := c.Stats().Generation
	change(t, client, revoked(k), false) // its message goes to a connection that is dead
	if n, err := client.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result(); err != nil || n != 1 {
		t.Fatalf("%d killed, %v", n, err)
	}
	keystest.Await(t, "a new generation", func(context.Context) bool { return c.Stats().Generation > before })
	if got := said(c, k.Digest); got != ErrNotCached.Error() {
		t.Errorf("served without being read again: %s", got)
	}
	if got := status(t, c, k.Digest); got != keys.Revoked {
		t.Error(got)
	}
	keystest.Await(t, "it listens again", func(context.Context) bool { tick(ticks); return c.Stream().Listening })
	if text := log.String(); strings.Count(text, "is lost") != 1 || strings.Count(text, "is back") != 1 {
		t.Errorf("log:\n%s", text)
	}
	status(t, c, k.Digest)
	other := revoked(k)
	other.Status = keys.Inactive
	change(t, client, other, true)
	keystest.Await(t, "a change after that", func(context.Context) bool { return status(t, c, k.Digest) == keys.Inactive })
}

func TestHeartbeatsKeepTheGeneration(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k) // before anybody listens: its message is not to disturb
	ticks := run(t, c)
	status(t, c, k.Digest)
	before := c.Stats().Generation
	for range 10 {
		clock.Advance(store.HeartbeatInterval)
		ticks <- time.Time{}
		keystest.Await(t, "the heartbeat is heard", func(context.Context) bool { return c.Stream().Silent == 0 })
	}
	if got := said(c, k.Digest); got != "active" || c.Stats().Generation != before {
		t.Errorf("%s in generation %d, before %d", got, c.Stats().Generation, before)
	}
	if c.Stats().Changes != 0 {
		t.Error("a heartbeat counts as a change")
	}
}

// While another replica beats, this one is quiet.
func TestOneReplicaBeatsForAll(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	ticks := run(t, c)
	sub := client.Subscribe(t.Context(), keystest.Changes)
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	const beats = 6
	for range beats {
		clock.Advance(store.HeartbeatInterval / 2)
		if err := client.Publish(t.Context(), keystest.Changes, "hb").Err(); err != nil {
			t.Fatal(err)
		}
		keystest.Await(t, "the heartbeat is heard", func(context.Context) bool { return c.Stream().Silent == 0 })
		ticks <- time.Time{}
	}
	if err := client.Publish(t.Context(), keystest.Changes, "end").Err(); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		m, err := sub.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Payload == "end" {
			if n != beats {
				t.Errorf("%d heartbeats", n)
			}
			return
		}
	}
}

func TestSilence(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, clock := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k) // before anybody listens: its message is not to disturb
	ticks := run(t, c)
	status(t, c, k.Digest)
	before := c.Stats().Generation
	asked.beats.Store(true)
	change(t, client, revoked(k), false)
	for range 2 {
		clock.Advance(store.HeartbeatInterval)
		ticks <- time.Time{}
	}
	clock.Advance(store.HeartbeatInterval - 1)
	ticks <- time.Time{}
	ticks <- time.Time{} // taken only after the one before was worked on
	if got := said(c, k.Digest); got != "active" || c.Stats().Generation != before {
		t.Errorf("after less than 3 s: %s in generation %d, before %d", got, c.Stats().Generation, before)
	}
	clock.Advance(1)
	ticks <- time.Time{}
	keystest.Await(t, "a new generation", func(context.Context) bool { return c.Stats().Generation > before })
	if got := status(t, c, k.Digest); got != keys.Revoked {
		t.Error(got)
	}
	keystest.Await(t, "it listens again", func(context.Context) bool { return c.Stream().Listening })
}

func TestStartWithoutStore(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, ContextTimeoutEnabled: true, DialerRetries: 1})
	defer client.Close()
	var log keystest.Lines
	c, _ := newTestCache(client, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest) // read before there is a stream
	server.Close()
	ticks := start(t, c)
	keystest.Await(t, "the problem is told", func(context.Context) bool { return c.Stream().Problem != "" })
	for range 3 {
		ticks <- time.Time{}
	}
	if c.Stream().Listening || strings.Count(log.String(), "is lost") != 1 {
		t.Errorf("%+v, log:\n%s", c.Stream(), log.String())
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	keystest.Await(t, "it listens", func(context.Context) bool { tick(ticks); return c.Stream().Listening })
	if s := c.Stream(); s.Problem != "" {
		t.Errorf("%+v", s)
	}
	if got := said(c, k.Digest); got != ErrNotCached.Error() {
		t.Errorf("what was read without a stream: %s", got)
	}
}

// One server, three replicas with a client and a load each, 200 revocations. The load leaves a part
// of the processors free: what is measured is the way of a message, not the queue for a processor.
// With the race detector a look-up takes many times as long, and there are as many fewer; make test
// runs the whole load without it.
func TestRevocationUnderLoad(t *testing.T) {
	const replicas, revocations, most = 3, 200, 100 * time.Millisecond
	perTick := 50
	if keystest.RaceDetector {
		perTick = 5
	}
	if testing.Short() {
		t.Skip("not in short runs")
	}
	admin := keystest.NewServer(t)
	address := admin.(*redis.Client).Options().Addr
	var work sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer work.Wait()
	defer stop()
	list := make([]*keys.Key, revocations)
	for i := range list {
		list[i] = keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = fmt.Sprintf("key_load%d", i), digestOf(i) })
		create(t, admin, list[i])
	}
	var caches []*Cache
	var checks atomic.Int64
	for range replicas {
		client := redis.NewClient(&redis.Options{Network: "unix", Addr: address, MaxRetries: -1, ContextTimeoutEnabled: true})
		t.Cleanup(func() { client.Close() })
		c := New(store.New(client), Options{Timeout: 10 * time.Second})
		caches = append(caches, c)
		work.Go(func() { c.Run(ctx) })
		keystest.Await(t, "the replica listens", func(context.Context) bool { return c.Stream().Listening })
		for _, k := range list {
			status(t, c, k.Digest)
		}
		work.Go(func() {
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := c.Lookup(ctx, list[i%len(list)].Digest); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				checks.Add(1)
				if i%perTick == 0 {
					<-pace.C
				}
			}
		})
	}
	began := time.Now()
	look := time.NewTicker(200 * time.Microsecond)
	defer look.Stop()
	var delays []time.Duration
	for _, k := range list {
		next := revoked(k)
		if _, err := store.New(admin).Write(t.Context(), k, next); err != nil {
			t.Fatal(err)
		}
		returned := time.Now()
		for _, c := range caches {
			for status(t, c, k.Digest) != keys.Revoked {
				if time.Since(returned) > 10*time.Second {
					t.Fatal("not revoked within 10 s")
				}
				<-look.C
			}
		}
		delays = append(delays, time.Since(returned))
	}
	p99 := percentile(delays, .99)
	t.Logf("%d revocations, %d replicas, %.0f checks a second: slowest replica p50 %v, p99 %v, max %v",
		revocations, replicas, float64(checks.Load())/time.Since(began).Seconds(), percentile(delays, .5), p99, percentile(delays, 1))
	if p99 > most {
		t.Errorf("p99 %v, want at most %v", p99, most)
	}
}

// With all subscriptions dead and none possible, the TTL still ends every grant.
func TestNoStreamAtAll(t *testing.T) {
	admin := keystest.NewServer(t)
	address := admin.(*redis.Client).Options().Addr
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "-subscribe", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: address, Username: "deaf", Password: "pw", MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	c, clock := newTestCache(client)
	start(t, c)
	keystest.Await(t, "the problem is told", func(context.Context) bool { return strings.Contains(c.Stream().Problem, "NOPERM") })
	k := keystest.Sample()
	create(t, admin, k)
	status(t, c, k.Digest)
	change(t, admin, revoked(k), true)
	clock.Advance(30*time.Second - 1)
	if got := status(t, c, k.Digest); got != keys.Active {
		t.Errorf("without a stream, within the TTL: %s", got)
	}
	clock.Advance(1)
	if got := status(t, c, k.Digest); got != keys.Revoked {
		t.Errorf("without a stream, after the TTL: %s", got)
	}
}
