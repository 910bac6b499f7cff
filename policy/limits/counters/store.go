// Package counters keeps what is spent in Redis. Store counts exactly, for any number of replicas,
// in one script (spend.lua). Leases stands in front of it: it answers most spends from units that
// it leased before or from refusals that it remembers, and sends the others in pipelines, so that
// concurrent ones share a round trip and a script.
package counters

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/connect/nodes"
	"tollgate/policy/limits"
)

//go:embed spend.lua
var spendSource string

// ACL is what counting needs, slots included.
func ACL() connect.ACL {
	return connect.ACL{
		Commands: []string{
			"evalsha", "eval", "time", "hmget", "hset", "pexpireat",
			"zcard", "zadd", "zrem", "zrange", "zrangebyscore", "zremrangebyscore", "pexpire", // slots
		},
		Keys: []string{"tg:v1:count:*", "tg:v1:slots:*"},
	}
}

// Store counts in Redis: hash `tg:v1:count:{<limit id>}`, one field `<unit>:<name>` a window, whose
// value holds the window's start, what is spent, and how much of that replicas hold in leases;
// field `previous:<unit>:<name>` keeps start and spent of the window before. Sorted set
// `tg:v1:slots:{<limit id>}` holds the slots of requests that are under way, by the time in Unix
// milliseconds at which they end by themselves. Several Stores on one
// Redis, in any number of processes, share the counters. It is safe for concurrent use.
//
// A Redis clock that jumps and returns finds the window that it left: what was spent in both is
// counted there, so each jump hands out a limit once more at most, and locks nobody out for longer
// than a window. The key's TTL only collects garbage. Redis must run with maxmemory-policy
// noeviction: an evicted counter is a spent limit that is handed out again.
type Store struct {
	client  redis.UniversalClient
	offset  func() time.Duration
	sha     any // the name by which Redis knows the script, as an argument
	resets  *redis.Script
	layouts layouts
	scripts sync.Pool   // of *script
	singly  atomic.Bool // each operation is a script of its own
	nodeOf  func(key string) string
}

// NewStore returns a Store on the client. offset is added to Redis' clock, in whole milliseconds;
// nil means 0, which is what everything but tests wants.
//
// A spend must never be sent twice, because a lost reply may have spent: build the client with
// MaxRetries: -1. Set ContextTimeoutEnabled too, else a Redis that does not answer is waited for
// past the context's deadline. connect.Open does both, and sees to it that each command of a
// pipeline tells how it went.
func NewStore(c redis.UniversalClient, offset func() time.Duration) *Store {
	if offset == nil {
		offset = func() time.Duration { return 0 }
	}
	sum := sha1.Sum([]byte(spendSource))
	s := &Store{client: c, offset: offset, sha: hex.EncodeToString(sum[:]), resets: redis.NewScript(resetSource), nodeOf: nodes.Of(c)}
	// A script may touch keys of one slot only. A client that is neither of one server nor
	// Sentinel's spreads keys too.
	_, whole := c.(*redis.Client)
	s.singly.Store(!whole)
	return s
}

// Node returns the address of the server that counts for a limit id, "" where there is one only.
func (s *Store) Node(id string) string {
	if s.nodeOf == nil {
		return ""
	}
	return s.nodeOf(countKey(id))
}

// Spend takes the cost from all windows or from none, in one round trip; another one follows only
// where Redis has not seen the script yet and so has run nothing. Without Windows it allows and
// asks no store; Result.Now is then this process's clock.
//
// An error means that nothing is known: it may have spent, and it never means allowed. A
// *BrokenError says that the limits are at fault; any other error that the store did not answer, or
// not before the context's end.
func (s *Store) Spend(ctx context.Context, sp *limits.Spend) (limits.Result, error) {
	l, err := s.layouts.of(sp)
	if err != nil {
		return limits.Result{}, &limits.BrokenError{Err: err}
	}
	if !sp.Asks() {
		return s.unlimited(), nil
	}
	c := &operation{id: sp.ID, layout: l, cost: sp.Cost, readOnly: sp.ReadOnly, slot: sp.Slot}
	s.send(ctx, []*operation{c})
	if c.err != nil {
		return limits.Result{}, c.err
	}
	return c.resultOf(0), nil
}

// unlimited is the answer where there is no window.
func (s *Store) unlimited() limits.Result {
	return limits.Result{Allowed: true, Now: time.UnixMilli(time.Now().UnixMilli() + s.offset().Milliseconds()).UTC()}
}

// spendError is the error of a store that cannot be reached or does not serve.
func spendError(err error) error { return fmt.Errorf("limits: spend: %w", err) }
