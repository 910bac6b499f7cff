package limits

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// call is one run of the script: a spend or a read, units leased ahead, units of a lease that are settled, or several of
// these at once.
type call struct {
	id       string
	layout   *layout
	cost     int64
	readOnly bool
	exact    bool  // nothing is leased
	want     int64 // units to lease at most
	settle   settlement

	// What the script gets a pointer to, so that no argument is an allocation.
	mode    int64
	offset  int64
	windows int64
	args    []any
	command *redis.IntSliceCmd

	// The answer. counts never changes once it is there.
	err     error
	allowed bool
	now     int64 // Redis' clock, Unix milliseconds
	granted int64
	counts  []count

	// What Leases and its batches need.
	done     chan struct{} // gets one value when the answer is there; nil where nobody waits
	state    atomic.Int32
	entry    *entry // what remembers the answer; may be nil
	asks     bool   // the only lease of its entry that is under way
	deferred bool   // has waited for the lease of another call
	result   Result // for the caller, once there is no error
}

// States of a queued call. A caller who leaves before the batch takes the call keeps it from being sent.
const (
	queued int32 = iota
	taken
	left
)

// again makes a call that its caller has done with ready for another one. It keeps what costs allocations.
func (c *call) again() {
	c.id, c.layout, c.cost, c.readOnly, c.exact, c.want, c.settle = "", nil, 0, false, false, 0, settlement{}
	c.command, c.err, c.allowed, c.now, c.granted, c.counts = nil, nil, false, 0, 0, nil
	c.entry, c.asks, c.deferred, c.result = nil, false, false, Result{}
	clear(c.args)
	c.state.Store(queued)
}

// settlement says what became of units that were leased: units of them are no longer held, of which back were not spent.
// They were charged to the windows that counts begins.
type settlement struct {
	units, back int64
	counts      []count
}

// arguments lays out EVALSHA, or EVAL if script is a source, as spend.lua reads it. The slice is the call's own.
func (c *call) arguments(verb, script any, offset int64) []any {
	c.offset, c.windows, c.mode = offset, int64(len(c.layout.windows)), c.want
	if c.readOnly {
		c.mode = -1
	}
	if c.args == nil {
		n := len(c.layout.args)
		c.args = make([]any, 0, 8+n+2+n/3)
	}
	c.args = append(c.args[:0], verb, script, "1", "tg:v1:count:{"+c.id+"}", &c.windows, &c.offset, &c.cost, &c.mode)
	c.args = append(c.args, c.layout.args...)
	if c.settle.units > 0 {
		c.args = append(c.args, &c.settle.units, &c.settle.back)
		for i := range c.settle.counts {
			c.args = append(c.args, &c.settle.counts[i].start)
		}
	}
	return c.args
}

// send runs the calls in one round trip; a second one follows only for those that met a Redis that has not seen the
// script and so has run nothing. Each call then holds its answer or its error.
func (s *Store) send(ctx context.Context, calls []*call) {
	offset := s.offset().Milliseconds()
	for _, c := range calls {
		c.command = redis.NewIntSliceCmd(ctx, c.arguments("evalsha", s.sha, offset)...)
	}
	s.process(ctx, calls)
	var unseen []*call
	for _, c := range calls {
		if err := c.command.Err(); err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
			c.command = redis.NewIntSliceCmd(ctx, c.arguments("eval", spendSource, offset)...)
			unseen = append(unseen, c)
		}
	}
	if len(unseen) > 0 {
		s.process(ctx, unseen)
	}
	for _, c := range calls {
		c.finish()
	}
}

// process sends the commands of calls in one round trip. Their errors are in them.
func (s *Store) process(ctx context.Context, calls []*call) {
	if len(calls) == 1 {
		_ = s.client.Process(ctx, calls[0].command)
		return
	}
	p := s.client.Pipeline()
	for _, c := range calls {
		_ = p.Process(ctx, c.command)
	}
	_, _ = p.Exec(ctx)
}

// finish takes the answer out of the command.
func (c *call) finish() {
	reply, err := c.command.Result()
	c.command = nil
	if err != nil {
		c.err = spendError(err)
		return
	}
	if err := c.read(reply); err != nil {
		c.err = &BrokenError{fmt.Errorf("limits: spend: the store's answer: %w", err)}
	}
}

// read reads the script's answer and checks everything in it that can be checked: what it allows must follow from the
// counters it returns.
func (c *call) read(reply []int64) error {
	windows := c.layout.windows
	if want := 3 + 2*len(windows); len(reply) != want {
		return fmt.Errorf("%d values instead of %d", len(reply), want)
	}
	allowed, now, granted := reply[0], reply[1], reply[2]
	if allowed != 0 && allowed != 1 {
		return fmt.Errorf("allowed is %d", allowed)
	}
	if granted < 0 || granted > c.want || granted > 0 && allowed == 0 {
		return fmt.Errorf("%d units leased of %d, allowed is %d", granted, c.want, allowed)
	}
	taken := granted
	if allowed == 1 && !c.readOnly {
		taken += c.cost
	}
	counts := make([]count, len(windows))
	fits := true
	for i, w := range windows {
		start, spent := reply[3+2*i], reply[4+2*i]
		end, err := w.endOf(start, floorDiv(now, 1000))
		if err != nil {
			return err
		}
		if spent < 0 || spent > MaxLimit {
			return fmt.Errorf("window %q: spent is %d", w.Name, spent)
		}
		counts[i] = count{start: start, end: end, spent: spent}
		spent -= taken
		fits = fits && spent >= 0 && !w.Denies(State{Spent: spent}, c.cost)
	}
	if fits != (allowed == 1) {
		return errors.New("allowed does not follow from the counters")
	}
	c.allowed, c.now, c.granted, c.counts = allowed == 1, now, granted, counts
	return nil
}

// resultOf makes the answer for a caller. rest is what is charged to the windows and not spent.
func (c *call) resultOf(rest int64) Result {
	res := Result{Allowed: c.allowed, Now: time.UnixMilli(c.now).UTC(), States: make([]State, len(c.counts))}
	for i, n := range c.counts {
		res.States[i] = State{Spent: n.spent - rest, Reset: time.Unix(n.end, 0).UTC()}
	}
	return res
}
