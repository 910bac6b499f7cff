package limits

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// call is what the script judges in one step: a spend or a read, units leased ahead, units of a lease that are settled, or
// several of these at once.
type call struct {
	id       string
	layout   *layout
	cost     int64
	readOnly bool
	exact    bool  // nothing is leased
	want     int64 // units to lease at most
	settle   settlement

	// What the script gets a pointer to, so that no argument is an allocation.
	key  string
	mode int64
	plan int // which of its script's layouts it has

	// The answer. counts never changes once it is there.
	err     error
	unrun   bool // with an error: Redis has certainly not run it
	allowed bool
	now     int64 // Redis' clock, Unix milliseconds
	granted int64
	counts  []count

	// What Leases and its batches need.
	done     chan struct{} // gets one value when the answer is there; nil where nobody waits
	state    atomic.Int32
	end      time.Time // when its caller leaves; zero if that is not known
	unheard  bool      // the caller had left when the answer came
	entry    *entry    // what remembers the answer; may be nil
	asks     bool      // the only lease of its entry that is under way
	deferred bool      // has waited for the lease of another call
	result   Result    // for the caller, once there is no error
	lane     *lane     // that has sent it
}

// States of a queued call. A caller who leaves before the batch takes the call keeps it from being sent; one who leaves
// before it has landed gets no answer.
const (
	queued int32 = iota
	taken
	left
	landed
)

// leave has the caller go without an answer, unless that is there.
func (c *call) leave() bool {
	for {
		state := c.state.Load()
		if state == landed {
			return false
		}
		if c.state.CompareAndSwap(state, left) {
			return true
		}
	}
}

// land has the caller get the answer, once finished is called, unless the caller has left.
func (c *call) land() {
	c.unheard = c.done != nil && !c.state.CompareAndSwap(taken, landed)
}

func (c *call) finished() {
	if c.done != nil && !c.unheard {
		c.done <- struct{}{}
	}
}

// again makes a call that its caller has done with ready for another one. It keeps what costs allocations.
func (c *call) again() {
	c.id, c.layout, c.cost, c.readOnly, c.exact, c.want, c.settle = "", nil, 0, false, false, 0, settlement{}
	c.key, c.mode, c.plan = "", 0, 0
	c.err, c.unrun, c.allowed, c.now, c.granted, c.counts = nil, false, false, 0, 0, nil
	c.end, c.unheard = time.Time{}, false
	c.entry, c.asks, c.deferred, c.result, c.lane = nil, false, false, Result{}, nil
	c.state.Store(queued)
}

// settlement says what became of units that were leased: units of them are no longer held, of which back were not spent.
// They were charged to the windows that counts begins.
type settlement struct {
	units, back int64
	counts      []count
}

// judgement is what the script says of one call.
type judgement struct {
	allowed        bool
	now, granted   int64   // as in call
	starts, spents []int64 // of each window, after this step
	broken         string  // what is wrong with the stored record; nothing else is known then
}

// read takes in a judgement and checks everything in it that can be checked: what it allows must follow from the counters
// it returns.
func (c *call) read(j judgement) error {
	if j.granted < 0 || j.granted > c.want || j.granted > 0 && !j.allowed {
		return fmt.Errorf("%d units leased of %d, allowed is %v", j.granted, c.want, j.allowed)
	}
	taken := j.granted
	if j.allowed && !c.readOnly {
		taken += c.cost
	}
	counts := make([]count, len(c.layout.windows))
	fits := true
	for i, w := range c.layout.windows {
		start, spent := j.starts[i], j.spents[i]
		end, err := w.endOf(start, floorDiv(j.now, 1000))
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
	if fits != j.allowed {
		return errors.New("allowed does not follow from the counters")
	}
	c.err, c.allowed, c.now, c.granted, c.counts = nil, j.allowed, j.now, j.granted, counts
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
