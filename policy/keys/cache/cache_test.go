package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

func newTestCache(c redis.UniversalClient, options ...func(*Options)) (*Cache, *keystest.Clock) {
	clock := &keystest.Clock{}
	o := Options{Now: clock.Now, Timeout: 10 * time.Second}
	for _, change := range options {
		change(&o)
	}
	cache := New(store.New(c), o)
	cache.gather = func(func()) {} // see refresh_test.go
	return cache, clock
}

// spy counts the readings by secret, and can keep commands from being answered.
type spy struct {
	reads atomic.Int64
	away  atomic.Bool // commands fail at once
	mute  atomic.Bool // commands wait for the end of their context
	beats atomic.Bool // heartbeats are lost
}

var errAway = errors.New("connection refused")

func (s *spy) DialHook(next redis.DialHook) redis.DialHook { return next }
func (s *spy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var first error
		for _, cmd := range cmds {
			if err := s.meets(ctx, cmd); err != nil && first == nil {
				first = err
			}
		}
		if first != nil {
			return first
		}
		return next(ctx, cmds)
	}
}
func (s *spy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := s.meets(ctx, cmd); err != nil {
			return err
		}
		return next(ctx, cmd)
	}
}

// meets counts a command, and says why it is not answered.
func (s *spy) meets(ctx context.Context, cmd redis.Cmder) error {
	if len(cmd.Args()) > 1 && strings.HasPrefix(fmt.Sprint(cmd.Args()[1]), "tg:v1:secret:") && cmd.Name() == "get" {
		s.reads.Add(1)
	}
	switch {
	case s.away.Load(), s.beats.Load() && cmd.Name() == "publish":
		cmd.SetErr(errAway)
		return errAway
	case s.mute.Load():
		<-ctx.Done()
		cmd.SetErr(ctx.Err())
		return ctx.Err()
	}
	return nil
}

func watched(c redis.UniversalClient) *spy {
	s := &spy{}
	c.AddHook(s)
	return s
}

// change writes the record, and with a message publishes it in the same step, as every script that
// changes a key does.
func change(t *testing.T, c redis.UniversalClient, k *keys.Key, published bool) {
	t.Helper()
	scratch := keystest.NewEmbedded(t)
	create(t, scratch, k)
	data := keystest.Must[string](t)(scratch.Get(t.Context(), keystest.RecordKey(k.ID)).Result())
	script := `redis.call('SET', KEYS[1], ARGV[1])`
	if published {
		script += ` redis.call('PUBLISH', 'tg:v1:changes', ARGV[2])`
	}
	if err := c.Eval(t.Context(), script, []string{keystest.RecordKey(k.ID)}, data, changeOf(k, time.Now())).Err(); err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
}

func changeOf(k *keys.Key, at time.Time) string {
	return fmt.Sprintf("%d %s %s", at.UnixMilli(), k.Digest.Hex(), k.ID)
}

func revoked(k *keys.Key) *keys.Key {
	copied := *k
	copied.Status = keys.Revoked
	copied.Version++
	return &copied
}

func create(t *testing.T, c redis.UniversalClient, k *keys.Key) {
	t.Helper()
	if err := store.New(c).Create(t.Context(), k); err != nil {
		t.Fatal(err)
	}
}

// status is what a check learns: from memory if it can, else from the store.
func status(t *testing.T, c *Cache, d keys.Digest) keys.Status {
	t.Helper()
	g, err := c.Lookup(t.Context(), d)
	if err != nil {
		t.Fatalf("Lookup: %v", err)
	}
	return g.Status
}

func said(c *Cache, d keys.Digest) string {
	g, err := c.Find(d)
	if err != nil {
		return err.Error()
	}
	return string(g.Status)
}

func TestFindAndLookup(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		asked := watched(client)
		c, _ := newTestCache(client)
		k := keystest.FullKey()
		create(t, client, k)
		if got := said(c, k.Digest); got != ErrNotCached.Error() {
			t.Errorf("empty cache: %s", got)
		}
		g, err := c.Lookup(t.Context(), k.Digest)
		if err != nil || g.ID() != k.ID || g.Name() != k.Name || g.LimitID() != k.LimitID || g.Team() != k.Team || g.Status != k.Status {
			t.Fatalf("Lookup = %+v, %v", g, err)
		}
		for range 3 {
			if again, err := c.Find(k.Digest); err != nil || again != g {
				t.Errorf("Find = %+v, %v", again, err)
			}
			if again, err := c.Lookup(t.Context(), k.Digest); err != nil || again != g {
				t.Errorf("Lookup = %+v, %v", again, err)
			}
			if _, err := c.Lookup(t.Context(), keys.Digest{9}); err != keys.ErrUnknown {
				t.Errorf("unknown secret: %v", err)
			}
		}
		if got := said(c, keys.Digest{9}); got != keys.ErrUnknown.Error() {
			t.Errorf("unknown secret: %s", got)
		}
		if n := asked.reads.Load(); n != 2 {
			t.Errorf("%d readings for 2 secrets", n)
		}
		s := c.Stats()
		if s.Hits != 6 || s.Misses != 2 || s.Refusals != 3 || s.Keys != 1 || s.Unknown != 1 || s.Revalidations != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestLostMessageCostsTheTTL(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	change(t, client, revoked(k), false)
	clock.Advance(30*time.Second - 1)
	if got := said(c, k.Digest); got != "active" {
		t.Errorf("within the TTL: %s", got)
	}
	clock.Advance(1)
	if got := said(c, k.Digest); got != ErrNotCached.Error() {
		t.Errorf("after the TTL: %s", got)
	}
	if got := status(t, c, k.Digest); got != keys.Revoked {
		t.Errorf("after the TTL: %s", got)
	}
	if s := c.Stats(); s.Revalidations != 1 || s.Misses != 1 {
		t.Errorf("%+v", s)
	}
}

func TestLostCreationCostsTheTTL(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	if _, err := c.Lookup(t.Context(), keystest.Sample().Digest); err != keys.ErrUnknown {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), keystest.SecretKey(keystest.Sample().Digest), keystest.Sample().ID, 0).Err(); err != nil {
		t.Fatal(err)
	}
	change(t, client, keystest.Sample(), false)
	if got := said(c, keystest.Sample().Digest); got != keys.ErrUnknown.Error() {
		t.Errorf("within the TTL: %s", got)
	}
	clock.Advance(30 * time.Second)
	if got := status(t, c, keystest.Sample().Digest); got != keys.Active {
		t.Errorf("after the TTL: %s", got)
	}
	if s := c.Stats(); s.Unknown != 0 {
		t.Errorf("the refusal is still there: %+v", s)
	}
}

// A change that arrives between the store's answer and its keeping makes the answer old.
func TestOvertakenReading(t *testing.T) {
	for _, first := range []string{"active", "unknown"} {
		t.Run(first, func(t *testing.T) {
			client := keystest.NewEmbedded(t)
			c, _ := newTestCache(client)
			k := keystest.Sample()
			if first == "active" {
				create(t, client, k)
			}
			c.afterRead = func(_ keys.Digest, read int) {
				if read > 0 {
					return
				}
				if first == "unknown" {
					create(t, client, k)
				}
				change(t, client, revoked(k), false)
				c.apply(changeOf(k, time.Now()))
			}
			if got := status(t, c, k.Digest); got != keys.Revoked {
				t.Errorf("the overtaken reading was served: %s", got)
			}
			if got := said(c, k.Digest); got != "revoked" {
				t.Errorf("kept: %s", got)
			}
			if s := c.Stats(); s.Overtaken != 1 || s.Keys != 1 || s.Unknown != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestReadingThatIsAlwaysOvertakenIsNotKept(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, _ := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k)
	c.afterRead = func(keys.Digest, int) { c.apply(changeOf(k, time.Now())) }
	if got := status(t, c, k.Digest); got != keys.Active {
		t.Error(got)
	}
	if got := said(c, k.Digest); got != ErrNotCached.Error() {
		t.Errorf("kept: %s", got)
	}
	if s := c.Stats(); s.Overtaken != maxReads {
		t.Errorf("%+v", s)
	}
}

// A reading that began before a generation must be repeated at the next use, though no message
// named its key.
func TestReadingFromBeforeAGeneration(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, _ := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k)
	c.afterRead = func(keys.Digest, int) {
		c.afterRead = nil
		change(t, client, revoked(k), false)
		c.newGeneration()
	}
	status(t, c, k.Digest)
	if got := said(c, k.Digest); got != ErrNotCached.Error() {
		t.Errorf("served without being read again: %s", got)
	}
	if got := status(t, c, k.Digest); got != keys.Revoked {
		t.Error(got)
	}
}

func TestStoreAway(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, clock := newTestCache(client, func(o *Options) {
		o.StaleFor = func(api string) time.Duration {
			if api == "pixelbyte" {
				return time.Minute
			}
			return time.Hour
		}
	})
	k := keystest.Sample()
	changed := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_changed", keys.Digest{7} })
	create(t, client, k)
	create(t, client, changed)
	status(t, c, k.Digest)
	status(t, c, changed.Digest)
	if _, err := c.Lookup(t.Context(), keys.Digest{9}); err != keys.ErrUnknown {
		t.Fatal(err)
	}

	asked.away.Store(true)
	c.apply(changeOf(changed, time.Now()))
	clock.Advance(time.Minute - 1)
	if got := status(t, c, k.Digest); got != keys.Active {
		t.Errorf("within stale_for: %s", got)
	}
	for name, d := range map[string]keys.Digest{"changed since": changed.Digest, "unknown": {9}, "never seen": {8}} {
		if g, err := c.Lookup(t.Context(), d); g != (keys.Grant{}) || !errors.Is(err, errAway) || !connect.IsStoreFailure(err) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
	clock.Advance(1)
	if g, err := c.Lookup(t.Context(), k.Digest); g != (keys.Grant{}) || !errors.Is(err, errAway) {
		t.Errorf("after stale_for: %+v, %v", g, err)
	}
	asked.away.Store(false)
	if got := status(t, c, k.Digest); got != keys.Active {
		t.Errorf("store is back: %s", got)
	}
	if s := c.Stats(); s.Stale != 1 {
		t.Errorf("%+v", s)
	}
}

func TestStaleKeyDoesNotWaitLongerThanItsCaller(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, clock := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	c.options.Timeout = 200 * time.Millisecond
	clock.Advance(time.Minute)
	asked.mute.Store(true)
	short, end := context.WithTimeout(t.Context(), time.Millisecond)
	defer end()
	if g, err := c.Lookup(short, k.Digest); err != nil || g.Status != keys.Active {
		t.Errorf("known key: %+v, %v", g, err)
	}
	keystest.Await(t, "the reading that a caller with little time left is under way", func(context.Context) bool {
		return asked.reads.Load() == 2
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if g, err := c.Lookup(ctx, k.Digest); err != nil || g.Status != keys.Active {
		t.Errorf("known key: %+v, %v", g, err)
	}
	if _, err := c.Lookup(ctx, keys.Digest{9}); !errors.Is(err, context.Canceled) {
		t.Errorf("other secret: %v", err)
	}
	// The reading has its own time, and then the key is served although the caller would wait
	// longer.
	if g, err := c.Lookup(t.Context(), k.Digest); err != nil || g.Status != keys.Active {
		t.Errorf("known key: %+v, %v", g, err)
	}
	if _, err := c.Lookup(t.Context(), keys.Digest{8}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("other secret: %v", err)
	}
}

// With a store that hangs each caller has left by its time, and ten readings open the breaker.
func TestHungStore(t *testing.T) {
	c, _ := newTestCache(keystest.NewSilent(t), func(o *Options) { o.Breaker = connect.NewBreaker(nil) })
	c.options.Timeout = 50 * time.Millisecond
	var work sync.WaitGroup
	for n := range opensAfter {
		work.Go(func() {
			start := time.Now()
			if _, err := c.Lookup(t.Context(), digestOf(n)); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	work.Wait()
	if !refuses(t, c, digestOf(opensAfter)) {
		t.Errorf("after %d readings the store is asked", opensAfter)
	}
}

func TestCorruptRecord(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, clock := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	if err := client.Set(t.Context(), keystest.RecordKey(k.ID), "{", 0).Err(); err != nil {
		t.Fatal(err)
	}
	c.apply(changeOf(k, time.Now()))
	var corrupt *keys.CorruptError
	for range 3 {
		if _, err := c.Lookup(t.Context(), k.Digest); !errors.As(err, &corrupt) || corrupt.ID != k.ID || errors.Is(err, keys.ErrUnknown) {
			t.Fatalf("Lookup: %v", err)
		}
	}
	if n := asked.reads.Load(); n != 2 {
		t.Errorf("%d readings", n)
	}
	change(t, client, k, false)
	clock.Advance(corruptTTL)
	if got := status(t, c, k.Digest); got != keys.Active {
		t.Errorf("repaired: %s", got)
	}
	// A key that was known fails closed too, also when the broken record shows by its TTL.
	if err := client.Set(t.Context(), keystest.RecordKey(k.ID), "{", 0).Err(); err != nil {
		t.Fatal(err)
	}
	clock.Advance(30 * time.Second)
	if _, err := c.Lookup(t.Context(), k.Digest); !errors.As(err, &corrupt) {
		t.Errorf("Lookup: %v", err)
	}
	asked.away.Store(true)
	clock.Advance(corruptTTL)
	if g, err := c.Lookup(t.Context(), k.Digest); g != (keys.Grant{}) || !errors.Is(err, errAway) {
		t.Errorf("and the store away: %+v, %v", g, err)
	}
}

func TestManyMissesAreOneReading(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, _ := newTestCache(client, func(o *Options) { o.UnknownLookups = 1 })
	k := keystest.Sample()
	create(t, client, k)
	release := make(chan struct{})
	c.afterRead = func(keys.Digest, int) { <-release }
	var callers sync.WaitGroup
	var started atomic.Int64
	for range 1_000 {
		callers.Go(func() {
			if started.Add(1) == 1_000 {
				close(release)
			}
			if g, err := c.Lookup(t.Context(), k.Digest); err != nil || g.Status != keys.Active {
				t.Errorf("Lookup = %+v, %v", g, err)
			}
		})
	}
	callers.Wait()
	if n := asked.reads.Load(); n != 1 {
		t.Errorf("%d readings", n)
	}
}

// digestOf returns one of many unlike digests.
func digestOf(n int) keys.Digest {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func TestScan(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	const customers, secrets, perSecond, seconds = 200, 1_000_000, 20, 100
	c, clock := newTestCache(client, func(o *Options) {
		o.Keys, o.Unknown, o.UnknownLookups, o.TTL = customers, 1_000, perSecond, time.Hour
	})
	for i := range customers {
		k := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = fmt.Sprintf("key_customer%d", i), digestOf(-1-i) })
		create(t, client, k)
		// Known secrets cost nothing of the cap, so all of them come in one second.
		status(t, c, k.Digest)
	}
	asked.reads.Store(0)
	busy := 0
	scan := secrets
	if keystest.RaceDetector {
		scan /= 10
	}
	for i := range scan {
		if i%(scan/seconds) == 0 {
			clock.Advance(time.Second)
		}
		switch _, err := c.Lookup(t.Context(), digestOf(i)); {
		case errors.Is(err, keys.ErrBusy):
			busy++
		case !errors.Is(err, keys.ErrUnknown):
			t.Fatalf("Lookup: %v", err)
		}
	}
	if n := asked.reads.Load(); n > perSecond*(seconds+1) || n < perSecond*(seconds-1) || int(n)+busy != scan {
		t.Errorf("%d readings and %d refused in %d seconds of %d", n, busy, seconds, perSecond)
	}
	for i := range customers {
		if got := said(c, digestOf(-1-i)); got != "active" {
			t.Errorf("customer %d: %s", i, got)
		}
	}
	s := c.Stats()
	if s.Evictions != 0 || s.Busy != uint64(busy) || s.Keys != customers || s.Unknown > 1_100 {
		t.Errorf("%+v", s)
	}
	t.Logf("%d unknown secrets in %d s: %d readings, %d refused as busy, %d customers evicted", scan, seconds, asked.reads.Load(), busy, s.Evictions)
}

func TestCapFreesItsPlaces(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, _ := newTestCache(client, func(o *Options) { o.UnknownLookups = 1 })
	asked.away.Store(true)
	for i := range 3 {
		if _, err := c.Lookup(t.Context(), digestOf(i)); !errors.Is(err, errAway) {
			t.Errorf("a look-up that failed holds its place: %v", err)
		}
	}
	asked.away.Store(false)
	if _, err := c.Lookup(t.Context(), digestOf(3)); !errors.Is(err, keys.ErrUnknown) {
		t.Error(err)
	}
	if _, err := c.Lookup(t.Context(), digestOf(4)); !errors.Is(err, keys.ErrBusy) {
		t.Errorf("over the cap: %v", err)
	}
}

// A key whose secret is removed is unknown at once, though it was known.
func TestRemovedKey(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	client.Del(t.Context(), keystest.SecretKey(k.Digest))
	clock.Advance(30 * time.Second)
	if _, err := c.Lookup(t.Context(), k.Digest); err != keys.ErrUnknown {
		t.Error(err)
	}
	if s := c.Stats(); s.Keys != 0 || s.Unknown != 1 {
		t.Errorf("%+v", s)
	}
}

func TestRotationEndsWithoutAMessage(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock := newTestCache(client)
	k := keystest.Sample(func(k *keys.Key) { k.RetiresAt = clock.Now().Add(10 * time.Second) })
	create(t, client, k)
	status(t, c, k.Digest)
	for _, step := range []struct {
		after   time.Duration
		expired bool
	}{{10*time.Second - time.Millisecond, false}, {time.Millisecond, true}} {
		clock.Advance(step.after)
		g, err := c.Find(k.Digest)
		if err != nil || g.Expired(clock.Now()) != step.expired {
			t.Errorf("%v later: %+v, %v", step.after, g, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	client := keystest.NewEmbedded(t)
	create(t, client, keystest.Sample())
	c := New(store.New(client), Options{})
	if o := c.options; o.Keys != 1_000_000 || o.Unknown != 100_000 || o.TTL != 30*time.Second || o.UnknownLookups != 2_000 ||
		o.Timeout != 80*time.Millisecond || o.StaleFor("any") != 5*time.Minute {
		t.Errorf("%+v", o)
	}
	status(t, c, keystest.Sample().Digest)
	if got := said(c, keystest.Sample().Digest); got != "active" {
		t.Errorf("by the machine's clock: %s", got)
	}
	c.apply(changeOf(keystest.Sample(), time.Now()))
	if got := said(c, keystest.Sample().Digest); got != ErrNotCached.Error() {
		t.Error(got)
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	if keystest.RaceDetector {
		t.Skip("the race detector allocates")
	}
	client := keystest.NewEmbedded(t)
	c := New(store.New(client), Options{})
	create(t, client, keystest.Sample())
	status(t, c, keystest.Sample().Digest)
	if _, err := c.Lookup(t.Context(), keys.Digest{9}); err != keys.ErrUnknown {
		t.Fatal(err)
	}
	for _, d := range []keys.Digest{keystest.Sample().Digest, {9}} {
		want := said(c, d)
		if n := testing.AllocsPerRun(10_000, func() { c.Find(d) }); n != 0 || want == ErrNotCached.Error() {
			t.Errorf("%s: %v allocations", want, n)
		}
	}
}

// filled returns a cache with n keys as customers have them: ids of 20 bytes, a name, a team for
// each ten keys, a scope list, an address for one key in ten, and the digests in order.
func filled(n int) *Cache {
	c := New(nil, Options{Keys: n})
	for i := range n {
		k := keystest.Sample(func(k *keys.Key) {
			k.ID, k.Name = fmt.Sprintf("key_%016d", i), fmt.Sprintf("build machine %d", i)
			k.LimitID, k.Team, k.Plan, k.Environment = k.ID, fmt.Sprintf("team_%d", i/10), "business", "live"
			k.Scopes, k.Digest = []string{"read", "write"}, digestOf(i)
			k.CreatedAt = time.Unix(1_700_000_000, 0)
			if i%10 == 0 {
				keystest.WithIPs(fmt.Sprintf("10.%d.%d.0/24", i>>8&255, i&255))(k)
			}
		})
		c.keep(c.fence(k.Digest), 0, k.Digest, store.LookupResult{Key: k, RecordHash: 1}, 0, 0)
	}
	return c
}

// liveHeap returns the bytes that are in use after a collection.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestMemoryOfAMillionKeys(t *testing.T) {
	if testing.Short() || keystest.RaceDetector {
		t.Skip("not in short runs, and not under the race detector, which needs memory of its own")
	}
	const n, most = 1_000_000, 400
	before := liveHeap()
	c := filled(n)
	after := liveHeap()
	each := float64(after-before) / n
	if s := c.Stats(); s.Keys < n*999/1000 || each > most {
		t.Errorf("%d keys, %.0f bytes each, want at most %d", s.Keys, each, most)
	}
	t.Logf("%d keys cached: %.0f bytes of live heap each, %.0f MB", c.Stats().Keys, each, float64(after-before)/1e6)
	runtime.KeepAlive(c)
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []int{1, 10_000, 1_000_000} {
		c := filled(n)
		digests := make([]keys.Digest, min(n, 1<<16))
		for i := range digests {
			digests[i] = digestOf(i * (n / len(digests)))
		}
		b.Run(fmt.Sprintf("hit/%d_keys", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := c.Find(digests[i%len(digests)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("parallel_hit/%d_keys", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := c.Find(digests[i%len(digests)]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func percentile(of []time.Duration, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(int(float64(len(sorted))*p), len(sorted)-1)]
}
