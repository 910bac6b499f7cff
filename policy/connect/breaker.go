package connect

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

// ErrStoreDown says that the store was not asked, because it did not answer the last times.
var ErrStoreDown = errors.New("connect: the store is not asked: it did not answer the last times")

const (
	// tripAfter failures in a row open the breaker: more than a short pause, or a lost connection,
	// causes. Readings of keys that share a round trip are one.
	tripAfter = 10
	// openFor is short: it bounds how long a store that is back is still taken for away.
	openFor = 250 * time.Millisecond
	// forgetAfter is when a server that nobody asks any more is forgotten: nodes of a cluster come
	// and go.
	forgetAfter = time.Minute
)

// Operation is what the store is asked for. A store that cannot do one can often do the others:
// where it is full, or is a replica, nothing is spent, and keys are read as ever.
type Operation uint8

const (
	// LookUp reads keys.
	LookUp Operation = iota
	// ReadLimits reads counters, and takes nothing.
	ReadLimits
	// Spend takes units of limits.
	Spend
)

// Operations returns all there are.
func Operations() []Operation { return []Operation{LookUp, ReadLimits, Spend} }

// String is the name of the operation in metrics and logs.
func (o Operation) String() string {
	switch o {
	case LookUp:
		return "lookup"
	case ReadLimits:
		return "read"
	}
	return "spend"
}

// Breaker keeps checks from waiting, each until its deadline, for a store that does not answer. It
// does so for each operation, and each node of a cluster, apart: after ten failures in a row it
// refuses for 250 ms at a time, and then lets one try. It is safe for concurrent use.
type Breaker struct {
	changed func(BreakerChange)
	open    time.Duration
	now     func() time.Time

	mu       sync.RWMutex
	circuits map[circuitName]*circuit
}

type circuitName struct {
	operation Operation
	node      string
}

// circuit is the breaker of one operation on one node.
type circuit struct {
	*gobreaker.CircuitBreaker[struct{}]
	used atomic.Int64          // Unix seconds
	why  atomic.Pointer[error] // the last failure
}

// BreakerChange says that an operation is no longer carried out on a node, or is again.
type BreakerChange struct {
	Operation Operation
	Node      string // address; "" where the store is one server
	Open      bool
	Err       error // of the last failure
}

// NewBreaker returns a closed Breaker. changed, which may be nil, is told when it opens and closes;
// it must not use the Breaker.
func NewBreaker(changed func(BreakerChange)) *Breaker { return newBreaker(changed, openFor) }

func newBreaker(changed func(BreakerChange), open time.Duration) *Breaker {
	if changed == nil {
		changed = func(BreakerChange) {}
	}
	return &Breaker{changed: changed, open: open, now: time.Now, circuits: map[circuitName]*circuit{}}
}

// Do returns the error of op, or ErrStoreDown without calling it. Only an error that tells of the
// store counts as a failure (IsStoreFailure). A nil Breaker always calls op.
func (b *Breaker) Do(o Operation, node string, op func() error) error {
	if b == nil {
		return op()
	}
	c := b.circuit(circuitName{o, node})
	_, err := c.Execute(func() (struct{}, error) {
		err := op()
		if IsStoreFailure(err) && !errors.Is(err, context.Canceled) {
			c.why.Store(&err)
		}
		return struct{}{}, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return ErrStoreDown
	}
	return err
}

// Trouble returns why an operation is not carried out, on one node or more, or nil if it is on all.
// It knows what the last attempts met, and forgets what nobody has asked for within a minute.
func (b *Breaker) Trouble(o Operation) error {
	if b == nil {
		return nil
	}
	b.forget()
	b.mu.RLock()
	defer b.mu.RUnlock()
	for name, c := range b.circuits {
		if name.operation != o || c.State() == gobreaker.StateClosed {
			continue
		}
		switch err := c.reason(); {
		case name.node != "":
			return fmt.Errorf("%s: %w", name.node, err)
		default:
			return err
		}
	}
	return nil
}

func (c *circuit) reason() error {
	if why := c.why.Load(); why != nil {
		return *why
	}
	return ErrStoreDown
}

func (b *Breaker) circuit(name circuitName) *circuit {
	now := b.now().Unix()
	b.mu.RLock()
	c := b.circuits[name]
	b.mu.RUnlock()
	if c == nil {
		b.forget()
		b.mu.Lock()
		if c = b.circuits[name]; c == nil {
			c = b.newCircuit(name)
			b.circuits[name] = c
		}
		b.mu.Unlock()
	}
	if c.used.Load() != now {
		c.used.Store(now)
	}
	return c
}

func (b *Breaker) newCircuit(name circuitName) *circuit {
	c := &circuit{}
	c.used.Store(b.now().Unix())
	c.CircuitBreaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     b.open,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
				b.changed(BreakerChange{name.operation, name.node, to == gobreaker.StateOpen, c.reason()})
			}
		},
		IsSuccessful: func(err error) bool { return !IsStoreFailure(err) },
		// A caller that has gone says nothing about the store.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
	})
	return c
}

// forget drops the circuits that nobody has used for a while: what they know is no longer true.
func (b *Breaker) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	long := b.now().Add(-forgetAfter).Unix()
	for name, c := range b.circuits {
		if c.used.Load() > long {
			continue
		}
		delete(b.circuits, name)
		if c.State() != gobreaker.StateClosed {
			b.changed(BreakerChange{name.operation, name.node, false, c.reason()})
		}
	}
}

// IsStoreFailure reports whether an error says that the store does not serve: that it did not
// answer, or that it refuses this to everybody, as with NOAUTH, LOADING, READONLY or OOM. What it
// says of one key does not.
func IsStoreFailure(err error) bool {
	var reply redis.Error
	switch {
	case err == nil:
		return false
	case !errors.As(err, &reply):
		return true
	}
	for _, answer := range []string{"WRONGTYPE", "NOSCRIPT", "CROSSSLOT", "TRYAGAIN", "user_script", "Error running script"} {
		if redis.HasErrorPrefix(reply, answer) {
			return false
		}
	}
	return !errors.Is(err, redis.Nil)
}
