package limits

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"tollgate/policy/connect/nodes"

	"github.com/redis/go-redis/v9"
)

//go:embed spend.lua
var spendSource string

// Store counts in Redis: hash `tg:v1:count:{<limit id>}`, one field `<unit>:<name>` a window, whose value holds the
// window's start, what is spent, and how much of that replicas hold in leases; field `previous:<unit>:<name>` keeps start and
// spent of the window before. Several Stores on one Redis, in any number of processes, share the counters. It is safe for
// concurrent use.
//
// A Redis clock that jumps and returns finds the window that it left: what was spent in both is counted there, so each jump
// hands out a limit once more at most, and locks nobody out for longer than a window. The key's TTL only collects garbage. Redis must run with maxmemory-policy noeviction: an evicted counter is a spent limit
// that is handed out again.
type Store struct {
	client  redis.UniversalClient
	offset  func() time.Duration
	sha     any // the name by which Redis knows the script, as an argument
	layouts layouts
	scripts sync.Pool   // of *script
	apart   atomic.Bool // each call is a script of its own
	nodeOf  func(key string) string
}

// NewStore returns a Store on the client. offset is added to Redis' clock, in whole milliseconds; nil means 0, which is
// what everything but tests wants.
//
// A spend must never be sent twice, because a lost reply may have spent: build the client with MaxRetries: -1. Set
// ContextTimeoutEnabled too, else a Redis that does not answer is waited for past the context's deadline. connect.Open does
// both, and sees to it that each command of a pipeline tells how it went.
func NewStore(c redis.UniversalClient, offset func() time.Duration) *Store {
	if offset == nil {
		offset = func() time.Duration { return 0 }
	}
	sum := sha1.Sum([]byte(spendSource))
	s := &Store{client: c, offset: offset, sha: hex.EncodeToString(sum[:]), nodeOf: nodes.Of(c)}
	// A script may touch keys of one slot only. A client that is neither of one server nor Sentinel's spreads keys too.
	_, whole := c.(*redis.Client)
	s.apart.Store(!whole)
	return s
}

// Node returns the address of the server that counts for a limit id, "" where there is one only.
func (s *Store) Node(id string) string {
	if s.nodeOf == nil {
		return ""
	}
	return s.nodeOf(countKey(id))
}

// Spend takes the cost from all windows or from none, in one round trip; another one follows only where Redis has not
// seen the script yet and so has run nothing. Without Windows it allows and asks no store; Result.Now is then this
// process's clock.
//
// An error means that nothing is known: it may have spent, and it never means allowed. A *BrokenError says that the
// limits are at fault; any other error that the store did not answer, or not before the context's end.
func (s *Store) Spend(ctx context.Context, sp *Spend) (Result, error) {
	l, err := s.layouts.of(sp)
	if err != nil {
		return Result{}, &BrokenError{err}
	}
	if len(sp.Windows) == 0 {
		return s.unlimited(), nil
	}
	c := &call{id: sp.ID, layout: l, cost: sp.Cost, readOnly: sp.ReadOnly}
	s.send(ctx, []*call{c})
	if c.err != nil {
		return Result{}, c.err
	}
	return c.resultOf(0), nil
}

// unlimited is the answer where there is no window.
func (s *Store) unlimited() Result {
	return Result{Allowed: true, Now: time.UnixMilli(time.Now().UnixMilli() + s.offset().Milliseconds()).UTC()}
}

// BrokenError says that the limits themselves are at fault, not the way to the store: an invalid Spend, a stored value
// that is no counter, an answer that cannot be right. Trying again does not help, and it must never be taken for
// a store that is away.
type BrokenError struct{ Err error }

// Error gives the reason.
func (e *BrokenError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *BrokenError) Unwrap() error { return e.Err }

// spendError is the error of a store that cannot be reached or does not serve.
func spendError(err error) error { return fmt.Errorf("limits: spend: %w", err) }

// endOf returns the end of the window that starts at start, which must be one that is in force at this clock.
func (w Window) endOf(start, now int64) (int64, error) {
	end, ok := w.holds(start, now)
	if !ok {
		return 0, fmt.Errorf("window %q: start is %d at %d", w.Name, start, now)
	}
	return end, nil
}
