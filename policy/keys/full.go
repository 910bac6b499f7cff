package keys

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// A full Redis refuses scripts that write, but for those that say beforehand that it must not. What takes a right away says so,
// once the other form was refused: the embedded store, which is never full, does not know how to read it.
const inFull = "#!lua flags=allow-oom\n"

const auditSource = `return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', ARGV[2], ARGV[3])`

// isFull reports whether Redis has refused a write because its memory is full.
func isFull(err error) bool { return redis.HasErrorPrefix(err, "OOM") }

// takes reports whether a key with this status has fewer rights than before.
func (s Status) takes() bool { return s == Revoked || s == Inactive || s == Deleted }

// takes reports whether what is done takes rights away.
func (a Action) takes() bool {
	switch a {
	case ActionRevoke, ActionDeactivate, ActionDelete, ActionRemoveMember:
		return true
	}
	return false
}

// evenFull returns what runs a script as Script.Run does, also in a full Redis.
func (s *Store) evenFull(script *redis.Script) func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd {
	return func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd {
		reply := script.Run(ctx, c, keys, args...)
		if isFull(reply.Err()) {
			reply = s.scripts.full[script].Run(ctx, c, keys, args...)
		}
		return reply
	}
}

// runFull runs those calls again that a full Redis has refused and must not, in one round trip.
func (s *Store) runFull(ctx context.Context, calls []call, replies []*redis.Cmd) {
	var refused []int
	for i, c := range calls {
		if c.takes && isFull(replies[i].Err()) {
			refused = append(refused, i)
		}
	}
	if len(refused) == 0 {
		return
	}
	s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, i := range refused {
			replies[i] = s.scripts.full[calls[i].script].Eval(ctx, p, calls[i].keys, calls[i].args...)
		}
		return nil
	})
}
