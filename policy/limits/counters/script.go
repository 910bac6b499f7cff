package counters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/limits"
)

// maxScript bounds the operations of one run of the script, so that Redis serves others after a
// fraction of a millisecond. More would save little: beyond 16, what they share is a small part of
// what each costs.
const maxScript = 32

// script is one run of spend.lua: operations that Redis judges in their order and in one step.
type script struct {
	ops     []*operation
	layouts []*layout // the plans of the arguments
	command *redis.IntSliceCmd

	// What is used again for the next run.
	args     []any
	offset   offset
	known    [maxScript]int64 // how the arguments refer to each of layouts
	starts   [][]int64        // of each of layouts, in the reply
	outcomes []outcome        // of each of operations
}

// offset is the first argument of a script. It notes that the script was sent, or began to be.
type offset struct {
	ms   int64
	sent bool
	text [20]byte
}

// MarshalBinary is called when the argument is written to a connection, which takes the bytes at
// once.
func (o *offset) MarshalBinary() ([]byte, error) {
	o.sent = true
	return strconv.AppendInt(o.text[:0], o.ms, 10), nil
}

func newScript() *script {
	r := &script{}
	for i := range r.known {
		r.known[i] = int64(-1 - i)
	}
	return r
}

// clear lets go of everything that is not used again.
func (r *script) clear() {
	r.ops, r.command = nil, nil
	clear(r.layouts)
	clear(r.args)
	clear(r.starts)
	clear(r.outcomes)
}

// send runs the operations in one round trip. Another one follows only for those that have run
// nothing: a Redis that has not seen the script gets it, and one node of a cluster gets each
// operation by itself. Each operation then holds its answer or its error.
func (s *Store) send(ctx context.Context, ops []*operation) {
	verb, source, most := any("evalsha"), s.sha, maxScript
	for range 3 {
		again := s.runOnce(ctx, ops, verb, source, most)
		if len(again.ops) == 0 {
			return
		}
		if again.unseen {
			verb, source = "eval", spendSource
		}
		if again.singly {
			most = 1
		}
		ops = again.ops
	}
}

// rerun are operations that have run nothing but may if they are sent once more.
type rerun struct {
	ops    []*operation
	unseen bool // the script must go with them
	singly bool // each by itself
}

// runOnce is one round trip of send, with at most so many operations in a script.
func (s *Store) runOnce(ctx context.Context, ops []*operation, verb, source any, most int) (again rerun) {
	offset := s.offset().Milliseconds()
	if s.singly.Load() {
		most = 1
	}
	var few [maxBatch / maxScript]*script
	scripts := few[:0]
	for len(ops) > 0 {
		r, _ := s.scripts.Get().(*script)
		if r == nil {
			r = newScript()
		}
		n := min(len(ops), most)
		r.encode(ctx, ops[:n], verb, source, offset)
		ops = ops[n:]
		scripts = append(scripts, r)
	}
	s.process(ctx, scripts)
	for _, r := range scripts {
		err := r.finish()
		switch {
		case err == nil:
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			again.unseen = true
			again.ops = append(again.ops, r.ops...)
		case redis.HasErrorPrefix(err, "CROSSSLOT"):
			s.singly.Store(true)
			again.ops = append(again.ops, r.ops...)
		case redis.HasErrorPrefix(err, "NOPERM") && !strings.Contains(err.Error(), "script:") && len(r.ops) > 1:
			// Before the script ran: a user of a version that knew no slots. The others are his to
			// spend.
			again.singly = true
			again.ops = append(again.ops, r.ops...)
		}
		r.clear()
		s.scripts.Put(r)
	}
	return again
}

// process sends the commands of scripts in one round trip. Their errors are in them.
func (s *Store) process(ctx context.Context, scripts []*script) {
	if len(scripts) == 1 {
		_ = s.client.Process(ctx, scripts[0].command)
		return
	}
	p := s.client.Pipeline()
	for _, r := range scripts {
		_ = p.Process(ctx, r.command)
	}
	_, _ = p.Exec(ctx)
}

// encode makes the command as spend.lua reads it. verb and source are EVALSHA and the script's
// name, or EVAL and the script.
func (r *script) encode(ctx context.Context, ops []*operation, verb, source any, offset int64) {
	r.ops, r.layouts, r.offset.ms, r.offset.sent = ops, r.layouts[:0], offset, false
	r.args = append(r.args[:0], verb, source, 0)
	for _, c := range ops {
		c.name()
		if !c.holds {
			r.args = append(r.args, &c.key)
		}
		if c.slot.ID != "" {
			r.args = append(r.args, &c.slots)
		}
	}
	r.args[2] = len(r.args) - 3 // keys; a small number is no allocation
	r.args = append(r.args, &r.offset)
	for len(ops) > 0 {
		n := alike(ops)
		r.group(ops[:n])
		ops = ops[n:]
	}
	r.command = redis.NewIntSliceCmd(ctx, r.args...)
	r.command.SetFirstKeyPos(3)
}

// The modes of spend.lua beside a number of units to lease.
const (
	modeRead = -1
	modeSlot = -2
	modeHold = -3
)

// name fills in what the script gets pointers to.
func (c *operation) name() {
	c.mode, c.holdMs = c.want, c.slot.Hold.Milliseconds()
	if c.slot.ID != "" {
		c.slots = slotsKey(c.id)
	}
	switch {
	case c.holds:
		c.mode = modeHold
		return
	case c.slot.ID != "":
		c.mode = modeSlot
	case c.readOnly:
		c.mode = modeRead
	}
	c.key = countKey(c.id)
}

// alike returns how many of the first operations can share a group.
func alike(ops []*operation) int {
	first := ops[0]
	for i, c := range ops {
		if i > 0 && (c.layout != first.layout || c.cost != first.cost || c.mode != first.mode || c.holdMs != first.holdMs || c.slot.Places != first.slot.Places) || c.settle.units > 0 {
			return max(i, 1)
		}
	}
	return len(ops)
}

// group adds the arguments of operations that are alike.
func (r *script) group(ops []*operation) {
	c, size := ops[0], len(ops)
	if c.settle.units > 0 {
		size = 0
	}
	plan := slices.Index(r.layouts, c.layout)
	if plan >= 0 {
		r.args = append(r.args, size, &r.known[plan], &c.cost, &c.mode)
	} else {
		plan = len(r.layouts)
		r.layouts = append(r.layouts, c.layout)
		r.args = append(r.args, size, len(c.layout.windows), &c.cost, &c.mode)
		r.args = append(r.args, c.layout.args...)
	}
	for _, c := range ops {
		c.plan = plan
	}
	if c.settle.units > 0 {
		r.args = append(r.args, &c.settle.units, &c.settle.back)
		for i := range c.settle.counts {
			r.args = append(r.args, &c.settle.counts[i].Start)
		}
	}
	r.slots(ops)
}

// slots adds what operations that are alike say of their slots.
func (r *script) slots(ops []*operation) {
	switch c := ops[0]; c.mode {
	case modeSlot:
		r.args = append(r.args, &c.slot.Places, &c.holdMs)
		for _, c := range ops {
			r.args = append(r.args, &c.slot.ID, &c.slot.Earlier)
		}
	case modeHold:
		r.args = append(r.args, &c.holdMs)
		for _, c := range ops {
			r.args = append(r.args, &c.slot.ID)
		}
	}
}

// finish hands the operations their answers, or all of them the error of the command, which it
// returns.
func (r *script) finish() error {
	reply, err := r.command.Result()
	if err != nil {
		// An error reply says that it was not run: what can go wrong within it comes before the
		// first write.
		var refused redis.Error
		r.fail(spendError(err), !r.offset.sent || errors.As(err, &refused))
		return err
	}
	r.read(reply)
	return nil
}

// read hands the operations what the reply says of them.
func (r *script) read(reply []int64) {
	if err := r.split(reply); err != nil {
		r.fail(badReply(err), false)
		return
	}
	for i, c := range r.ops {
		j := r.outcomes[i]
		if j.denied {
			c.err, c.notRun = spendError(ErrSlotsDenied), true
		} else if j.broken != "" {
			c.err, c.notRun = &limits.BrokenError{Err: spendError(errors.New(j.broken))}, true
		} else if err := c.read(j); err != nil {
			c.err, c.notRun = badReply(err), false
		}
	}
}

func (r *script) fail(err error, unrun bool) {
	for _, c := range r.ops {
		c.err, c.notRun = err, unrun
	}
}

func badReply(err error) error {
	return &limits.BrokenError{Err: fmt.Errorf("limits: spend: the store's answer: %w", err)}
}

// split finds the outcomes in a reply, which has exactly the form that spend.lua says.
func (r *script) split(reply []int64) error {
	r.outcomes, r.starts = r.outcomes[:0], r.starts[:0]
	rest := numbers(reply)
	now := rest.next(1)
	for _, c := range r.ops {
		n := len(c.layout.windows)
		if c.plan == len(r.starts) {
			r.starts = append(r.starts, rest.next(n))
		}
		status := rest.next(1)
		if status == nil {
			break
		}
		j := outcome{now: now[0], starts: r.starts[c.plan]}
		switch s := status[0]; {
		case c.holds && s >= 0:
			j.allowed = s == 1
		case s == int64(-2-n) && c.slot.ID != "":
			j.denied = true
		case s < int64(-1-n):
			return fmt.Errorf("status is %d", s)
		case s == -1:
			j.broken = "WRONGTYPE Operation against a key holding the wrong kind of value"
		case s < 0:
			j.broken = "CORRUPT counter " + field(c.layout.windows[-2-s])
		default:
			j.allowed, j.granted, j.spents = s&1 != 0, s>>2, rest.next(n)
			if s&2 != 0 {
				j.starts = rest.next(n)
			}
			if c.slot.ID != "" {
				j.full, j.granted = j.granted == 1, 0
				if slots := rest.next(2); slots != nil {
					j.inUse, j.ended = slots[0], slots[1]
				}
			}
		}
		r.outcomes = append(r.outcomes, j)
	}
	if rest == nil {
		return fmt.Errorf("%d values are too few", len(reply))
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d of %d values are too many", len(rest), len(reply))
	}
	return nil
}

// numbers are what is not read yet of a reply; nil once it was too short.
type numbers []int64

// next takes the next n, or nil.
func (r *numbers) next(n int) []int64 {
	if *r == nil || len(*r) < n {
		*r = nil
		return nil
	}
	taken := (*r)[:n:n]
	*r = (*r)[n:]
	return taken
}

func countKey(id string) string { return "tg:v1:count:{" + id + "}" }

func slotsKey(id string) string { return "tg:v1:slots:{" + id + "}" }

// layout is a set of windows in the form in which the script is told of them. It never changes, so
// that all Spends with equal windows can share one.
type layout struct {
	windows []limits.Window
	args    []any // as spend.lua reads them: the fields, then length and limit of each window
}

// newLayout copies the windows, which must be valid. A limit of 0 is -1 to the script, which so has
// one rule for all; that of a shadow is more than can be spent.
func newLayout(windows []limits.Window) *layout {
	n := len(windows)
	l := &layout{windows: append([]limits.Window(nil), windows...), args: make([]any, 3*n)}
	for i, w := range windows {
		length, limit := w.Per.Seconds(), w.Limit
		if w.Per == limits.Month {
			length = -int64(max(w.Anchor, 1))
		}
		switch {
		case w.Shadow:
			limit = limits.MaxLimit
		case limit == 0:
			limit = -1
		}
		l.args[i] = field(w)
		l.args[n+2*i] = strconv.FormatInt(length, 10)
		l.args[n+2*i+1] = strconv.FormatInt(limit, 10)
	}
	return l
}

// is reports whether the layout is that of the windows, by their values: a caller may use one slice
// again for others.
func (l *layout) is(windows []limits.Window) bool {
	if len(l.windows) != len(windows) {
		return false
	}
	for i := range windows {
		if l.windows[i] != windows[i] {
			return false
		}
	}
	return true
}

// layouts remembers the layouts of recent Spends. Two sets of windows that fall on one place take
// turns, which costs time and nothing else.
type layouts struct {
	places [256]atomic.Pointer[layout]
}

// of returns the layout of a Spend, or what is wrong with the Spend.
func (l *layouts) of(s *limits.Spend) (*layout, error) {
	place := &l.places[windowsHash(s.Windows)%uint64(len(l.places))]
	known := place.Load()
	if known != nil && s.ID != "" && s.Cost >= 0 && s.Slot.ID == "" && known.is(s.Windows) {
		return known, nil
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if known != nil && known.is(s.Windows) {
		return known, nil
	}
	made := newLayout(s.Windows)
	place.Store(made)
	return made, nil
}

func windowsHash(windows []limits.Window) uint64 {
	h := uint64(len(windows))
	for i := range windows {
		w := &windows[i]
		h = (h ^ uint64(w.Limit)<<16 ^ uint64(w.Anchor)<<8 ^ uint64(w.Per)<<4 ^ uint64(len(w.Name))) * 0x9e3779b97f4a7c15
	}
	return h >> 32
}

// field names the counter of a window. The unit is part of it, because the counts of two units
// cannot be compared. The anchor is not: a changed anchor goes on with what the month has counted.
func field(w limits.Window) string { return w.Per.String() + ":" + w.Name }
