package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// Filter says which keys List returns; what is empty means every.
type Filter struct {
	API         string
	Team        string
	Plan        string
	Environment string
	Status      []keys.Status // tombstones are never listed
	OlderThan   time.Time     // created before this; a key whose creation is not known is older than everything
	UnusedSince time.Time     // created before this and not used since
	Clients     bool          // the records of clients, in place of keys
}

// The number of keys on a page of List.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// maxRead bounds the records that one List reads.
const maxRead = 1000

// apisKey is the set of APIs that have or had keys, or records of clients.
const apisKey = "tg:v1:apis"

// indexKey is the list of the ids of an API, or of a team of it: a ZSET in which all scores are 0.
// No API's name has a slash.
func indexKey(api, team string) string {
	if team == "" {
		return "tg:v1:index:{" + api + "}"
	}
	return "tg:v1:index:{" + teamTag(api, team) + "}"
}

// clientsKey is the list of the ids of the records of an API's clients, as indexKey is that of its
// keys.
func clientsKey(api string) string { return "tg:v1:clients:{" + api + "}" }

// listKey is the list of what a filter with this API finds.
func (f *Filter) listKey(api string) string {
	if f.Clients {
		return clientsKey(api)
	}
	return indexKey(api, f.Team)
}

// indexKeys are the lists that name k: that of its API, and that of its team if it has one; of a
// client that of its API's clients alone.
func indexKeys(k *keys.Key) []string {
	if k.IsClient() {
		return []string{clientsKey(k.API)}
	}
	lists := []string{indexKey(k.API, "")}
	if k.Team != "" {
		lists = append(lists, indexKey(k.API, k.Team))
	}
	return lists
}

func (f *Filter) matches(k *keys.Key) bool {
	is := func(want, has string) bool { return want == "" || want == has }
	switch {
	case k.Status == keys.Deleted, k.IsClient() != f.Clients, len(f.Status) > 0 && !slices.Contains(f.Status, k.Status):
	case !is(f.API, k.API), !is(f.Team, k.Team), !is(f.Plan, k.Plan), !is(f.Environment, k.Environment):
	case !f.OlderThan.IsZero() && !k.CreatedAt.Before(f.OlderThan):
	case !f.UnusedSince.IsZero() && !(k.CreatedAt.Before(f.UnusedSince) && k.LastUsed.Before(f.UnusedSince)):
	default:
		return true
	}
	return false
}

// List returns up to limit keys, or records of clients (0 means DefaultPage, at most MaxPage) in
// the order of API and id, after the cursor, which is empty for the start and else what an earlier
// List of the same Filter returned as next; next is empty at the end. The work of one call is
// bounded, so a page may be short, or empty, while there is a next. Records that cannot be read are
// left out and named, as *CorruptError, in an error that comes beside the others and next. Other
// errors: a *FieldError for the cursor; any other means that the store did not answer, and comes
// alone.
func (s *Store) List(ctx context.Context, f Filter, cursor string, limit int) (page []*keys.Key, next string, err error) {
	if limit <= 0 {
		limit = DefaultPage
	}
	l := &lister{store: s, filter: f, limit: min(limit, MaxPage), budget: maxRead}
	api, after, err := l.start(ctx, cursor)
	if err != nil {
		return nil, "", err
	}
	for i, name := range l.apis {
		if name < api {
			continue
		}
		if name != api {
			after = ""
		}
		last, more, err := l.read(ctx, name, after)
		if err != nil {
			return nil, "", err
		}
		full := len(l.page) >= l.limit || l.budget <= 0
		switch {
		case more:
			return l.page, name + "/" + last, errors.Join(l.corrupt...)
		case full && i+1 < len(l.apis):
			return l.page, l.apis[i+1] + "/", errors.Join(l.corrupt...)
		}
	}
	return l.page, "", errors.Join(l.corrupt...)
}

type lister struct {
	store   *Store
	filter  Filter
	limit   int
	budget  int // records that may still be read
	apis    []string
	page    []*keys.Key
	corrupt []error
}

// start finds out which APIs are listed, and where the cursor stands.
func (l *lister) start(ctx context.Context, cursor string) (api, after string, err error) {
	if l.filter.API != "" {
		l.apis = []string{l.filter.API}
	} else if l.apis, err = l.store.APIs(ctx); err != nil {
		return "", "", err
	}
	if cursor == "" {
		return "", "", nil
	}
	api, after, ok := strings.Cut(cursor, "/")
	if !ok || keys.APIProblem(api) != "" || after != "" && keys.IDProblem(after) != "" || l.filter.API != "" && l.filter.API != api {
		return "", "", &keys.FieldError{Field: "cursor", Problem: keys.Quote(cursor) + " is not what a list with this filter returned"}
	}
	return api, after, nil
}

// APIs returns the APIs that have or had keys, or records of clients, sorted.
func (s *Store) APIs(ctx context.Context) ([]string, error) {
	apis, err := s.client.SMembers(ctx, apisKey).Result()
	if err != nil {
		return nil, fmt.Errorf("keys: list the APIs: %w", ReadError(ctx, "", err))
	}
	slices.Sort(apis)
	return apis, nil
}

// read reads keys of one API until the page is full, the budget spent or the list at its end; more
// says that it is not.
func (l *lister) read(ctx context.Context, api, after string) (last string, more bool, err error) {
	for last = after; ; {
		room := l.limit - len(l.page)
		if room <= 0 || l.budget <= 0 {
			return last, true, nil
		}
		n := min(max(room, DefaultPage), l.budget)
		ids, end, err := l.store.ids(ctx, l.filter.listKey(api), last, n)
		if err != nil {
			return "", false, err
		}
		l.budget -= len(ids)
		found, err := l.store.ReadAll(ctx, ids)
		if err != nil {
			return "", false, err
		}
		for i, r := range found {
			if len(l.page) == l.limit {
				return last, true, nil
			}
			last = ids[i]
			var corrupt *keys.CorruptError
			switch {
			case errors.As(r.Err, &corrupt):
				l.corrupt = append(l.corrupt, r.Err)
			case r.Err == nil && l.filter.matches(r.Key):
				l.page = append(l.page, r.Key)
			}
		}
		if end {
			return last, false, nil
		}
	}
}

// ids returns up to n ids of a list after the one given; end says that there are no more.
func (s *Store) ids(ctx context.Context, list, after string, n int) (ids []string, end bool, err error) {
	from := "-"
	if after != "" {
		from = "(" + after
	}
	// One more tells whether this is the end.
	ids, err = s.client.ZRangeByLex(ctx, list, &redis.ZRangeBy{Min: from, Max: "+", Count: int64(n) + 1}).Result()
	if err != nil {
		return nil, false, fmt.Errorf("keys: read %s: %w", list, ReadError(ctx, list, err))
	}
	if len(ids) > n {
		return ids[:n], false, nil
	}
	return ids, true, nil
}

// Found is a key that was read by its id, or why not.
type Found struct {
	Key *keys.Key
	raw []byte
	Err error // as Get has it, but only about this key
}

// ReadAll reads keys by their ids in one round trip. Its own error means that the store did not
// answer.
func (s *Store) ReadAll(ctx context.Context, ids []string) ([]Found, error) {
	type reply struct{ record, used *redis.StringCmd }
	replies := make([]reply, len(ids))
	s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			replies[i] = reply{p.Get(ctx, recordKey(id)), p.Get(ctx, usedKey(id))}
		}
		return nil
	})
	all := make([]Found, len(ids))
	for i, id := range ids {
		data, err := replies[i].record.Bytes()
		if errors.Is(err, redis.Nil) {
			all[i].Err = ErrNoKey
			continue
		}
		var corrupt *keys.CorruptError
		if err != nil {
			if err = ReadError(ctx, id, err); !errors.As(err, &corrupt) {
				return nil, err
			}
			all[i].Err = err
			continue
		}
		used, err := lastUsed(replies[i].used)
		if err != nil {
			return nil, ReadError(ctx, id, err)
		}
		all[i] = decodeFound(id, data, used)
	}
	return all, nil
}

func decodeFound(id string, data []byte, used time.Time) Found {
	k, err := decodeRecord(data)
	switch {
	case err != nil:
		return Found{raw: data, Err: &keys.CorruptError{ID: id, Err: err}}
	case k.ID != id:
		return Found{raw: data, Err: &keys.CorruptError{ID: id, Err: errors.New("it holds another id")}}
	case k.IsTombstone():
		return Found{raw: data, Key: k, Err: ErrDeleted}
	}
	k.LastUsed = used
	return Found{Key: k, raw: data}
}
