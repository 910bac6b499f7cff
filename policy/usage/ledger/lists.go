package ledger

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// listing is what is put on a list.
type listing struct {
	members []any
	reply   *redis.IntCmd
}

// maxUnlisted bounds what waits for a list, by list. A key that is used again comes again.
const maxUnlisted = 10_000

// putOnLists adds to a pipeline what is to be put on lists: the keys of these additions, and what
// could not be put there before. Lists come before hashes, so that a server that dies between the
// two leaves no hash that nobody finds.
func (w *Writer) putOnLists(ctx context.Context, p redis.Pipeliner, list []*addition) map[string]*listing {
	all := w.unlisted
	if all == nil {
		all = map[string]*listing{}
	}
	apis := map[string]bool{}
	for _, a := range list {
		if !apis[a.API] { // with each trip, so that it is there after the store was emptied, too
			apis[a.API] = true
			p.SAdd(ctx, apisKey, a.API)
		}
		if !a.List {
			continue
		}
		key := w.listKey(a.API, a.Day)
		if all[key] == nil {
			all[key] = &listing{}
		}
		all[key].members = append(all[key].members, listed(a.Team, a.Key))
	}
	for key, l := range all {
		l.reply = p.SAdd(ctx, key, l.members...)
	}
	return all
}

// noteListed keeps what was not put on its list, for the next trip, and says why it was not.
func (w *Writer) noteListed(all map[string]*listing) (err error) {
	w.unlisted = nil
	for key, l := range all {
		failed := l.reply.Err()
		if failed == nil || redis.HasErrorPrefix(failed, "WRONGTYPE") {
			delete(all, key)
			continue
		}
		err = failed
		l.members = l.members[max(len(l.members)-maxUnlisted, 0):]
	}
	if len(all) > 0 {
		w.unlisted = all
	}
	return err
}
