package limits

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// latestStart bounds a stored start, in Unix seconds (the year 33658), so that its milliseconds stay exact doubles. The
// script holds the same number.
const latestStart = 1_000_000_000_000

//go:embed spend.lua
var spendSource string

// Store counts in Redis: hash `tg:v1:count:{<limit id>}`, one field `<unit>:<name>` a window, whose value holds the
// window's start and what is spent. Several Stores on one Redis, in any number of processes, share the counters. It is
// safe for concurrent use.
//
// A stored start later than the clock's stays in force, so that a clock that is set back hands out nothing twice. The
// key's TTL only collects garbage. Redis must run with maxmemory-policy noeviction: an evicted counter is a spent limit
// that is handed out again.
type Store struct {
	client redis.UniversalClient
	offset func() time.Duration
	script *redis.Script
}

// NewStore returns a Store on the client. offset is added to Redis' clock, in whole milliseconds; nil means 0, which is
// what everything but tests wants.
//
// A spend must never be sent twice, because a lost reply may have spent: build the client with MaxRetries: -1. Set
// ContextTimeoutEnabled too, else a Redis that does not answer is waited for past the context's deadline.
func NewStore(c redis.UniversalClient, offset func() time.Duration) *Store {
	if offset == nil {
		offset = func() time.Duration { return 0 }
	}
	return &Store{client: c, offset: offset, script: redis.NewScript(spendSource)}
}

// Spend takes the cost from all windows or from none, in one round trip; a second one follows only where Redis has not
// seen the script yet and so has run nothing. Without Windows it allows and asks no store; Result.Now is then this
// process's clock.
//
// An error means that nothing is known: it may have spent, and it never means allowed. A *BrokenError says that the
// limits are at fault; any other error that the store did not answer, or not before the context's end.
func (s *Store) Spend(ctx context.Context, sp *Spend) (Result, error) {
	if err := sp.validate(); err != nil {
		return Result{}, &BrokenError{err}
	}
	offset := s.offset().Milliseconds()
	if len(sp.Windows) == 0 {
		return Result{Allowed: true, Now: time.UnixMilli(time.Now().UnixMilli() + offset).UTC()}, nil
	}
	keys := []string{"tg:v1:count:{" + sp.ID + "}"}
	reply, err := s.script.Run(ctx, s.client, keys, scriptArgs(sp, offset)...).Slice()
	if err != nil {
		return Result{}, spendError(err)
	}
	res, err := parseReply(sp, reply)
	if err != nil {
		return Result{}, &BrokenError{fmt.Errorf("limits: spend: the store's answer: %w", err)}
	}
	return res, nil
}

// BrokenError says that the limits themselves are at fault, not the way to the store: an invalid Spend, a stored value
// that is no counter, an answer that cannot be right. Trying again does not help, and it must never be taken for
// a store that is away.
type BrokenError struct{ Err error }

// Error gives the reason.
func (e *BrokenError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *BrokenError) Unwrap() error { return e.Err }

// spendError tells a stored value that is no counter from a store that cannot be reached or does not serve.
func spendError(err error) error {
	wrapped := fmt.Errorf("limits: spend: %w", err)
	if redis.HasErrorPrefix(err, "CORRUPT") || redis.HasErrorPrefix(err, "WRONGTYPE") {
		return &BrokenError{wrapped}
	}
	return wrapped
}

// scriptArgs lays out ARGV as spend.lua reads it.
func scriptArgs(sp *Spend, offset int64) []any {
	n := len(sp.Windows)
	args := make([]any, 2+3*n)
	args[0] = offset
	args[1] = sp.Cost
	if sp.ReadOnly {
		args[1] = int64(0)
	}
	for i, w := range sp.Windows {
		length := w.Per.seconds()
		if w.Per == Month {
			length = -int64(max(w.Anchor, 1))
		}
		args[2+i] = w.field()
		args[2+n+2*i] = length
		args[3+n+2*i] = w.ceiling(sp.Cost)
	}
	return args
}

// parseReply reads the script's answer and checks everything in it that can be checked: what it allows must follow
// from the counters it returns.
func parseReply(sp *Spend, reply []any) (Result, error) {
	if want := 2 + 2*len(sp.Windows); len(reply) != want {
		return Result{}, fmt.Errorf("%d values instead of %d", len(reply), want)
	}
	for i, v := range reply {
		if _, ok := v.(int64); !ok {
			return Result{}, fmt.Errorf("value %d is a %T", i, v)
		}
	}
	allowed, now := reply[0].(int64), time.UnixMilli(reply[1].(int64)).UTC()
	if allowed != 0 && allowed != 1 {
		return Result{}, fmt.Errorf("allowed is %d", allowed)
	}
	res := Result{Allowed: allowed == 1, Now: now, States: make([]State, len(sp.Windows))}
	fits := true
	for i, w := range sp.Windows {
		start, spent := reply[2+2*i].(int64), reply[3+2*i].(int64)
		end, err := w.endOf(start, now.Unix())
		if err != nil {
			return Result{}, err
		}
		if spent < 0 || spent > MaxLimit {
			return Result{}, fmt.Errorf("window %q: spent is %d", w.Name, spent)
		}
		res.States[i] = State{Spent: spent, Reset: time.Unix(end, 0).UTC()}
		if res.Allowed && !sp.ReadOnly {
			spent -= sp.Cost
		}
		fits = fits && spent >= 0 && !w.Denies(State{Spent: spent}, sp.Cost)
	}
	if fits != res.Allowed {
		return Result{}, errors.New("allowed does not follow from the counters")
	}
	return res, nil
}

// endOf returns the end of the window that starts at start. The start must be a start: the window's own at this clock
// or a later one, on the grid. A month may begin on another day than its anchor, where that was changed meanwhile.
func (w Window) endOf(start, now int64) (int64, error) {
	expected, _ := w.bounds(now)
	grid := w.Per.seconds()
	if grid == 0 {
		grid = secondsPerDay
	}
	if start < expected || start > latestStart || start%grid != 0 {
		return 0, fmt.Errorf("window %q: start is %d at %d", w.Name, start, now)
	}
	_, end := w.bounds(start)
	return end, nil
}
