package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestBreakerOpensAndCloses(t *testing.T) {
	var changes []bool
	b := newBreaker(func(c BreakerChange) { changes = append(changes, c.Open) }, time.Millisecond)
	calls := 0
	fail := func() error { calls++; return io.EOF }
	for range tripAfter - 1 {
		if err := b.Do(LookUp, "", fail); err != io.EOF {
			t.Fatal(err)
		}
	}
	if len(changes) != 0 {
		t.Fatalf("open after %d failures", calls)
	}
	if b.Do(LookUp, "", fail); len(changes) != 1 || !changes[0] {
		t.Fatalf("not open after %d failures", calls)
	}
	// Open for a millisecond at a time: each probe that fails opens it again.
	await(t, "it refuses", func(context.Context) bool { return errors.Is(b.Do(LookUp, "", fail), ErrStoreDown) })
	await(t, "it closes", func(context.Context) bool { return b.Do(LookUp, "", func() error { return nil }) == nil })
	if len(changes) != 2 || changes[1] {
		t.Errorf("told %v", changes)
	}
}

func TestBreakerCountsOnlyAStoreThatDoesNotAnswer(t *testing.T) {
	client := newEmbedded(t)
	client.Set(t.Context(), "text", "x", 0)
	reply := client.LPush(t.Context(), "text", "y").Err()
	for name, err := range map[string]error{
		"nothing":          nil,
		"unknown":          ErrUnknown,
		"corrupt":          &CorruptError{Err: io.EOF},
		"an error reply":   fmt.Errorf("limits: %w", reply),
		"no value":         redis.Nil,
		"a caller is gone": fmt.Errorf("keys: store: %w", context.Canceled),
	} {
		b := NewBreaker(nil)
		for range 2 * tripAfter {
			if got := b.Do(LookUp, "", func() error { return err }); got != err {
				t.Fatalf("%s: %v", name, got)
			}
		}
	}
	b := NewBreaker(nil)
	for range tripAfter {
		b.Do(LookUp, "", func() error { return context.DeadlineExceeded })
	}
	if err := b.Do(LookUp, "", func() error { return nil }); err != ErrStoreDown {
		t.Errorf("after %d timeouts: %v", tripAfter, err)
	}
}

// The breaker between the cache and a store that hangs: known keys are served at once.
func TestCacheBehindAnOpenBreaker(t *testing.T) {
	client := newEmbedded(t)
	asked := watched(client)
	c, clock := newTestCache(client, func(o *CacheOptions) { o.Breaker = newBreaker(nil, time.Hour) })
	k := sample()
	create(t, client, k)
	status(t, c, k.Digest)
	c.options.Timeout = time.Millisecond
	clock.Advance(time.Minute)
	asked.mute.Store(true)
	for range tripAfter {
		if got := status(t, c, k.Digest); got != Active {
			t.Error(got)
		}
	}
	reads := asked.reads.Load()
	for range 5 {
		if got := status(t, c, k.Digest); got != Active {
			t.Error(got)
		}
	}
	if _, err := c.Lookup(t.Context(), Digest{9}); !errors.Is(err, ErrStoreDown) {
		t.Errorf("a secret that is not known: %v", err)
	}
	if asked.reads.Load() != reads {
		t.Error("the store was asked")
	}
}
