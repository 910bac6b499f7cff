package keys

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys/keystest"
)

// A secret that an emptied store does not know is not refused, and a key in memory goes on like while the store is away.
func TestCacheOfAnEmptiedStore(t *testing.T) {
	acl := connect.ServerACL()
	acl.Commands = append(acl.Commands, "smembers") // for the operator, who accepts
	keystest.OnEveryStoreAs(t, acl, testCacheOfAnEmptiedStore)
}

func testCacheOfAnEmptiedStore(t *testing.T, c redis.UniversalClient) {
	s, h := NewStore(c), NewHasher([]byte("a"))
	var now atomic.Int64
	clock := func() time.Time { return time.Unix(1_800_000_000, now.Load()) }
	var cache *Cache
	w := NewStanding(s, h, StandingOptions{Timeout: 10 * time.Second, Emptied: func() { cache.StoreEmptied() }})
	cache = NewCache(s, CacheOptions{Vouch: w.Vouch, Now: clock, Timeout: 10 * time.Second, StaleFor: func(string) time.Duration { return time.Minute }})
	if _, err := w.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	warm, cold := Sample(func(k *Key) { k.Digest = h.Digest("warm") }), Sample(func(k *Key) { k.ID, k.Digest = "key_cold", h.Digest("cold") })
	for _, k := range []*Key{warm, cold} {
		if err := s.Create(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	lookup := func(what, secret string, want error) {
		t.Helper()
		if g, err := cache.Lookup(t.Context(), h.Digest(secret)); !errors.Is(err, want) || want == nil && g.ID() != warm.ID {
			t.Errorf("%s: %v", what, err)
		}
	}
	lookup("warm", "warm", nil)
	lookup("nobody's", "nobody", ErrUnknown)
	keystest.Empty(t, c)
	lookup("cold, emptied", "cold", ErrEmptied)
	lookup("warm, emptied", "warm", nil)
	now.Add(int64(59 * time.Second))
	lookup("warm, soon after", "warm", nil)
	now.Add(int64(time.Second))
	lookup("warm, after stale_for", "warm", ErrEmptied)
	if err := s.AcceptEmpty(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	lookup("warm, accepted", "warm", ErrUnknown)
	lookup("cold, accepted", "cold", ErrUnknown)
}
