package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"tollgate/policy/connect/redistest"

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
	redistest.Await(t, "it refuses", func(context.Context) bool { return errors.Is(b.Do(LookUp, "", fail), ErrStoreDown) })
	redistest.Await(t, "it closes", func(context.Context) bool { return b.Do(LookUp, "", func() error { return nil }) == nil })
	if len(changes) != 2 || changes[1] {
		t.Errorf("told %v", changes)
	}
}

func TestBreakerCountsOnlyAStoreThatDoesNotAnswer(t *testing.T) {
	for name, err := range map[string]error{
		"nothing":          nil,
		"an error reply":   fmt.Errorf("limits: %w", errorReply("WRONGTYPE Operation against a key holding the wrong kind of value")),
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
	for name, err := range map[string]error{
		"no answer": context.DeadlineExceeded, "an answer to everybody": errorReply("OOM command not allowed when used memory > 'maxmemory'."),
	} {
		b := newBreaker(nil, time.Hour)
		for range tripAfter {
			b.Do(LookUp, "", func() error { return err })
		}
		if got := b.Do(LookUp, "", func() error { return nil }); got != ErrStoreDown {
			t.Errorf("%s, %d times: %v", name, tripAfter, got)
		}
	}
}

// errorReply is what a server says instead of an answer.
type errorReply string

func (e errorReply) Error() string { return string(e) }
func (errorReply) RedisError()     {}
