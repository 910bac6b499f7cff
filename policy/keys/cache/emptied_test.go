package cache_test

import (
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
)

// A secret that an emptied store does not know is not refused, and a key in memory goes on like
// while the store is away.
func TestCacheOfAnEmptiedStore(t *testing.T) {
	operator := connect.ACL{Commands: []string{"smembers"}} // who accepts
	acl := connect.Join(store.RecordsACL(), store.ListsACL(), standing.ACL(), standing.EvictionACL(), operator)
	keystest.OnEveryStore(t, acl, testCacheOfAnEmptiedStore)
}

func testCacheOfAnEmptiedStore(t *testing.T, c redis.UniversalClient) {
	s, h := store.New(c), keys.NewHasher([]byte("a"))
	var now atomic.Int64
	clock := func() time.Time { return time.Unix(1_800_000_000, now.Load()) }
	var memory *cache.Cache
	w := standing.New(c, h, standing.Options{Timeout: 10 * time.Second, Emptied: func() { memory.StoreEmptied() }})
	memory = cache.New(s, cache.Options{Vouch: w.Vouch, Now: clock, Timeout: 10 * time.Second, StaleFor: func(string) time.Duration { return time.Minute }})
	if _, err := w.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	warm, cold := keystest.Sample(func(k *keys.Key) { k.Digest = h.Digest("warm") }), keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_cold", h.Digest("cold") })
	for _, k := range []*keys.Key{warm, cold} {
		if err := s.Create(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	lookup := func(what, secret string, want error) {
		t.Helper()
		if g, err := memory.Lookup(t.Context(), h.Digest(secret)); !errors.Is(err, want) || want == nil && g.ID() != warm.ID {
			t.Errorf("%s: %v", what, err)
		}
	}
	lookup("warm", "warm", nil)
	lookup("nobody's", "nobody", keys.ErrUnknown)
	keystest.Empty(t, c)
	lookup("cold, emptied", "cold", standing.ErrEmptied)
	lookup("warm, emptied", "warm", nil)
	now.Add(int64(59 * time.Second))
	lookup("warm, soon after", "warm", nil)
	now.Add(int64(time.Second))
	lookup("warm, after stale_for", "warm", standing.ErrEmptied)
	if err := standing.AcceptEmpty(t.Context(), c, h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	lookup("warm, accepted", "warm", keys.ErrUnknown)
	lookup("cold, accepted", "cold", keys.ErrUnknown)
}

// Of a cluster one node was emptied: a key in memory goes on, whichever half of it that node had.
func TestEmptiedNode(t *testing.T) {
	nodes := redistest.StartCluster(t, 2)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Address()}, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	s, h := store.New(client), keys.NewHasher([]byte("a"))
	clock := time.Unix(1_800_000_000, 0)
	w := standing.New(client, h, standing.Options{Timeout: 10 * time.Second})
	if _, err := w.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	memory := cache.New(s, cache.Options{Vouch: w.Vouch, Now: func() time.Time { return clock }, Timeout: 10 * time.Second, StaleFor: func(string) time.Duration { return time.Minute }})
	first := func(key string) bool { return client.ClusterKeySlot(t.Context(), key).Val() < 16384/2 }
	halves := map[string]keys.Digest{} // of keys, by what the second node has of them
	for i := 0; len(halves) < 4; i++ {
		d := h.Digest(strconv.Itoa(i))
		k := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_half"+strconv.Itoa(i), d })
		what := map[bool]string{true: "", false: "link "}[first(keystest.SecretKey(d))] + map[bool]string{true: "", false: "record"}[first(keystest.RecordKey(k.ID))]
		if _, ok := halves[what]; ok {
			continue
		}
		halves[what] = d
		if err := s.Create(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if _, err := memory.Lookup(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	nodes[1].Do(t, "flushall")
	clock = clock.Add(40 * time.Second) // longer than the TTL
	for what, d := range halves {
		if _, err := memory.Lookup(t.Context(), d); err != nil {
			t.Errorf("a key in memory of which %q is lost: %v", what, err)
		}
	}
	cold := cache.New(s, cache.Options{Vouch: w.Vouch, Timeout: 10 * time.Second})
	for what, d := range halves {
		if _, err := cold.Lookup(t.Context(), d); (what == "") != (err == nil) || err != nil && !errors.Is(err, standing.ErrEmptied) {
			t.Errorf("another key of which %q is lost: %v", what, err)
		}
	}
}
