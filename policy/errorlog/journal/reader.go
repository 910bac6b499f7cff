package journal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/errorlog"
)

// Reader reads the error log. It is safe for concurrent use.
type Reader struct{ client redis.UniversalClient }

// NewReader returns a Reader.
func NewReader(c redis.UniversalClient) *Reader { return &Reader{client: c} }

// Question says which entries are wanted: of one key, or of all of an API.
type Question struct {
	API     string
	Key     string    // id; "" for all, and those without one
	Reasons []string  // none: every reason
	Since   time.Time // zero: as far back as there are any
	Most    int       // how many at most, the latest; 0: all
}

// Answer is what was found, by time.
type Answer struct {
	Entries []errorlog.Entry
	// Cut is set where there are older entries that Most has left out.
	Cut bool
	// Full is set where the key has as many entries as are kept of one: older ones are gone.
	Full bool
	// Others are entries, of the same API and time, that say how many requests could not be told
	// apart: perhaps some of the key. They are among Entries where no key is asked for.
	Others []errorlog.Entry
}

const (
	// readPart is how many lists are read in one round trip, of 20 KB at most.
	readPart = 100
	// clockSlack is how far servers' clocks, by which entries are told, may be from Redis', by
	// which lists are found.
	clockSlack = 10 * time.Minute
)

// Ask answers a question.
func (r *Reader) Ask(ctx context.Context, q Question) (*Answer, error) {
	a, lists := &Answer{}, ofKey(q.Key)
	if q.Key == "" {
		var err error
		if lists, err = r.lists(ctx, q.API, q.Since); err != nil {
			return nil, err
		}
	}
	for part := range slices.Chunk(lists, readPart) {
		if n := len(a.Entries); q.Most > 0 && n >= q.Most && a.Entries[n-q.Most].Time.After(part[0].last.Add(clockSlack)) {
			a.Cut = true // those of all further lists are older
			break
		}
		if err := r.add(ctx, &q, part, a); err != nil {
			return nil, err
		}
		byTime(a.Entries)
	}
	if n := len(a.Entries); q.Most > 0 && n > q.Most {
		a.Entries, a.Cut = a.Entries[n-q.Most:], true
	}
	byTime(a.Others)
	return a, nil
}

// byTime sorts entries; those of the same moment stay as they stand in their lists.
func byTime(entries []errorlog.Entry) {
	slices.SortStableFunc(entries, func(a, b errorlog.Entry) int { return a.Time.Compare(b.Time) })
}

// add adds what some lists hold of what is wanted.
func (r *Reader) add(ctx context.Context, q *Question, lists []list, a *Answer) error {
	texts, err := r.read(ctx, q.API, lists)
	if err != nil {
		return err
	}
	for i, l := range lists {
		if l.member == q.Key && len(texts[i]) >= DefaultBounds().Entries {
			a.Full = true
		}
		for _, text := range texts[i] {
			e, err := entryOf(q.API, l.member, text)
			if err != nil || !q.wants(&e) {
				continue // what somebody else has put there is no entry
			}
			if q.Key != "" && e.Others {
				a.Others = append(a.Others, e)
			} else {
				a.Entries = append(a.Entries, e)
			}
		}
	}
	return nil
}

// wants reports whether an entry is wanted, whose list is.
func (q *Question) wants(e *errorlog.Entry) bool {
	last := e.Time
	if e.Until.After(last) {
		last = e.Until
	}
	return !last.Before(q.Since) && (len(q.Reasons) == 0 || slices.Contains(q.Reasons, e.Reason))
}

// list is one of an API's, and when it was last appended to, by Redis' clock.
type list struct {
	member string
	last   time.Time
}

// ofKey returns the lists that may tell of a key: its own, and those of keys that were too many. It
// is not known when they were appended to.
func ofKey(id string) []list {
	all := []list{{member: id}}
	for _, reason := range errorlog.Reasons() {
		all = append(all, list{member: othersMark + reason})
	}
	return all
}

// lists returns those that may hold entries from since on, the one that was appended to last first.
func (r *Reader) lists(ctx context.Context, api string, since time.Time) (all []list, err error) {
	from := "-inf"
	if !since.IsZero() {
		from = fmt.Sprint(since.Add(-clockSlack).UnixMilli())
	}
	found, err := r.client.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{Key: indexKey(api), ByScore: true, Start: from, Stop: "+inf"}).Result()
	if redis.HasErrorPrefix(err, "WRONGTYPE") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("error log: read: %w", err)
	}
	for _, z := range found {
		if member, ok := z.Member.(string); ok && member != "" {
			all = append(all, list{member, time.UnixMilli(int64(z.Score))})
		}
	}
	slices.SortStableFunc(all, func(a, b list) int { return cmp.Or(b.last.Compare(a.last), cmp.Compare(a.member, b.member)) })
	return all, nil
}

// read returns what lists hold, oldest first, in one round trip.
func (r *Reader) read(ctx context.Context, api string, lists []list) ([][]string, error) {
	replies := make([]*redis.StringSliceCmd, len(lists))
	_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, l := range lists {
			replies[i] = p.LRange(ctx, listKey(api, l.member), 0, -1)
		}
		return nil
	})
	all := make([][]string, len(lists))
	for i, reply := range replies {
		texts, err := reply.Result()
		if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			return nil, fmt.Errorf("error log: read: %w", err)
		}
		all[i] = texts
	}
	return all, nil
}

// Latest returns the last entry of a key, nil if none is kept.
func (r *Reader) Latest(ctx context.Context, api, key string) (*errorlog.Entry, error) {
	texts, err := r.read(ctx, api, []list{{member: key}})
	if err != nil {
		return nil, err
	}
	for _, text := range slices.Backward(texts[0]) {
		if e, err := entryOf(api, key, text); err == nil {
			return &e, nil
		}
	}
	return nil, nil
}

// Find returns the entry of a decision, nil if none of the APIs has kept it: an allowed one is in
// the log only if its request failed, and of many alike only the first is. It looks through all
// entries of these APIs.
func (r *Reader) Find(ctx context.Context, apis []string, decision string) (*errorlog.Entry, error) {
	for _, api := range apis {
		lists, err := r.lists(ctx, api, time.Time{})
		if err != nil {
			return nil, err
		}
		for part := range slices.Chunk(lists, readPart) {
			texts, err := r.read(ctx, api, part)
			if err != nil {
				return nil, err
			}
			for i, l := range part {
				for _, text := range texts[i] {
					if e, err := entryOf(api, l.member, text); err == nil && e.Decision == decision && decision != "" {
						return &e, nil
					}
				}
			}
		}
	}
	return nil, nil
}
