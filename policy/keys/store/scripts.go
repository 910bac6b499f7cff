package store

import (
	"context"
	_ "embed"

	"github.com/redis/go-redis/v9"
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
	change, link, enlist, unmake, present, mark *redis.Script

	full map[*redis.Script]*redis.Script // of those that may take rights away, or confirm that: what a full Redis runs too
}

func newScripts() scripts {
	s := scripts{
		change: redis.NewScript(changeSource), link: redis.NewScript(linkSource),
		enlist: redis.NewScript(enlistSource), unmake: redis.NewScript(unmakeSource),
		present: redis.NewScript(presentSource), mark: redis.NewScript(markSource),
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
