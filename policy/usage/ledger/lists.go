package ledger

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// listing is a list on its way.
type listing struct {
	key   string
	reply *redis.IntCmd
}

// putOnLists adds to a pipeline what is to be put on lists: the keys of these additions, and what
// could not be put there before. Lists come before hashes, so that a server that dies between the
// two leaves no hash that nobody finds.
func (w *Writer) putOnLists(ctx context.Context, p redis.Pipeliner, list []*addition) (all []listing) {
	for _, a := range list {
		if !a.List {
			continue
		}
		key := listKey(a.API, a.Day)
		members := w.lists[key]
		if members == nil {
			members = map[string]bool{}
			w.lists[key] = members
		}
		members[listed(a.Team, a.Key)] = true
	}
	for key, members := range w.lists {
		args := make([]any, 0, len(members))
		for m := range members {
			args = append(args, m)
		}
		all = append(all, listing{key, p.SAdd(ctx, key, args...)})
	}
	return all
}

// noteListed forgets what is on its list now. The rest is put there by the next trip.
func (w *Writer) noteListed(all []listing) {
	for _, l := range all {
		if l.reply.Err() == nil {
			delete(w.lists, l.key)
		}
	}
}
