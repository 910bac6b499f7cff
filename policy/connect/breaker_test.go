package connect

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

func TestOperationsHaveNames(t *testing.T) {
	if got := fmt.Sprint(Operations()); got != "[lookup read spend]" {
		t.Error(got)
	}
}

// What is not carried out, and why, is told of each operation and node apart, until it is carried
// out again or nobody has asked for it for a while.
func TestTrouble(t *testing.T) {
	var told []BreakerChange
	b := newBreaker(func(c BreakerChange) { told = append(told, c) }, time.Hour)
	now := time.Unix(1_800_000_000, 0)
	b.now = func() time.Time { return now }
	for range tripAfter {
		b.Do(Spend, "", func() error { return io.EOF })
		b.Do(ReadLimits, "10.0.0.1:6379", func() error { return io.ErrUnexpectedEOF })
	}
	if err := b.Trouble(Spend); err != io.EOF {
		t.Errorf("one server: %v", err)
	}
	if err := b.Trouble(ReadLimits); !errors.Is(err, io.ErrUnexpectedEOF) || err.Error() != "10.0.0.1:6379: unexpected EOF" {
		t.Errorf("a node: %v", err)
	}
	if err := b.Trouble(LookUp); err != nil {
		t.Errorf("another operation: %v", err)
	}
	if err := b.Do(Spend, "another node", func() error { return nil }); err != nil {
		t.Errorf("another node: %v", err)
	}
	now = now.Add(forgetAfter)
	if err := errors.Join(b.Trouble(Spend), b.Trouble(ReadLimits)); err != nil {
		t.Errorf("after a while: %v", err)
	}
	if len(told) != 4 || !told[0].Open || !told[1].Open || told[2].Open || told[3].Open {
		t.Errorf("told %+v", told)
	}
	var none *Breaker
	if err := none.Do(LookUp, "", func() error { return io.EOF }); err != io.EOF || none.Trouble(LookUp) != nil {
		t.Errorf("without a breaker: %v", err)
	}
}
