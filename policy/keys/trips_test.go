package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys/keystest"
)

// gate notes the keys of each trip of GETs, and holds trips while it is shut.
type gate struct {
	mu          sync.Mutex
	trips       [][]string
	under, most int           // trips at once, now and at most
	shut        chan struct{} // closed to open it; nil while it is open
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return g.pass([]redis.Cmder{cmd}, func() error { return next(ctx, cmd) })
	}
}
func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return g.pass(cmds, func() error { return next(ctx, cmds) })
	}
}

func (g *gate) pass(cmds []redis.Cmder, next func() error) error {
	if cmds[0].Name() != "get" {
		return next()
	}
	var names []string
	for _, cmd := range cmds {
		names = append(names, cmd.Args()[1].(string))
	}
	g.mu.Lock()
	g.trips = append(g.trips, names)
	g.under++
	g.most = max(g.most, g.under)
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
	defer func() {
		g.mu.Lock()
		g.under--
		g.mu.Unlock()
	}()
	return next()
}

// close holds the trips from now on. The trips until then are forgotten.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trips, g.shut = nil, make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

func (g *gate) all() [][]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.trips)
}

func gated(c redis.UniversalClient) *gate {
	g := &gate{}
	c.AddHook(g)
	return g
}

// queued is how many GETs wait for a trip.
func (t *trips) queued() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.queue {
		n += len(e.gets)
	}
	return n
}

// idle waits until nothing waits and nothing is under way.
func idle(t *testing.T, c *Cache) {
	t.Helper()
	keystest.Await(t, "no trip is under way", func(context.Context) bool {
		c.trips.mu.Lock()
		defer c.trips.mu.Unlock()
		return !c.trips.running && len(c.trips.queue) == 0
	})
}

// bounded gives readings and trips this time.
func bounded(c *Cache, d time.Duration) { c.options.Timeout, c.trips.timeout = d, d }

// held starts a reading of a secret of nobody, and returns when its trip is under way and is held.
func held(t *testing.T, c *Cache, g *gate, work *sync.WaitGroup) {
	t.Helper()
	g.close()
	work.Go(func() {
		if r := c.trips.read(context.Background(), owned{digest: Digest{99}}); r.err != ErrUnknown {
			t.Errorf("the first reading: %v", r.err)
		}
	})
	keystest.Await(t, "a trip is under way", func(context.Context) bool { return len(g.all()) == 1 })
}

// What is asked for while a trip is under way shares the next one, secrets of known keys, of keys not known here and of
// nobody.
func TestReadingsShareTrips(t *testing.T) {
	keystest.OnEveryStoreAs(t, connect.ServerACL(), func(t *testing.T, client redis.UniversalClient) {
		const known, fresh, nobodys = 60, 40, 20
		c, clock := newTestCache(client)
		g := gated(client)
		keys := make([]*Key, known+fresh)
		for i := range keys {
			keys[i] = Sample(func(k *Key) { k.ID, k.Digest = fmt.Sprintf("key_shared%d", i), digestOf(i) })
			create(t, client, keys[i])
			if i < known {
				status(t, c, keys[i].Digest)
			}
		}
		clock.Advance(30 * time.Second)
		var work sync.WaitGroup
		held(t, c, g, &work)
		for i, k := range keys {
			work.Go(func() {
				if got, err := c.Lookup(t.Context(), k.Digest); err != nil || got.ID() != k.ID {
					t.Errorf("key %d: %v", i, err)
				}
			})
		}
		for i := range nobodys {
			work.Go(func() {
				if _, err := c.Lookup(t.Context(), digestOf(1000+i)); err != ErrUnknown {
					t.Errorf("secret %d of nobody: %v", i, err)
				}
			})
		}
		const gets = 2*known + fresh + nobodys
		_, cluster := client.(*redis.ClusterClient)
		keystest.Await(t, "all have asked", func(context.Context) bool {
			under := 0
			for _, names := range g.all()[1:] { // where each has its own
				under += len(names)
			}
			return under+c.trips.queued() == gets
		})
		g.open()
		work.Wait()
		trips := g.all()
		if !cluster && (len(trips[1]) != gets || len(trips) > 2+fresh) {
			t.Errorf("%d GETs in the next trip, want %d; %d trips in all", len(trips[1]), gets, len(trips))
		}
		// The held one, one for each, and another for the record of one that is not known here.
		if cluster && len(trips) != 1+known+2*fresh+nobodys {
			t.Errorf("%d trips in a cluster", len(trips))
		}
		idle(t, c)
	})
}

// No trip has more than its share, and none waits when nothing is under way.
func TestTripsAreBoundedAndStartAtOnce(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	g := gated(client)
	k := Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	clock.Advance(30 * time.Second)
	status(t, c, k.Digest)
	if got, want := fmt.Sprint(g.all()), fmt.Sprintf("[[%[1]s] [%[2]s] [%[1]s %[2]s]]", keystest.SecretKey(k.Digest), keystest.RecordKey(k.ID)); got != want {
		t.Errorf("trips of one reading after the other: %s", got)
	}
	g.close()
	g.open()
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for range 500 {
				if r := c.trips.read(t.Context(), owned{digest: k.Digest, id: k.ID}); r.err != nil {
					t.Error(r.err)
				}
			}
		})
	}
	work.Wait()
	for _, names := range g.all() {
		if len(names)%2 != 0 {
			t.Fatalf("a reading was parted: %q", names)
		}
	}
	if g.most != 1 {
		t.Errorf("%d trips at once", g.most)
	}
	held(t, c, g, &work)
	for range maxTrip + 10 {
		work.Go(func() {
			if r := c.trips.read(t.Context(), owned{digest: k.Digest, id: k.ID}); r.err != nil || r.key.ID != k.ID {
				t.Errorf("%+v", r)
			}
		})
	}
	keystest.Await(t, "all have asked", func(context.Context) bool { return c.trips.queued() == 2*(maxTrip+10) })
	g.open()
	work.Wait()
	sizes := []int{}
	for _, names := range g.all() {
		sizes = append(sizes, len(names))
	}
	if !slices.Equal(sizes, []int{1, 2 * maxTrip, 20}) {
		t.Errorf("trips of %d", sizes)
	}
	idle(t, c)
}

// A caller leaves at the end of its time; what it asked is not sent, and the others get their answers.
func TestCallerLeavesAQueue(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, _ := newTestCache(client)
	g := gated(client)
	k := Sample()
	create(t, client, k)
	var work sync.WaitGroup
	held(t, c, g, &work)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan reading)
	go func() { left <- c.trips.read(ctx, owned{digest: Digest{8}}) }()
	work.Go(func() {
		if r := c.trips.read(t.Context(), owned{digest: k.Digest, id: k.ID}); r.err != nil || r.key.ID != k.ID {
			t.Errorf("%+v", r)
		}
	})
	keystest.Await(t, "both wait", func(context.Context) bool { return c.trips.queued() == 3 })
	cancel()
	if r := <-left; !errors.Is(r.err, context.Canceled) || !TellsOfStore(r.err) {
		t.Errorf("the one that left: %+v", r)
	}
	g.open()
	work.Wait()
	if trips := g.all(); len(trips) != 2 || !slices.Equal(trips[1], []string{keystest.SecretKey(k.Digest), keystest.RecordKey(k.ID)}) {
		t.Errorf("%q", trips)
	}
	idle(t, c)
}

// Each reading of a trip has what is said of its own secret, whatever is wrong with others.
func TestReadingsOfATripAreApart(t *testing.T) {
	keystest.OnEveryStoreAs(t, connect.ServerACL(), func(t *testing.T, client redis.UniversalClient) {
		c, _ := newTestCache(client)
		g := gated(client)
		admin := keystest.Administrator(t, client)
		key := func(n int) *Key {
			return Sample(func(k *Key) { k.ID, k.Digest = fmt.Sprintf("key_apart%d", n), digestOf(n) })
		}
		for n := range 8 {
			create(t, client, key(n))
		}
		ctx := t.Context()
		broken := []func(n int){
			2: func(n int) {
				admin.Del(ctx, keystest.RecordKey(key(n).ID))
				admin.RPush(ctx, keystest.RecordKey(key(n).ID), "x")
			},
			3: func(n int) {
				admin.Del(ctx, keystest.SecretKey(digestOf(n)))
				admin.RPush(ctx, keystest.SecretKey(digestOf(n)), "x")
			},
			4: func(n int) { admin.Set(ctx, keystest.RecordKey(key(n).ID), "{", 0) },
			5: func(n int) { admin.Del(ctx, keystest.RecordKey(key(n).ID)) },
			6: func(n int) { admin.Del(ctx, keystest.SecretKey(digestOf(n))) },
			7: func(n int) {
				change(t, client, Sample(func(k *Key) { k.ID, k.Digest = "key_moved", digestOf(n) }), false)
			},
		}
		for n, spoil := range broken {
			if spoil != nil {
				spoil(n)
			}
		}
		admin.Set(ctx, keystest.SecretKey(digestOf(7)), "key_moved", 0)
		var list []owned
		for n := range 8 {
			list = append(list, owned{digest: digestOf(n), id: key(n).ID}, owned{digest: digestOf(n)}) // known here, and not
		}
		expect := func(i int, r reading) {
			got := fmt.Sprint(r.err)
			if r.err == nil {
				got = r.key.ID
			}
			want := []string{"key_apart0", "key_apart1", "not a string", "not a string", "not a record", "missing", ErrUnknown.Error(), "key_moved"}[i/2]
			if !strings.Contains(got, want) || TellsOfStore(r.err) {
				t.Errorf("%+v: %s, want %s", list[i], got, want)
			}
		}
		g.close()
		g.open()
		for i, r := range c.store.readings(ctx, list, c.store.pipeline) {
			expect(i, r)
		}
		if trips := g.all(); len(trips) != 2 || len(trips[0]) != 8*2+8 {
			t.Errorf("%q", trips)
		}
		var work sync.WaitGroup
		held(t, c, g, &work)
		for i, o := range list {
			work.Go(func() { expect(i, c.trips.read(ctx, o)) })
		}
		keystest.Await(t, "all have asked", func(context.Context) bool {
			under := 0
			for _, names := range g.all()[1:] {
				under += len(names)
			}
			return under+c.trips.queued() == 8*2+8
		})
		g.open()
		work.Wait()
		if _, cluster := client.(*redis.ClusterClient); !cluster && len(g.all()[1]) != 8*2+8 {
			t.Errorf("%q", g.all())
		}
		idle(t, c)
	})
}

// With a store that hangs each caller has left by its time, wherever it waits, and ten trips open the breaker, however many
// readings share them.
func TestHungStoreBehindTrips(t *testing.T) {
	c, _ := newTestCache(keystest.NewSilent(t), func(o *CacheOptions) { o.Breaker = NewBreaker(nil) })
	bounded(c, 50*time.Millisecond)
	c.trips.patience = slowTrip
	lookup := func(n int) error {
		start := time.Now()
		_, err := c.Lookup(t.Context(), digestOf(n))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		return err
	}
	var work sync.WaitGroup
	for n := range opensAfter - 1 {
		work.Go(func() {
			if err := lookup(n); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	work.Wait()
	more := 0
	for err := error(nil); !errors.Is(err, ErrStoreDown) && more <= opensAfter; more++ {
		if err = lookup(opensAfter + more); !errors.Is(err, ErrStoreDown) && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	// Those that came together made one trip, or some, but none for each.
	if more < 2 || more > opensAfter {
		t.Errorf("the breaker opened after %d more", more)
	}
	idle(t, c)
}

// A trip that does not end holds up nobody but its own.
func TestReadingPassesASlowTrip(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, _ := newTestCache(client)
	c.trips.patience = time.Millisecond
	g := gated(client)
	k := Sample()
	create(t, client, k)
	var work sync.WaitGroup
	held(t, c, g, &work)
	g.mu.Lock()
	shut := g.shut
	g.shut = nil // for those that come
	g.mu.Unlock()
	for range 3 {
		if r := c.trips.read(t.Context(), owned{digest: k.Digest, id: k.ID}); r.err != nil || r.key.ID != k.ID {
			t.Errorf("%+v", r)
		}
	}
	if n := c.trips.queued(); n != 0 || !c.trips.running {
		t.Errorf("%d GETs wait, the slow trip is under way: %v", n, c.trips.running)
	}
	close(shut)
	work.Wait()
	idle(t, c)
}

// A trip counts with the breaker once, however many readings share it, and one that was never sent does not count.
func TestBreakerCountsTrips(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, _ := newTestCache(client, func(o *CacheOptions) { o.Breaker = NewBreaker(nil) })
	g := gated(client)
	var work sync.WaitGroup
	g.close()
	work.Go(func() { c.trips.read(t.Context(), owned{digest: Digest{99}}) }) // fails too, when the gate opens
	keystest.Await(t, "a trip is under way", func(context.Context) bool { return len(g.all()) == 1 })
	gone, leave := context.WithCancel(t.Context())
	for i := range 2 * opensAfter {
		work.Go(func() {
			if r := c.trips.read(t.Context(), owned{digest: digestOf(i)}); !errors.Is(r.err, errAway) {
				t.Error(r.err)
			}
		})
		work.Go(func() {
			if r := c.trips.read(gone, owned{digest: digestOf(i)}); !errors.Is(r.err, context.Canceled) {
				t.Error(r.err)
			}
		})
	}
	keystest.Await(t, "all wait", func(context.Context) bool { return c.trips.queued() == 4*opensAfter })
	leave()
	keystest.Await(t, "half of them have left", func(context.Context) bool { return c.trips.queued() == 2*opensAfter })
	asked.away.Store(true)
	g.open()
	work.Wait()
	idle(t, c)
	for range opensAfter - 2 { // after two that failed
		if _, err := c.Lookup(t.Context(), digestOf(99)); !errors.Is(err, errAway) {
			t.Fatalf("the breaker is open: %v", err)
		}
	}
	if !refuses(t, c, digestOf(99)) {
		t.Errorf("not open after %d trips", opensAfter)
	}
}

// A message during a trip makes the reading of its key be made again, and no other.
func TestOvertakenReadingOfATrip(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	g := gated(client)
	var list []*Key
	for n := range 3 {
		k := Sample(func(k *Key) { k.ID, k.Digest = fmt.Sprintf("key_trip%d", n), Digest{byte(n + 1)} })
		create(t, client, k)
		status(t, c, k.Digest)
		list = append(list, k)
	}
	clock.Advance(30 * time.Second)
	var after sync.Once
	c.afterRead = func(d Digest, read int) { // after the answer, and before it is kept
		if d == list[1].Digest && read == 0 {
			after.Do(func() {
				change(t, client, revoked(list[1]), false)
				c.apply(changeOf(list[1], time.Now()))
			})
		}
	}
	var work sync.WaitGroup
	held(t, c, g, &work)
	for n, k := range list {
		work.Go(func() {
			want := Active
			if n == 1 {
				want = Revoked
			}
			if got, err := c.Lookup(t.Context(), k.Digest); err != nil || got.Status != want {
				t.Errorf("key %d: %+v, %v", n, got, err)
			}
		})
	}
	keystest.Await(t, "all have asked", func(context.Context) bool { return c.trips.queued() == 6 })
	c.apply(changeOf(list[2], time.Now())) // while it waits
	g.open()
	work.Wait()
	reads := map[string]int{}
	for _, names := range g.all() {
		for _, name := range names {
			reads[name]++
		}
	}
	for n, want := range []int{1, 2, 2} {
		if got := reads[keystest.SecretKey(list[n].Digest)]; got != want {
			t.Errorf("key %d was read %d times", n, got)
		}
	}
	if s := c.Stats(); s.Overtaken != 2 {
		t.Errorf("%+v", s)
	}
	idle(t, c)
}
