package store

import (
	"context"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// A full Redis refuses scripts that write, but for those that say beforehand that it must not. A
// script that takes rights away is run plain first, and with that flag if Redis refuses it: the
// embedded store, which is never full, does not know the flag. AllowOOM is the first line of such a
// script.
const AllowOOM = "#!lua flags=allow-oom\n"

// IsFull reports whether Redis has refused a write because its memory is full.
func IsFull(err error) bool { return redis.HasErrorPrefix(err, "OOM") }

// evenFull returns what runs a script as Script.Run does, also in a full Redis.
func (s *Store) evenFull(script *redis.Script) func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd {
	return func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd {
		reply := script.Run(ctx, c, keys, args...)
		if IsFull(reply.Err()) {
			reply = s.scripts.full[script].Run(ctx, c, keys, args...)
		}
		return reply
	}
}

// runFull runs those calls again that a full Redis has refused and must not, in one round trip.
func (s *Store) runFull(ctx context.Context, calls []scriptCall, replies []*redis.Cmd) {
	var refused []int
	for i, c := range calls {
		if c.takes && IsFull(replies[i].Err()) {
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

// takesRights reports whether a key with this status has fewer rights than before.
func takesRights(s keys.Status) bool {
	return s == keys.Revoked || s == keys.Inactive || s == keys.Deleted
}
