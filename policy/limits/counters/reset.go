package counters

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"time"

	"tollgate/policy/connect"
	"tollgate/policy/limits"
)

//go:embed reset.lua
var resetSource string

// ResetACL is what Reset and Peek need: for people who look after limits, not for spends.
func ResetACL() connect.ACL {
	return connect.ACL{
		Commands: slices.Concat(PeekACL().Commands, []string{"evalsha", "eval", "hset", "hdel"}),
		Keys:     []string{"tg:v1:count:*", "%R~tg:v1:slots:*"},
	}
}

// Reset makes what is spent of each of the windows for a limit id what replicas hold of it, and
// returns what was spent and held before, in the windows that are in force. What they hold goes
// back as usual. A replica may believe an earlier refusal meanwhile, see Leases.Drop. Errors: a
// *BrokenError for a window or a value that is none, and nothing is reset then; any other means
// that the store did not answer.
func (s *Store) Reset(ctx context.Context, id string, windows []limits.Window) (before []limits.State, held []int64, err error) {
	if err := (&limits.Spend{ID: id, Windows: windows}).Validate(); err != nil {
		return nil, nil, &limits.BrokenError{Err: err}
	}
	args := []any{s.offset().Milliseconds()}
	for _, w := range windows {
		args = append(args, field(w))
	}
	reply, err := s.resets.Run(ctx, s.client, []string{countKey(id)}, args...).Slice()
	if err != nil {
		return nil, nil, fmt.Errorf("limits: reset: %w", err)
	}
	ms, _ := reply[0].(int64)
	if len(reply) != 1+2*len(windows) || ms < 0 {
		problem := "the store's answer is too short"
		if i := -ms - 1; i >= 0 && i < int64(len(windows)) {
			problem = fmt.Sprintf("window %q: the stored value is no counter", windows[i].Name)
		}
		return nil, nil, &limits.BrokenError{Err: errors.New("limits: reset: " + problem)}
	}
	return inForce(windows, reply[1:], time.UnixMilli(ms).Unix())
}
