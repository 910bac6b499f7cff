package counters

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"tollgate/policy/limits"
)

// operation is what the script judges in one step: a spend or a read, a slot that is taken, units
// leased, units of a lease that are settled, or several of these at once; or a slot that is held on
// or released.
type operation struct {
	id       string
	layout   *layout
	cost     int64
	readOnly bool
	exact    bool  // nothing is leased
	want     int64 // units to lease at most
	settle   settlement
	slot     limits.Slot // to be taken; or, with holds, to be held on or released
	holds    bool

	// What the script gets a pointer to, so that no argument is an allocation.
	key, slots   string
	mode, holdMs int64
	plan         int // which of its script's layouts it has

	// The answer. counts never changes once it is there.
	err     error
	notRun  bool // with an error: Redis has certainly not run it
	allowed bool
	now     int64 // Redis' clock, Unix milliseconds
	granted int64
	counts  []limits.Count
	full    bool  // no slot was free
	inUse   int64 // slots after the step
	ended   int64 // slots that were found to have ended by themselves
	found   bool  // the slot to be held on or released

	// What Leases and its batches need.
	done      chan struct{} // gets one value when the answer is there; nil where nobody waits
	state     atomic.Int32
	deadline  time.Time     // when its caller leaves; zero if that is not known
	abandoned bool          // the caller had left when the answer came
	entry     *entry        // what remembers the answer; may be nil
	leasing   bool          // the only lease of its entry that is under way
	deferred  bool          // has waited for the lease of another operation
	result    limits.Result // for the caller, once there is no error
	queue     *queue        // that has sent it
}

// States of a queued operation. A caller who leaves before the batch takes the operation keeps it
// from being sent; one who leaves before it is delivered gets no answer.
const (
	queued int32 = iota
	claimed
	gaveUp
	delivered
)

// giveUp has the caller go without an answer, unless that is there.
func (c *operation) giveUp() bool {
	for {
		state := c.state.Load()
		if state == delivered {
			return false
		}
		if c.state.CompareAndSwap(state, gaveUp) {
			return true
		}
	}
}

// deliver has the caller get the answer, once signal is called, unless the caller has left.
func (c *operation) deliver() {
	c.abandoned = c.done != nil && !c.state.CompareAndSwap(claimed, delivered)
}

func (c *operation) signal() {
	if c.done != nil && !c.abandoned {
		c.done <- struct{}{}
	}
}

// reset makes an operation that its caller has done with ready for another one. It keeps what costs
// allocations.
func (c *operation) reset() {
	c.id, c.layout, c.cost, c.readOnly, c.exact, c.want, c.settle = "", nil, 0, false, false, 0, settlement{}
	c.slot, c.holds = limits.Slot{}, false
	c.key, c.slots, c.mode, c.holdMs, c.plan = "", "", 0, 0, 0
	c.full, c.inUse, c.ended, c.found = false, 0, 0, false
	c.err, c.notRun, c.allowed, c.now, c.granted, c.counts = nil, false, false, 0, 0, nil
	c.deadline, c.abandoned = time.Time{}, false
	c.entry, c.leasing, c.deferred, c.result, c.queue = nil, false, false, limits.Result{}, nil
	c.state.Store(queued)
}

// settlement says what became of leased units: `units` of them are no longer held, of which `back`
// were not spent. They were charged to the windows of counts.
type settlement struct {
	units, back int64
	counts      []limits.Count
}

// outcome is what the script says of one operation.
type outcome struct {
	allowed        bool
	now, granted   int64   // as in operation
	starts, spents []int64 // of each window, after this step
	full           bool
	inUse, ended   int64
	denied         bool   // the store's user may not take slots; nothing else is known then
	broken         string // what is wrong with the stored record; nothing else is known then
}

// read takes in an outcome and checks everything in it that can be checked: what it allows must
// follow from the counters it returns.
func (c *operation) read(j outcome) error {
	if c.holds {
		c.err, c.now, c.found = nil, j.now, j.allowed
		return nil
	}
	if j.inUse < 0 || j.inUse > limits.MaxPlaces || j.full && j.allowed {
		return fmt.Errorf("%d slots in use, full is %v, allowed is %v", j.inUse, j.full, j.allowed)
	}
	if j.granted < 0 || j.granted > c.want || j.granted > 0 && !j.allowed {
		return fmt.Errorf("%d units leased of %d, allowed is %v", j.granted, c.want, j.allowed)
	}
	taken := j.granted
	if j.allowed && !c.readOnly {
		taken += c.cost
	}
	counts := make([]limits.Count, len(c.layout.windows))
	fits := true
	for i, w := range c.layout.windows {
		start, spent := j.starts[i], j.spents[i]
		end, err := w.EndOf(start, time.UnixMilli(j.now).Unix())
		if err != nil {
			return err
		}
		if spent < 0 || spent > limits.MaxLimit {
			return fmt.Errorf("window %q: spent is %d", w.Name, spent)
		}
		counts[i] = limits.Count{Start: start, End: end, Spent: spent}
		spent -= taken
		fits = fits && spent >= 0 && !w.Denies(limits.State{Spent: spent}, c.cost)
	}
	if (fits && !j.full) != j.allowed {
		return errors.New("allowed does not follow from the counters")
	}
	c.err, c.allowed, c.now, c.granted, c.counts = nil, j.allowed, j.now, j.granted, counts
	c.full, c.inUse, c.ended = j.full, j.inUse, j.ended
	return nil
}

// resultOf makes the answer for a caller. unspent is what is charged to the windows and not spent.
func (c *operation) resultOf(unspent int64) limits.Result {
	res := limits.Result{Allowed: c.allowed, Full: c.full, InUse: c.inUse, Now: time.UnixMilli(c.now).UTC(), States: make([]limits.State, len(c.counts))}
	for i, n := range c.counts {
		res.States[i] = limits.State{Spent: n.Spent - unspent, Reset: time.Unix(n.End, 0).UTC()}
	}
	return res
}
