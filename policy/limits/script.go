package limits

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// maxScript bounds the calls of one run of the script, so that Redis serves others after a fraction of a millisecond.
// More would save little: beyond 16, what they share is a small part of what each costs.
const maxScript = 32

// script is one run of spend.lua: calls that Redis judges in their order and in one step.
type script struct {
	calls   []*call
	layouts []*layout // the plans of the arguments
	command *redis.IntSliceCmd

	// What is used again for the next run.
	args   []any
	offset offset
	known  [maxScript]int64 // how the arguments refer to each of layouts
	starts [][]int64        // of each of layouts, in the reply
	judged []judgement      // of each of calls
}

// offset is the first argument of a script. It notes that the script was sent, or began to be.
type offset struct {
	ms   int64
	sent bool
	text [20]byte
}

// MarshalBinary is called when the argument is written to a connection, which takes the bytes at once.
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
	r.calls, r.command = nil, nil
	clear(r.layouts)
	clear(r.args)
	clear(r.starts)
	clear(r.judged)
}

// send runs the calls in one round trip. Another one follows only for those that have run nothing: a Redis that has not
// seen the script gets it, and one node of a cluster gets each call by itself. Each call then holds its answer or its
// error.
func (s *Store) send(ctx context.Context, calls []*call) {
	verb, source := any("evalsha"), s.sha
	for range 3 {
		unseen, unrun := s.trip(ctx, calls, verb, source)
		if len(unrun) == 0 {
			return
		}
		if unseen {
			verb, source = "eval", spendSource
		}
		calls = unrun
	}
}

// trip is one round trip of send. It returns the calls that have run nothing but may if they are sent once more, and
// whether the script must go with them.
func (s *Store) trip(ctx context.Context, calls []*call, verb, source any) (unseen bool, unrun []*call) {
	most, offset := maxScript, s.offset().Milliseconds()
	if s.apart.Load() {
		most = 1
	}
	var few [maxBatch / maxScript]*script
	scripts := few[:0]
	for len(calls) > 0 {
		r, _ := s.scripts.Get().(*script)
		if r == nil {
			r = newScript()
		}
		n := min(len(calls), most)
		r.lay(ctx, calls[:n], verb, source, offset)
		calls = calls[n:]
		scripts = append(scripts, r)
	}
	s.process(ctx, scripts)
	for _, r := range scripts {
		err := r.finish()
		switch {
		case err == nil:
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			unseen = true
			unrun = append(unrun, r.calls...)
		case redis.HasErrorPrefix(err, "CROSSSLOT"):
			s.apart.Store(true)
			unrun = append(unrun, r.calls...)
		}
		r.clear()
		s.scripts.Put(r)
	}
	return unseen, unrun
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

// lay makes the command as spend.lua reads it. verb and source are EVALSHA and the script's name, or EVAL and the script.
func (r *script) lay(ctx context.Context, calls []*call, verb, source any, offset int64) {
	r.calls, r.layouts, r.offset.ms, r.offset.sent = calls, r.layouts[:0], offset, false
	r.args = append(r.args[:0], verb, source, len(calls)) // a small number is no allocation
	for _, c := range calls {
		c.key, c.mode = countKey(c.id), c.want
		if c.readOnly {
			c.mode = -1
		}
		r.args = append(r.args, &c.key)
	}
	r.args = append(r.args, &r.offset)
	for len(calls) > 0 {
		n := alike(calls)
		r.group(calls[:n])
		calls = calls[n:]
	}
	r.command = redis.NewIntSliceCmd(ctx, r.args...)
	r.command.SetFirstKeyPos(3)
}

// alike returns how many of the first calls can share a group.
func alike(calls []*call) int {
	first := calls[0]
	for i, c := range calls {
		if i > 0 && (c.layout != first.layout || c.cost != first.cost || c.mode != first.mode) || c.settle.units > 0 {
			return max(i, 1)
		}
	}
	return len(calls)
}

// group adds the arguments of calls that are alike.
func (r *script) group(calls []*call) {
	c, size := calls[0], len(calls)
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
	for _, c := range calls {
		c.plan = plan
	}
	if c.settle.units > 0 {
		r.args = append(r.args, &c.settle.units, &c.settle.back)
		for i := range c.settle.counts {
			r.args = append(r.args, &c.settle.counts[i].start)
		}
	}
}

// finish hands the calls their answers, or all of them the error of the command, which it returns.
func (r *script) finish() error {
	reply, err := r.command.Result()
	if err != nil {
		// An error reply says that it was not run: what can go wrong within it comes before the first write.
		var refused redis.Error
		r.fail(spendError(err), !r.offset.sent || errors.As(err, &refused))
		return err
	}
	r.read(reply)
	return nil
}

// read hands the calls what the reply says of them.
func (r *script) read(reply []int64) {
	if err := r.split(reply); err != nil {
		r.fail(foreignAnswer(err), false)
		return
	}
	for i, c := range r.calls {
		j := r.judged[i]
		if j.broken != "" {
			c.err, c.unrun = &BrokenError{spendError(errors.New(j.broken))}, true
		} else if err := c.read(j); err != nil {
			c.err, c.unrun = foreignAnswer(err), false
		}
	}
}

func (r *script) fail(err error, unrun bool) {
	for _, c := range r.calls {
		c.err, c.unrun = err, unrun
	}
}

func foreignAnswer(err error) error {
	return &BrokenError{fmt.Errorf("limits: spend: the store's answer: %w", err)}
}

// split finds the judgements in a reply, which has exactly the form that spend.lua says.
func (r *script) split(reply []int64) error {
	r.judged, r.starts = r.judged[:0], r.starts[:0]
	rest := numbers(reply)
	now := rest.next(1)
	for _, c := range r.calls {
		n := len(c.layout.windows)
		if c.plan == len(r.starts) {
			r.starts = append(r.starts, rest.next(n))
		}
		status := rest.next(1)
		if status == nil {
			break
		}
		j := judgement{now: now[0], starts: r.starts[c.plan]}
		switch s := status[0]; {
		case s < int64(-1-n):
			return fmt.Errorf("status is %d", s)
		case s == -1:
			j.broken = "WRONGTYPE Operation against a key holding the wrong kind of value"
		case s < 0:
			j.broken = "CORRUPT counter " + c.layout.windows[-2-s].field()
		default:
			j.allowed, j.granted, j.spents = s&1 != 0, s>>2, rest.next(n)
			if s&2 != 0 {
				j.starts = rest.next(n)
			}
		}
		r.judged = append(r.judged, j)
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
