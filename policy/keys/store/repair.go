package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// RepairReport says what Repair found and put right, as numbers of keys.
type RepairReport struct {
	Checked   int `json:"checked"`   // records
	Linked    int `json:"linked"`    // a record to which no secret led: that is set again
	Unlinked  int `json:"unlinked"`  // a secret that led to no record or to that of another: removed
	Buried    int `json:"buried"`    // a delete that was interrupted: completed
	Rehashed  int `json:"rehashed"`  // a rehash that was interrupted: undone or completed
	Strays    int `json:"strays"`    // a successor that its key does not know: revoked
	Indexed   int `json:"indexed"`   // a record that a list did not name: it does now
	Unindexed int `json:"unindexed"` // a place in a list without a record: removed
	TeamSets  int `json:"team_sets"` // a place in a team's set of keys that was missing or wrong: put right
	// The keys of all these, each once, of more than 1,000 the first.
	IDs []string `json:"ids,omitempty"`
	// What Repair leaves to people, by id.
	Corrupt []string `json:"corrupt,omitempty"` // the record cannot be read
	Taken   []string `json:"taken,omitempty"`   // the secret leads to another key
}

// maxFixed is how many ids a report has, and so an entry of the audit stream.
const maxFixed = 1_000

// settled is how old something must be before its being unfinished means that it was interrupted.
const settled = time.Minute

// repairBatch is how many keys of the store are looked at in one round trip.
const repairBatch = 500

// Repair looks at the keys of one API, or of all if api is empty, and completes or undoes what was
// interrupted between two steps. It reads every key of the store once. It may run beside everything
// else, and twice. An error means that the store did not answer, and comes with what was done
// before.
func (s *Store) Repair(ctx context.Context, api string) (RepairReport, error) {
	return s.repair(ctx, api, settled)
}

func (s *Store) repair(ctx context.Context, api string, age time.Duration) (RepairReport, error) {
	now, err := s.client.Time(ctx).Result()
	if err != nil {
		return RepairReport{}, fmt.Errorf("keys: repair: %w", ReadError(ctx, "", err))
	}
	r := &repairer{store: s, api: api, before: now.Add(-age), ids: map[string]bool{}}
	err = s.scan(ctx, r.batch)
	r.report.IDs = slices.Sorted(maps.Keys(r.ids))
	slices.Sort(r.report.Corrupt)
	slices.Sort(r.report.Taken)
	r.report.Corrupt, r.report.Taken = slices.Compact(r.report.Corrupt), slices.Compact(r.report.Taken)
	if err != nil {
		return r.report, fmt.Errorf("keys: repair: %w", err)
	}
	return r.report, nil
}

// scan calls take with the names of everything in the store, some at a time and one call after the
// other.
func (s *Store) scan(ctx context.Context, take func(ctx context.Context, names []string) error) error {
	var one sync.Mutex
	walk := func(ctx context.Context, c *redis.Client) error {
		for cursor := uint64(0); ; {
			names, next, err := c.Scan(ctx, cursor, "tg:v1:*", repairBatch).Result()
			if err != nil {
				return ReadError(ctx, "", err)
			}
			one.Lock()
			err = take(ctx, names)
			one.Unlock()
			if err != nil || next == 0 {
				return err
			}
			cursor = next
		}
	}
	switch c := s.client.(type) {
	case *redis.Client:
		return walk(ctx, c)
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, walk)
	}
	return ErrNoPrimary
}

type repairer struct {
	store  *Store
	api    string // only its keys; "" for all
	before time.Time
	report RepairReport
	ids    map[string]bool // of what was put right
}

// fixed counts something that was put right, and notes which key it was about.
func (r *repairer) fixed(n *int, id string) {
	*n++
	if keys.IDProblem(id) == "" && len(r.ids) < maxFixed {
		r.ids[id] = true
	}
}

// concerns reports whether keys of the API are to be repaired.
func (r *repairer) concerns(api string) bool { return r.api == "" || r.api == api }

// batch sorts names by what they are.
func (r *repairer) batch(ctx context.Context, names []string) error {
	for len(names) > repairBatch { // the embedded store returns all at once
		if err := r.batch(ctx, names[:repairBatch]); err != nil {
			return err
		}
		names = names[repairBatch:]
	}
	var ids, digests []string
	var errs []error
	for _, name := range names {
		rest := strings.TrimPrefix(name, "tg:v1:")
		what, tag, _ := strings.Cut(rest, ":")
		tag = strings.TrimSuffix(strings.TrimPrefix(tag, "{"), "}")
		api, team, _ := strings.Cut(tag, "/")
		switch {
		case what == "key":
			ids = append(ids, tag)
		case what == "secret":
			digests = append(digests, tag)
		case what == "index" && r.concerns(api):
			errs = append(errs, r.index(ctx, Filter{API: api, Team: team}))
		case what == "clients" && r.concerns(api):
			errs = append(errs, r.index(ctx, Filter{API: api, Clients: true}))
		case what == "team" && r.concerns(api):
			errs = append(errs, r.teamSet(ctx, api, team))
		}
	}
	return errors.Join(append(errs, r.records(ctx, ids), r.secrets(ctx, digests))...)
}

// related is what the store has beside one record.
type related struct {
	owner       *redis.StringCmd
	lists       []*redis.FloatCmd
	listed      *redis.StringCmd
	predecessor *redis.StringCmd
}

// records looks at records and what leads to them.
func (r *repairer) records(ctx context.Context, ids []string) error {
	all, err := r.store.ReadAll(ctx, ids)
	if err != nil {
		return err
	}
	var ks []*keys.Key
	for i, f := range all {
		var corrupt *keys.CorruptError
		if errors.As(f.Err, &corrupt) && r.api == "" {
			r.report.Corrupt = append(r.report.Corrupt, ids[i])
		}
		if f.Err == nil && r.concerns(f.Key.API) {
			ks = append(ks, f.Key)
		}
	}
	r.report.Checked += len(ks)
	around := make([]related, len(ks))
	r.store.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, k := range ks {
			around[i] = look(ctx, p, k)
		}
		return nil
	})
	for i, k := range ks {
		if err := r.record(ctx, k, around[i]); err != nil && IsUncertain(err) {
			return err
		}
	}
	return nil
}

func look(ctx context.Context, p redis.Pipeliner, k *keys.Key) related {
	a := related{owner: p.Get(ctx, secretKey(k.Digest))}
	for _, list := range indexKeys(k) {
		a.lists = append(a.lists, p.ZScore(ctx, list, k.ID))
	}
	if k.Team != "" {
		a.listed = p.HGet(ctx, teamKeysKey(k.API, k.Team), k.ID)
	}
	if k.RotatedFrom != "" {
		a.predecessor = p.Get(ctx, recordKey(k.RotatedFrom))
	}
	return a
}

// record puts right what is wrong with one key. An error that is not uncertain means that somebody
// else has changed it meanwhile: then it is not in the state that was seen.
func (r *repairer) record(ctx context.Context, k *keys.Key, a related) error {
	for _, step := range []func(context.Context, *keys.Key, related) (done bool, err error){
		r.rehash, r.secret, r.orphan, r.lists, r.teamEntry,
	} {
		if done, err := step(ctx, k, a); done || err != nil {
			return err
		}
	}
	return nil
}

// rehash retires the other digest of an interrupted rehash: the record says which of the two holds.
func (r *repairer) rehash(ctx context.Context, k *keys.Key, _ related) (bool, error) {
	if k.Other == (keys.Digest{}) || k.UpdatedAt.After(r.before) {
		return false, nil
	}
	next := k.Clone()
	next.Version, next.Other = k.Version+1, keys.Digest{}
	if err := r.store.change(ctx, r.store.client, k, next); err != nil {
		return false, err
	}
	if err := r.store.retire(ctx, k.Other, k.ID); err != nil {
		return false, err
	}
	r.fixed(&r.report.Rehashed, k.ID)
	// A rehash that was under way after all could have come that far meanwhile.
	if now, err := r.store.Get(ctx, k.ID); err == nil && now.Digest == k.Other {
		_, _, err := r.store.link(ctx, k.Other, k.ID)
		return true, err
	}
	k.Version, k.Other = next.Version, keys.Digest{}
	return false, nil
}

// secret sets the way to a record again, or completes the delete that has removed it.
func (r *repairer) secret(ctx context.Context, k *keys.Key, a related) (done bool, err error) {
	owner, err := a.owner.Result()
	p := parseSecretPlace(owner)
	switch {
	case err != nil && IsWrongType(err):
		r.report.Taken = append(r.report.Taken, k.ID)
		return false, nil
	case err != nil && !errors.Is(err, redis.Nil):
		return false, ReadError(ctx, k.ID, err)
	case k.Status == keys.Deleted:
		return true, nil
	case owner == k.ID:
		return false, nil
	case owner != "" && (p.ID != k.ID || p.Deleted && k.Status != keys.Revoked):
		r.report.Taken = append(r.report.Taken, k.ID)
		return false, nil
	case k.Status == keys.Revoked && !p.Former:
		if err := r.store.makeTombstones(ctx, k); err != nil {
			return false, err
		}
		r.fixed(&r.report.Buried, k.ID)
		return true, nil
	}
	owner, linked, err := r.store.link(ctx, k.Digest, k.ID)
	if err != nil {
		return false, err
	}
	if !linked && owner != k.ID {
		r.report.Taken = append(r.report.Taken, k.ID)
		return false, nil
	}
	// It could have been revoked and deleted, or rehashed, since it was read.
	if now, err := r.store.Get(ctx, k.ID); errors.Is(err, ErrNoKey) || err == nil && !now.AnswersTo(k.Digest) {
		return true, r.store.retire(ctx, k.Digest, k.ID)
	}
	r.fixed(&r.report.Linked, k.ID)
	return false, nil
}

// orphan revokes a successor that its key does not know: the command that made it ended before it
// printed the secret. One that was used came here in another way.
func (r *repairer) orphan(ctx context.Context, k *keys.Key, a related) (done bool, err error) {
	if a.predecessor == nil || k.Status == keys.Revoked || !k.LastUsed.IsZero() || k.CreatedAt.IsZero() || k.CreatedAt.After(r.before) {
		return false, nil
	}
	data, err := a.predecessor.Bytes()
	if err != nil {
		return false, nil // it is gone, or cannot be read: then nobody can tell
	}
	old, err := decodeRecord(data)
	if err != nil || old.Status == keys.Deleted || old.RotatedTo == k.ID {
		return false, nil
	}
	next := k.Clone()
	next.Status, next.UpdatedAt = keys.Revoked, time.Now().UTC()
	if _, err := r.store.Write(ctx, k, next); err != nil {
		return false, err
	}
	r.fixed(&r.report.Strays, k.ID)
	return true, nil
}

// lists puts a record into the lists that do not name it.
func (r *repairer) lists(ctx context.Context, k *keys.Key, a related) (done bool, err error) {
	missing := false
	for _, reply := range a.lists {
		switch err := reply.Err(); {
		case errors.Is(err, redis.Nil):
			missing = true
		case err != nil:
			return false, ReadError(ctx, k.ID, err)
		}
	}
	if !missing {
		return false, nil
	}
	_, err = r.store.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, apisKey, k.API)
		for _, list := range indexKeys(k) {
			p.ZAdd(ctx, list, redis.Z{Member: k.ID})
		}
		return nil
	})
	if err != nil {
		return false, ReadError(ctx, k.ID, err)
	}
	r.fixed(&r.report.Indexed, k.ID)
	return false, nil
}

// teamEntry makes a team's set say of a key what its record says.
func (r *repairer) teamEntry(ctx context.Context, k *keys.Key, a related) (done bool, err error) {
	if a.listed == nil {
		return false, nil
	}
	text, err := a.listed.Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, teamSetError(ctx, k, err)
	}
	l, ok := parseTeamEntry(text)
	if ok && l.matches(k) {
		return false, nil
	}
	if ok && l.version > k.Version && time.Unix(l.since, 0).After(r.before) {
		return false, nil // the change that it was noted for is under way
	}
	if err := r.store.relist(ctx, k.ID, l.version); err != nil {
		return false, err
	}
	r.fixed(&r.report.TeamSets, k.ID)
	return false, nil
}

// secrets looks at what secrets lead to.
func (r *repairer) secrets(ctx context.Context, digests []string) error {
	replies := make([]*redis.StringCmd, len(digests))
	r.store.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, d := range digests {
			replies[i] = p.Get(ctx, "tg:v1:secret:"+d)
		}
		return nil
	})
	var owners []string
	var found []keys.Digest
	for i, reply := range replies {
		owner, err := reply.Result()
		if err != nil && !errors.Is(err, redis.Nil) && !IsWrongType(err) {
			return ReadError(ctx, "", err)
		}
		if p := parseSecretPlace(owner); p.Former || p.Deleted {
			continue // it stays so; a record that is still there has it looked at
		}
		var d keys.Digest
		if n, bad := hex.Decode(d[:], []byte(digests[i][:min(len(digests[i]), 2*len(d))])); err == nil && bad == nil && n == len(d) {
			owners, found = append(owners, owner), append(found, d)
		}
	}
	all, err := r.store.ReadAll(ctx, owners)
	if err != nil {
		return err
	}
	for i, f := range all {
		if f.Err == nil && (!r.concerns(f.Key.API) || f.Key.Status != keys.Deleted && f.Key.AnswersTo(found[i])) {
			continue
		}
		if f.Err != nil && !errors.Is(f.Err, ErrNoKey) {
			continue // the record of the owner is corrupt: people decide
		}
		if errors.Is(f.Err, ErrDeleted) {
			if err := r.store.tombstoneLink(ctx, found[i], owners[i]); err != nil {
				return err
			}
			r.fixed(&r.report.Buried, owners[i])
			continue
		}
		done, err := r.store.unlink(ctx, found[i], owners[i])
		if err != nil {
			return err
		}
		if done {
			r.fixed(&r.report.Unlinked, owners[i])
		}
	}
	return nil
}

// index takes out of the list of a filter what has no record that belongs there.
func (r *repairer) index(ctx context.Context, f Filter) error {
	for after := ""; ; {
		ids, end, err := r.store.ids(ctx, f.listKey(f.API), after, repairBatch)
		if err != nil {
			return err
		}
		all, err := r.store.ReadAll(ctx, ids)
		if err != nil {
			return err
		}
		for i, found := range all {
			after = ids[i]
			if listedRightly(found, f) {
				continue
			}
			if err := r.unindex(ctx, f, ids[i]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// listedRightly gives a record that cannot be read the benefit of the doubt.
func listedRightly(found Found, f Filter) bool {
	if found.Err != nil {
		return !errors.Is(found.Err, ErrNoKey)
	}
	k := found.Key
	return k.API == f.API && k.IsClient() == f.Clients && (f.Team == "" || k.Team == f.Team)
}

func (r *repairer) unindex(ctx context.Context, f Filter, id string) error {
	list := f.listKey(f.API)
	if err := r.store.client.ZRem(ctx, list, id).Err(); err != nil {
		return ReadError(ctx, id, err)
	}
	// A create could have written the record meanwhile.
	again, err := r.store.ReadAll(ctx, []string{id})
	if err != nil {
		return err
	}
	if listedRightly(again[0], f) {
		if err := r.store.client.ZAdd(ctx, list, redis.Z{Member: id}).Err(); err != nil {
			return ReadError(ctx, id, err)
		}
		return nil
	}
	r.fixed(&r.report.Unindexed, id)
	return nil
}

// teamSet takes out of a team's set what has no record. What a record says otherwise, listing has
// seen to.
func (r *repairer) teamSet(ctx context.Context, api, team string) error {
	for cursor := uint64(0); ; {
		fields, next, err := r.store.client.HScan(ctx, teamKeysKey(api, team), cursor, "", repairBatch).Result()
		if err != nil {
			return memberError(ctx, api, team, err)
		}
		var ids, values []string
		for i := 0; i+1 < len(fields); i += 2 {
			ids, values = append(ids, fields[i]), append(values, fields[i+1])
		}
		all, err := r.store.ReadAll(ctx, ids)
		if err != nil {
			return err
		}
		for i, f := range all {
			l, ok := parseTeamEntry(values[i])
			if listedRightly(f, Filter{API: api, Team: team}) || ok && time.Unix(l.since, 0).After(r.before) {
				continue
			}
			if err := r.store.client.HDel(ctx, teamKeysKey(api, team), ids[i]).Err(); err != nil {
				return memberError(ctx, api, team, err)
			}
			r.fixed(&r.report.TeamSets, ids[i])
		}
		if next == 0 {
			return nil
		}
		cursor = next
	}
}
