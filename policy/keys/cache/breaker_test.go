package cache

import (
	"errors"
	"testing"
	"time"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// opensAfter failures in a row the breaker opens, for 250 ms at a time.
const opensAfter = 10

// refuses reports whether a breaker that is open, and lets one try now and then, keeps a look-up
// from the store.
func refuses(t *testing.T, c *Cache, d keys.Digest) bool {
	t.Helper()
	for range 5 {
		if _, err := c.Lookup(t.Context(), d); errors.Is(err, connect.ErrStoreDown) {
			return true
		}
	}
	return false
}

// The breaker between the cache and a store that hangs: known keys are served at once.
func TestCacheBehindAnOpenBreaker(t *testing.T) {
	client := keystest.NewEmbedded(t)
	asked := watched(client)
	c, clock := newTestCache(client, func(o *Options) { o.Breaker = connect.NewBreaker(nil) })
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	c.options.Timeout = time.Millisecond
	clock.Advance(time.Minute)
	asked.mute.Store(true)
	for range opensAfter {
		if got := status(t, c, k.Digest); got != keys.Active {
			t.Error(got)
		}
	}
	reads, began := asked.reads.Load(), time.Now()
	for range 100 {
		if got := status(t, c, k.Digest); got != keys.Active {
			t.Error(got)
		}
	}
	if !refuses(t, c, keys.Digest{9}) {
		t.Error("a secret that is not known is asked for")
	}
	if n, tries := asked.reads.Load()-reads, int64(time.Since(began)/(250*time.Millisecond))+1; n > tries {
		t.Errorf("the store was asked %d times, want at most %d", n, tries)
	}
}
