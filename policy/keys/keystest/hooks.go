package keystest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// ErrDied is the error of a command that a hook ended before it was sent.
var ErrDied = errors.New("died here")

// DieBefore is a hook that, while armed, ends every command with an argument that starts with What
// before it is sent.
type DieBefore struct {
	What  string
	Armed atomic.Bool
}

// DieAlways returns a DieBefore that is armed.
func DieAlways(what string) *DieBefore {
	d := &DieBefore{What: what}
	d.Armed.Store(true)
	return d
}

// DialHook changes nothing.
func (d *DieBefore) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook ends a command with ErrDied.
func (d *DieBefore) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if d.hits(cmd) {
			cmd.SetErr(ErrDied)
			return ErrDied
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook sends what stands before the first command that is ended, and nothing after
// it.
func (d *DieBefore) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for i, cmd := range cmds {
			if !d.hits(cmd) {
				continue
			}
			if i > 0 {
				_ = next(ctx, cmds[:i])
			}
			for _, unsent := range cmds[i:] {
				unsent.SetErr(ErrDied)
			}
			return ErrDied
		}
		return next(ctx, cmds)
	}
}

func (d *DieBefore) hits(cmd redis.Cmder) bool {
	return d.Armed.Load() && hasArgument(cmd, d.What)
}

// hasArgument reports whether an argument, or the name, starts so.
func hasArgument(cmd redis.Cmder, start string) bool {
	for _, arg := range cmd.Args() {
		if s, ok := arg.(string); ok && strings.HasPrefix(s, start) {
			return true
		}
	}
	return false
}

// Overtake is a hook that does something just before the N-th command is sent that has this name,
// if there is one, and an argument that starts so. It counts down to it; at an N of 0 or less
// nothing is done.
type Overtake struct {
	N        int
	Name     string
	Argument string
	Do       func()

	mu   sync.Mutex // of N: commands come from several goroutines
	done atomic.Bool
}

// Done reports whether it has begun to do it.
func (o *Overtake) Done() bool { return o.done.Load() }

// DialHook changes nothing.
func (o *Overtake) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook counts a command.
func (o *Overtake) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		o.meet(cmd)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook counts each command of a pipeline before the first is sent.
func (o *Overtake) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			o.meet(cmd)
		}
		return next(ctx, cmds)
	}
}

func (o *Overtake) meet(cmd redis.Cmder) {
	if o.Name != "" && !strings.EqualFold(cmd.Name(), o.Name) || !hasArgument(cmd, o.Argument) {
		return
	}
	o.mu.Lock()
	o.N--
	now := o.N == 0
	o.mu.Unlock()
	if now {
		o.done.Store(true)
		o.Do()
	}
}

// TripCounter counts the round trips of GETs; a new connection has some of its own.
type TripCounter struct{ N atomic.Int64 }

// DialHook changes nothing.
func (h *TripCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook counts a GET.
func (h *TripCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "get" {
			h.N.Add(1)
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook counts a pipeline that begins with a GET.
func (h *TripCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "get" {
			h.N.Add(1)
		}
		return next(ctx, cmds)
	}
}
