package cache

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

// gathered is a cache whose readings ahead of time are done by read, and not before.
func gathered(client redis.UniversalClient) (c *Cache, clock *keystest.Clock, read func() bool) {
	c, clock = newTestCache(client)
	var due func()
	c.gather = func(f func()) { due = f }
	return c, clock, func() bool {
		f := due
		due = nil
		if f != nil {
			f()
		}
		return f != nil
	}
}

// A key in use is read again in the last quarter of its TTL, with the others, and never at the cost
// of a request.
func TestKeysInUseAreReadAhead(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		c, clock, read := gathered(client)
		var all []*keys.Key
		for i := range maxRefreshBatch + 2 {
			k := keystest.Sample(func(k *keys.Key) {
				k.ID, k.Digest = "key_in_use_"+string(rune('a'+i/26))+string(rune('a'+i%26)), keys.Digest{1, byte(i)}
			})
			create(t, client, k)
			status(t, c, k.Digest)
			all = append(all, k)
		}
		change(t, client, revoked(all[1]), false)
		trips := &keystest.TripCounter{}
		client.AddHook(trips)
		clock.Advance(22500*time.Millisecond - 1)
		for _, k := range all {
			if got := said(c, k.Digest); got != "active" || read() {
				t.Fatalf("%s, or read too early", got)
			}
		}
		clock.Advance(1)
		idle := all[2]
		for range 3 {
			for _, k := range all {
				if k == idle {
					continue
				}
				if got := said(c, k.Digest); got != "active" {
					t.Fatalf("%s: %s", k.ID, got)
				}
			}
		}
		if !read() || read() {
			t.Fatal("not read once")
		}
		if s := c.Stats(); s.Refreshes != uint64(len(all)-1) || trips.N.Load() != 2 || s.Revalidations != 0 {
			t.Errorf("%d trips, %+v", trips.N.Load(), s)
		}
		clock.Advance(30*time.Second - 1 - 22500*time.Millisecond)
		if got := said(c, all[1].Digest); got != "revoked" {
			t.Errorf("the change that no message told: %s", got)
		}
		clock.Advance(1)
		if got := said(c, all[0].Digest); got != "active" {
			t.Errorf("read ahead: %s", got)
		}
		if got := said(c, idle.Digest); got != ErrNotCached.Error() {
			t.Errorf("not in use: %s", got)
		}
	})
}

// What comes of a reading ahead of time is what would come of any other.
func TestReadAheadFindsChanges(t *testing.T) {
	for name, test := range map[string]struct {
		between func(t *testing.T, c *Cache, client redis.UniversalClient, k *keys.Key) // the use and the reading
		during  func(t *testing.T, c *Cache, client redis.UniversalClient, k *keys.Key)
		want    string
		stale   string // what is said after the old TTL
	}{
		"nothing": {want: "active", stale: "active"},
		"deleted": {between: func(t *testing.T, _ *Cache, client redis.UniversalClient, k *keys.Key) {
			client.Del(t.Context(), keystest.SecretKey(k.Digest))
		}, want: keys.ErrUnknown.Error(), stale: keys.ErrUnknown.Error()},
		"corrupt": {between: func(t *testing.T, _ *Cache, client redis.UniversalClient, k *keys.Key) {
			client.Set(t.Context(), keystest.RecordKey(k.ID), "{", 0)
		}, want: "corrupt", stale: ErrNotCached.Error()},
		"the secret is another key's": {between: func(t *testing.T, _ *Cache, client redis.UniversalClient, k *keys.Key) {
			other := keystest.Sample(func(o *keys.Key) { o.ID, o.Digest, o.Status = "key_other", keys.Digest{5}, keys.Inactive })
			create(t, client, other)
			other.Digest = k.Digest
			change(t, client, other, false)
			client.Set(t.Context(), keystest.SecretKey(k.Digest), other.ID, 0)
		}, want: "inactive", stale: "inactive"},
		"told of a change meanwhile": {during: func(t *testing.T, c *Cache, client redis.UniversalClient, k *keys.Key) {
			change(t, client, revoked(k), false)
			c.apply(changeOf(k, time.Now()))
		}, want: ErrNotCached.Error(), stale: ErrNotCached.Error()},
		"the stream was lost meanwhile": {during: func(_ *testing.T, c *Cache, _ redis.UniversalClient, _ *keys.Key) {
			c.newGeneration()
		}, want: ErrNotCached.Error(), stale: ErrNotCached.Error()},
		"the store is away": {between: func(_ *testing.T, _ *Cache, client redis.UniversalClient, _ *keys.Key) {
			watched(client).away.Store(true)
		}, want: "active", stale: ErrNotCached.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			client := keystest.NewEmbedded(t)
			c, clock, read := gathered(client)
			k := keystest.Sample()
			create(t, client, k)
			status(t, c, k.Digest)
			clock.Advance(25 * time.Second)
			if got := said(c, k.Digest); got != "active" {
				t.Fatal(got)
			}
			if test.between != nil {
				test.between(t, c, client, k)
			}
			if test.during != nil {
				c.afterRead = func(keys.Digest, int) { test.during(t, c, client, k) }
			}
			if !read() {
				t.Fatal("nothing was to be read")
			}
			c.afterRead = nil
			got := said(c, k.Digest)
			if _, err := c.Find(k.Digest); err != nil {
				var corrupt *keys.CorruptError
				if errors.As(err, &corrupt) && corrupt.ID == k.ID {
					got = "corrupt"
				}
			}
			if got != test.want {
				t.Errorf("after the reading: %s, want %s", got, test.want)
			}
			clock.Advance(5 * time.Second)
			if got := said(c, k.Digest); got != test.stale {
				t.Errorf("after the old TTL: %s, want %s", got, test.stale)
			}
		})
	}
}

// loses loses the answers about some keys.
type loses struct{ keys []string }

func (l loses) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (l loses) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (l loses) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		_ = next(ctx, cmds)
		for _, cmd := range cmds {
			if cmd.Name() == "get" && slices.Contains(l.keys, cmd.Args()[1].(string)) {
				cmd.(*redis.StringCmd).SetVal("")
				cmd.SetErr(errAway)
			}
		}
		return nil
	}
}

// A reading ahead that fails leaves its key as it was, and the others of its trip are kept. Only a
// trip that says nothing counts with the breaker.
func TestReadAheadThatFailsFailsAlone(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock, read := gathered(client)
	opened := 0
	c.options.Breaker = connect.NewBreaker(func(connect.BreakerChange) { opened++ })
	var list []*keys.Key
	for i := range 3 {
		k := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_ahead"+string(rune('a'+i)), digestOf(i) })
		create(t, client, k)
		list = append(list, k)
	}
	client.AddHook(loses{[]string{keystest.SecretKey(list[0].Digest), keystest.RecordKey(list[1].ID)}})
	ahead := func(list []*keys.Key) (before int64) {
		before = c.now()
		for _, k := range list {
			c.keep(c.fence(k.Digest), 0, k.Digest, store.LookupResult{Key: k, RecordHash: 1}, before, 0)
		}
		clock.Advance(25 * time.Second)
		for _, k := range list {
			if got := said(c, k.Digest); got != "active" {
				t.Fatal(got)
			}
		}
		if !read() {
			t.Fatal("nothing was to be read")
		}
		return before
	}
	for range opensAfter + 1 {
		before := ahead(list)
		for i, lost := range []bool{true, true, false} {
			if g, _ := c.grants.peek(list[i].Digest); g == nil || g.at.Load() == before != lost {
				t.Errorf("key %d: %+v", i, g)
			}
		}
	}
	if s := c.Stats(); s.Refreshes != opensAfter+1 || opened != 0 {
		t.Errorf("the breaker opened %d times; %+v", opened, s)
	}
	client.AddHook(loses{[]string{keystest.RecordKey(list[0].ID), keystest.SecretKey(list[1].Digest)}})
	for range opensAfter {
		ahead(list[:2])
	}
	if opened != 1 {
		t.Errorf("the breaker opened %d times where nothing was said", opened)
	}
}

// What waits is bounded; a key for which there is no room is read when it is too old.
func TestReadingsAheadAreBounded(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock, read := gathered(client)
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	clock.Advance(25 * time.Second)
	c.refreshes.due = make([]store.LookupRequest, maxRefreshes)
	if got := said(c, k.Digest); got != "active" || len(c.refreshes.due) != maxRefreshes || read() {
		t.Errorf("%s, %d wait", got, len(c.refreshes.due))
	}
	clock.Advance(5 * time.Second)
	if got := status(t, c, k.Digest); got != keys.Active {
		t.Error(got)
	}
	if s := c.Stats(); s.Revalidations != 1 || s.Refreshes != 0 {
		t.Errorf("%+v", s)
	}
}

// A record that is as it was keeps its grant; one that differs, or whose grant was dropped
// meanwhile, is decoded again, also where no message told.
func TestUnchangedRecordKeepsItsGrant(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		c, clock := newTestCache(client)
		k := keystest.Sample()
		create(t, client, k)
		look := func() keys.Grant {
			g, err := c.Lookup(t.Context(), k.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		first := look()
		clock.Advance(30 * time.Second)
		if got := said(c, k.Digest); got != ErrNotCached.Error() {
			t.Fatalf("after the TTL: %s", got)
		}
		if look() != first || said(c, k.Digest) != "active" {
			t.Error("an unchanged record was decoded again, or its grant is not fresh")
		}
		c.newGeneration()
		if look() != first || said(c, k.Digest) != "active" {
			t.Error("not fresh in the new generation")
		}
		c.afterRead = func(d keys.Digest, read int) {
			if read == 0 {
				c.grants.delete(d)
			}
		}
		clock.Advance(30 * time.Second)
		second := look()
		if second == first || second.ID() != k.ID || said(c, k.Digest) != "active" {
			t.Errorf("dropped during the reading: %+v", second)
		}
		c.afterRead = nil
		change(t, client, revoked(k), false)
		clock.Advance(30 * time.Second)
		if got := look(); got == second || got.Status != keys.Revoked || said(c, k.Digest) != "revoked" {
			t.Errorf("a change that no message told: %+v", got)
		}
		if s := c.Stats(); s.Overtaken != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A message that overtakes a reading of an unchanged record wins, and a reading ahead that was
// overtaken can be made again.
func TestOvertakenReadAhead(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		c, clock, read := gathered(client)
		k := keystest.Sample()
		create(t, client, k)
		status(t, c, k.Digest)
		clock.Advance(25 * time.Second)
		f := c.fence(k.Digest)
		c.afterRead = func(keys.Digest, int) { // about another digest with the same fence
			f.mu.Lock()
			f.changes++
			f.mu.Unlock()
		}
		said(c, k.Digest)
		if !read() {
			t.Fatal("not read ahead")
		}
		c.afterRead = nil
		if said(c, k.Digest) != "active" || !read() {
			t.Error("not read ahead again")
		}
		clock.Advance(20 * time.Second)
		if got := said(c, k.Digest); got != "active" {
			t.Errorf("after the second reading: %s", got)
		}
		if s := c.Stats(); s.Overtaken != 1 || s.Refreshes != 2 {
			t.Errorf("%+v", s)
		}
	})
}
