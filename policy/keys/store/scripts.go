package store

import (
	"context"
	_ "embed"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

//go:embed lua/change.lua
var changeSource string

//go:embed lua/link.lua
var linkSource string

//go:embed lua/enlist.lua
var enlistSource string

// The two keys of one API key are in different slots of a cluster, so a script may touch only one
// of them.
const unmakeSource = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`

type scripts struct {
	change, link, enlist, unmake, present, mark, reset *redis.Script

	full map[*redis.Script]*redis.Script // of those that may take rights away, or confirm that: what a full Redis runs too
}

func newScripts() scripts {
	s := scripts{
		change: redis.NewScript(changeSource), link: redis.NewScript(linkSource),
		enlist: redis.NewScript(enlistSource), unmake: redis.NewScript(unmakeSource),
		present: redis.NewScript(presentSource), mark: redis.NewScript(markSource), reset: redis.NewScript(resetSource),
	}
	s.full = map[*redis.Script]*redis.Script{
		s.change: redis.NewScript(AllowOOM + changeSource), s.link: redis.NewScript(AllowOOM + linkSource),
		s.enlist: redis.NewScript(AllowOOM + enlistSource), s.present: redis.NewScript(AllowOOM + presentSource),
	}
	return s
}

// scriptCall is one run of a script on one slot.
type scriptCall struct {
	script *redis.Script
	keys   []string
	args   []any
	takes  bool // rights away
}

// run runs calls in one round trip, and in a second one those that met a server which had not seen
// the script. The error of each is in its reply.
func (s *Store) run(ctx context.Context, calls []scriptCall) []*redis.Cmd {
	replies := make([]*redis.Cmd, len(calls))
	s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, c := range calls {
			replies[i] = c.script.EvalSha(ctx, p, c.keys, c.args...)
		}
		return nil
	})
	var unseen []int
	for i := range calls {
		if redis.HasErrorPrefix(replies[i].Err(), "NOSCRIPT") {
			unseen = append(unseen, i)
		}
	}
	if len(unseen) > 0 {
		s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, i := range unseen {
				replies[i] = calls[i].script.Eval(ctx, p, calls[i].keys, calls[i].args...)
			}
			return nil
		})
	}
	s.runFull(ctx, calls, replies)
	return replies
}

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
