package server

import (
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/limits"
)

// refusal is what Redis says instead of an answer.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

// What a user may not do is told of that operation alone, until it has succeeded; what the store
// itself does not do is not.
func TestRights(t *testing.T) {
	for _, missing := range []error{
		refusal("NOPERM this user has no permissions"),
		fmt.Errorf("limits: spend: %w", refusal("ERR The user executing the script can't run this command or subcommand")),
		&limits.BrokenError{Err: errors.New("no hash")},
	} {
		r := &rights{}
		if note(&r.count, missing) || !errors.Is(r.missing(connect.Spend), missing) {
			t.Errorf("%v: %v", missing, r.missing(connect.Spend))
		}
		if err := errors.Join(r.missing(connect.LookUp), r.missing(connect.ReadLimits)); err != nil {
			t.Errorf("another operation: %v", err)
		}
		for _, other := range []error{refusal("OOM command not allowed"), redis.ErrClosed} {
			if note(&r.count, other) || r.missing(connect.Spend) != nil {
				t.Errorf("%v: %v", other, r.missing(connect.Spend))
			}
		}
		if !note(&r.count, nil) {
			t.Error("it is tried again though it has succeeded")
		}
	}
}
