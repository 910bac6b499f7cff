package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// Cap is the most keys of one environment that a team may have active at once. The two keys of a
// rotation, which share their counters, count as one while both work, and the older one alone if
// its successor does not. Each further key that shares those counters counts for itself.
type Cap struct {
	Environment string
	Plan        string // whose cap it is; for the error
	Most        int

	Always bool // refuses also a key that takes no new place
}

// ErrCap is what every *CapError is.
var ErrCap = errors.New("keys: the plan allows no more keys")

// CapError says that a team has as many active keys as its plan allows.
type CapError struct {
	Cap
	API, Team string
	Active    int // keys that count
}

// Error says how many there are and what to do.
func (e *CapError) Error() string {
	in := ""
	if e.Environment != "" {
		in = " in environment " + keys.Quote(e.Environment)
	}
	return fmt.Sprintf("%v: team %s of %s has %s%s, and plan %s allows %d; revoke or deactivate one first",
		ErrCap, keys.Quote(e.Team), e.API, keys.Plural(e.Active, "active key"), in, keys.Quote(e.Plan), e.Most)
}

// Is makes errors.Is find ErrCap.
func (e *CapError) Is(target error) bool { return target == ErrCap }

// CountsForCap reports whether the key is one of the active ones that a Cap limits, until its grace
// is over.
func CountsForCap(k *keys.Key) bool { return k.Status == keys.Active }

// teamEntryOf is what a team's set says of the key, whatever its version.
func teamEntryOf(k *keys.Key) teamEntry {
	l := teamEntry{counts: CountsForCap(k), limitID: k.LimitID, environment: k.Environment}
	if !k.RetiresAt.IsZero() {
		l.end = max(k.RetiresAt.UnixMilli(), 1)
	}
	if l.limitID == k.ID {
		l.limitID = ownLimitID
	}
	return l
}

// ownLimitID stands for the counters of the key's own id, which most keys have.
const ownLimitID = "="

func (s *Store) enlistCall(k *keys.Key, limit *Cap) scriptCall {
	l, mark, most, always := teamEntryOf(k), "-", -1, 0
	if l.counts {
		mark = "+"
	}
	if limit != nil {
		most = max(limit.Most, 0)
		if limit.Always {
			always = 1
		}
	}
	args := []any{k.ID, k.Version, mark, l.end, l.limitID, l.environment, most, always}
	return scriptCall{script: s.scripts.enlist, keys: []string{teamKeysKey(k.API, k.Team)}, args: args, takes: !l.counts}
}

// enlist notes a key in its team's set as it is in k, if the cap allows. A key without a team is in
// none, so it is under no cap: the caller has to see to that.
func (s *Store) enlist(ctx context.Context, k *keys.Key, limit *Cap) error {
	if k.Team == "" {
		return nil
	}
	reply, err := s.run(ctx, []scriptCall{s.enlistCall(k, limit)})[0].Int64Slice()
	if err != nil {
		return teamSetError(ctx, k, err)
	}
	if reply[0] == 0 {
		return &CapError{Cap: *limit, API: k.API, Team: k.Team, Active: int(reply[1])}
	}
	return nil
}

// enlistAll notes the keys that no cap has been asked for.
func (s *Store) enlistAll(ctx context.Context, all []*creation) {
	var noting []*creation
	var calls []scriptCall
	for _, c := range all {
		if c.err == nil && !c.enlisted && c.k.Team != "" {
			noting = append(noting, c)
			calls = append(calls, s.enlistCall(c.k, nil))
		}
	}
	for i, reply := range s.run(ctx, calls) {
		if err := reply.Err(); err != nil {
			noting[i].err = teamSetError(ctx, noting[i].k, err)
		}
	}
}

func teamSetError(ctx context.Context, k *keys.Key, err error) error {
	return memberError(ctx, k.API, k.Team, err)
}

// unlist takes a key out of the lists and the set that it was put into, but for those of stands,
// which has the same id.
func (s *Store) unlist(ctx context.Context, k, stands *keys.Key) error {
	keep := indexKeys(stands)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, list := range indexKeys(k) {
			if i < len(keep) && keep[i] == list {
				continue
			}
			p.ZRem(ctx, list, k.ID)
			if i == 1 {
				p.HDel(ctx, teamKeysKey(k.API, k.Team), k.ID)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keys: %s stays in a list: %w", k.ID, ReadError(ctx, k.ID, err))
	}
	return nil
}

// teamEntry is what a team's set holds of one key.
type teamEntry struct {
	version     int64
	since       int64 // Unix seconds
	counts      bool
	end         int64 // Unix milliseconds; 0 = none
	limitID     string
	environment string
}

func parseTeamEntry(value string) (l teamEntry, ok bool) {
	parts := strings.SplitN(value, " ", 6)
	if len(parts) != 6 || parts[2] != "+" && parts[2] != "-" {
		return teamEntry{}, false
	}
	version, err1 := strconv.ParseInt(parts[0], 10, 64)
	since, err2 := strconv.ParseInt(parts[1], 10, 64)
	end, err3 := strconv.ParseInt(parts[3], 10, 64)
	return teamEntry{version, since, parts[2] == "+", end, parts[4], parts[5]}, errors.Join(err1, err2, err3) == nil
}

// matches reports whether the entry is that of k, whatever version it was noted for.
func (l teamEntry) matches(k *keys.Key) bool {
	l.version, l.since = 0, 0
	return l == teamEntryOf(k)
}
