package keys

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

// ErrStoreDown says that the store was not asked, because it did not answer the last times.
var ErrStoreDown = errors.New("keys: the store is not asked: it did not answer the last times")

const (
	// tripAfter failures in a row open the breaker: more than a short pause, or a lost connection, causes. Readings of
	// keys that share a round trip are one.
	tripAfter = 10
	// openFor is short: it bounds how long a store that is back is still taken for away.
	openFor = 250 * time.Millisecond
)

// Breaker keeps checks from waiting, each until its deadline, for a store that does not answer. After ten failures in
// a row it refuses for 250 ms at a time, and then lets one operation try. It is safe for concurrent use.
type Breaker struct {
	circuit *gobreaker.CircuitBreaker[struct{}]
}

// NewBreaker returns a closed Breaker. changed, which may be nil, is told when it opens and closes; it is called with
// the Breaker's lock held and must not use it.
func NewBreaker(changed func(open bool)) *Breaker { return newBreaker(changed, openFor) }

func newBreaker(changed func(open bool), open time.Duration) *Breaker {
	return &Breaker{gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     open,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			if changed != nil && (from == gobreaker.StateClosed || to == gobreaker.StateClosed) {
				changed(to == gobreaker.StateOpen)
			}
		},
		IsSuccessful: answered,
		// A caller that has gone says nothing about the store.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
	})}
}

// Do returns the error of op, or ErrStoreDown without calling it. Only an error that says that the store did not answer counts as
// a failure. A nil Breaker always calls op.
func (b *Breaker) Do(op func() error) error {
	if b == nil {
		return op()
	}
	_, err := b.circuit.Execute(func() (struct{}, error) { return struct{}{}, op() })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return ErrStoreDown
	}
	return err
}

// answered reports whether the store has answered, if only to refuse.
func answered(err error) bool {
	var reply redis.Error
	return err == nil || refused(err) || errors.As(err, &reply)
}

// refused reports whether err says something about one key instead of about the store.
func refused(err error) bool {
	var corrupt *CorruptError
	return errors.Is(err, ErrUnknown) || errors.As(err, &corrupt)
}
