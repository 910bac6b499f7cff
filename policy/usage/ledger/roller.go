package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/usage"
)

const (
	// rollInterval is how often a server looks for something to fold.
	rollInterval = 5 * time.Minute
	// lockTime is for how long a server that dies keeps others from folding. One that folds asks
	// for more time with each part.
	lockTime = time.Minute
	// foldPart is how many subjects are folded at a time.
	foldPart = 200
	// foldMargin is how much longer than it has to the hash of a day stays, for servers whose
	// clocks are behind.
	foldMargin = 10 * time.Minute
)

// errLockLost says that another server folds now.
var errLockLost = errors.New("usage: another server folds")

// renewSource gives the server that has the lock more time.
//
// KEYS[1] the lock. ARGV: its holder's token, ms. Reply: 1 if it is still the holder.
const renewSource = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`

// releaseSource gives the lock back.
const releaseSource = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`

// Retention returns how long usage of an API is kept.
type Retention func(api string) policy.Usage

// Roller folds days that are over into months, and removes what is too old. Any number of servers
// may run one on the same store: a lock lets one at a time, and without it they would do the same
// twice, and no harm. Times are those of the store's clock.
type Roller struct {
	client                       redis.UniversalClient
	keep                         Retention
	offset                       func() time.Duration
	ticks                        func() (<-chan time.Time, func())
	token                        string
	replaceMonth, renew, release *redis.Script
	stats                        rollerStats
}

type rollerStats struct {
	folded, removed, broken atomic.Uint64
}

// RollerStats are counts since the start.
type RollerStats struct {
	Folded  uint64 // days of a subject that are in its month now
	Removed uint64 // days and months of a subject that are no longer kept
	Broken  uint64 // records that cannot be read, and were left as they are
}

// NewRoller returns a Roller. offset is added to the store's clock; nil means 0.
func NewRoller(c redis.UniversalClient, keep Retention, offset func() time.Duration) *Roller {
	if offset == nil {
		offset = func() time.Duration { return 0 }
	}
	r := &Roller{
		client: c, keep: keep, offset: offset, token: rand.Text(),
		replaceMonth: redis.NewScript(replaceSource), renew: redis.NewScript(renewSource), release: redis.NewScript(releaseSource),
	}
	r.ticks = func() (<-chan time.Time, func()) {
		t := time.NewTicker(rollInterval)
		return t.C, t.Stop
	}
	return r
}

// Stats returns the counts.
func (r *Roller) Stats() RollerStats {
	return RollerStats{Folded: r.stats.folded.Load(), Removed: r.stats.removed.Load(), Broken: r.stats.broken.Load()}
}

// Run folds what is due, now and every five minutes, until ctx ends. failed, which may be nil, is
// told of a store that does not answer.
func (r *Roller) Run(ctx context.Context, failed func(error)) {
	ticks, stop := r.ticks()
	defer stop()
	for {
		if err := r.Roll(ctx); err != nil && ctx.Err() == nil && failed != nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

// Roll folds what is due, unless another server does.
func (r *Roller) Roll(ctx context.Context) error {
	ok, err := r.client.SetNX(ctx, lockKey, r.token, lockTime).Result()
	if err != nil {
		return fmt.Errorf("usage: fold: %w", err)
	}
	if !ok {
		return nil
	}
	err = r.roll(ctx)
	// Also where ctx has ended: else nobody folds for as long as the lock lives.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), addTimeout)
	defer cancel()
	if released := r.release.Run(limited, r.client, []string{lockKey}, r.token).Err(); err == nil && released != nil {
		err = fmt.Errorf("usage: fold: %w", released)
	}
	if errors.Is(err, errLockLost) {
		return nil
	}
	return err
}

func (r *Roller) roll(ctx context.Context) error {
	now, err := r.client.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("usage: fold: %w", err)
	}
	now = now.Add(r.offset())
	apis, err := r.client.SMembers(ctx, apisKey).Result()
	if err != nil {
		return fmt.Errorf("usage: fold: %w", err)
	}
	for _, api := range apis {
		keep := r.keep(api)
		if err := errors.Join(r.foldDays(ctx, api, now, &keep), r.endMonths(ctx, api, now, &keep)); err != nil {
			return err
		}
	}
	return nil
}

// hold asks for more time.
func (r *Roller) hold(ctx context.Context) error {
	n, err := r.renew.Run(ctx, r.client, []string{lockKey}, r.token, lockTime.Milliseconds()).Int()
	switch {
	case err != nil:
		return fmt.Errorf("usage: fold: %w", err)
	case n == 0:
		return errLockLost
	}
	return nil
}

// foldDays folds the days of an API that are no longer told by hour.
func (r *Roller) foldDays(ctx context.Context, api string, now time.Time, keep *policy.Usage) error {
	last := usage.DayOf(now.Add(-time.Duration(keep.Hours)*time.Hour-foldMargin)) - 1
	days, err := existingDays(ctx, r.client, api, last-keepDays, last)
	if err != nil {
		return err
	}
	for _, day := range days {
		if err := r.foldDay(ctx, api, day, keep.Months); err != nil {
			return err
		}
	}
	return nil
}

// existingDays returns the days, of some, of which there are hashes of an API's usage.
func existingDays(ctx context.Context, c redis.UniversalClient, api string, first, last usage.Day) (days []usage.Day, err error) {
	var names []string
	for day := first; day <= last; day++ {
		names = append(names, listKey(api, day), dayKey(usage.Subject{API: api}, day))
	}
	found, err := existing(ctx, c, names)
	for i := 0; i+1 < len(found); i += 2 {
		if found[i] || found[i+1] {
			days = append(days, first+usage.Day(i/2))
		}
	}
	return days, err
}

// foldDay folds a day of all subjects of an API. The list goes last: until then the day is folded
// again, which does nothing where there are no hashes any more.
func (r *Roller) foldDay(ctx context.Context, api string, day usage.Day, keepMonths int) error {
	part := []usage.Subject{{API: api}, {API: api, Others: true}}
	var members []any
	fold := func() error {
		err := errors.Join(r.hold(ctx), r.foldPart(ctx, api, day, keepMonths, part, members))
		part, members = part[:0], members[:0]
		return err
	}
	err := eachListed(ctx, r.client, listKey(api, day), func(team, id string) error {
		part, members = append(part, usage.Subject{API: api, Key: id}), append(members, listed(team, id))
		if len(part) < foldPart {
			return nil
		}
		return fold()
	})
	if err == nil {
		err = fold()
	}
	if err != nil {
		return err
	}
	if err := r.client.Del(ctx, listKey(api, day)).Err(); err != nil {
		return fmt.Errorf("usage: fold: %w", err)
	}
	return nil
}

func (r *Roller) foldPart(ctx context.Context, api string, day usage.Day, keepMonths int, part []usage.Subject, members []any) error {
	if len(part) == 0 {
		return nil
	}
	month, found := day.Month(), map[usage.Subject]*usage.DayUsage{}
	var subjects []usage.Subject
	err := readDays(ctx, r.client, part, day, func(s usage.Subject, d *usage.DayUsage) {
		found[s] = d
		subjects = append(subjects, s)
	})
	if err != nil || len(subjects) == 0 {
		return err
	}
	if len(members) > 0 {
		if err := r.client.SAdd(ctx, monthListKey(api, month), members...).Err(); err != nil {
			return fmt.Errorf("usage: fold: %w", err)
		}
	}
	err = r.changeMonths(ctx, month, keepMonths, subjects, func(c *change) bool {
		if c.record.Days == nil {
			c.record.Days = map[int]*usage.DayUsage{}
		}
		c.record.Days[day.OfMonth()] = found[c.Subject]
		return true
	})
	if err != nil {
		return err
	}
	r.stats.folded.Add(uint64(len(subjects)))
	keys := make([]string, len(subjects))
	for i, s := range subjects {
		keys[i] = dayKey(s, day)
	}
	return r.remove(ctx, keys)
}

// remove deletes keys of any nodes of a cluster.
func (r *Roller) remove(ctx context.Context, keys []string) error {
	replies, _ := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			p.Del(ctx, key)
		}
		return nil
	})
	for _, reply := range replies {
		if err := reply.Err(); err != nil {
			return fmt.Errorf("usage: fold: %w", err)
		}
	}
	return nil
}

// endMonths makes one sum of the days of months that are over for long enough, and removes months
// that are too old.
func (r *Roller) endMonths(ctx context.Context, api string, now time.Time, keep *policy.Usage) error {
	this := usage.MonthOf(now)
	months, err := existingMonths(ctx, r.client, api, this-usage.Month(keep.Months)-oldMonths, this-1)
	if err != nil {
		return err
	}
	trimmed, err := r.client.HGetAll(ctx, trimmedKey).Result()
	if err != nil {
		return fmt.Errorf("usage: fold: %w", err)
	}
	for _, month := range months {
		field := api + "/" + month.String()
		switch {
		case this-month > usage.Month(keep.Months):
			err = r.endMonth(ctx, api, month, field)
		case trimmed[field] == "" && !month.End().AddDate(0, 0, keep.Days).After(now):
			err = r.trimMonth(ctx, api, month, keep.Months, field)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// oldMonths is how many months beyond those that are kept are looked for: on a real Redis they end
// by themselves.
const oldMonths = 12

// existingMonths returns the months, of some, of which there are records of an API's usage.
func existingMonths(ctx context.Context, c redis.UniversalClient, api string, first, last usage.Month) (months []usage.Month, err error) {
	var names []string
	for month := first; month <= last; month++ {
		names = append(names, monthListKey(api, month), monthKey(usage.Subject{API: api}, month))
	}
	found, err := existing(ctx, c, names)
	for i := 0; i+1 < len(found); i += 2 {
		if found[i] || found[i+1] {
			months = append(months, first+usage.Month(i/2))
		}
	}
	return months, err
}

// existing says which of some keys there are, of any nodes of a cluster.
func existing(ctx context.Context, c redis.UniversalClient, names []string) (found []bool, err error) {
	replies := make([]*redis.IntCmd, len(names))
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			replies[i] = p.Exists(ctx, name)
		}
		return nil
	})
	for _, reply := range replies {
		n, err := reply.Result()
		if err != nil {
			return nil, fmt.Errorf("usage: read: %w", err)
		}
		found = append(found, n > 0)
	}
	return found, nil
}

func (r *Roller) trimMonth(ctx context.Context, api string, month usage.Month, keepMonths int, field string) error {
	err := r.eachPart(ctx, api, month, func(part []usage.Subject) error {
		return r.changeMonths(ctx, month, keepMonths, part, func(c *change) bool {
			c.record.Trim()
			return c.before != ""
		})
	})
	if err == nil {
		err = r.client.HSet(ctx, trimmedKey, field, 1).Err()
	}
	return err
}

// endMonth removes a month. The record of the API goes last: it says that there is still something.
func (r *Roller) endMonth(ctx context.Context, api string, month usage.Month, field string) error {
	err := r.eachPart(ctx, api, month, func(part []usage.Subject) error {
		keys := make([]string, 0, len(part))
		for _, s := range part {
			if s.Key != "" {
				keys = append(keys, monthKey(s, month))
			}
		}
		r.stats.removed.Add(uint64(len(keys)))
		return r.remove(ctx, keys)
	})
	if err != nil {
		return err
	}
	err = r.remove(ctx, []string{monthListKey(api, month), monthKey(usage.Subject{API: api, Others: true}, month), monthKey(usage.Subject{API: api}, month)})
	if err != nil {
		return err
	}
	return r.client.HDel(ctx, trimmedKey, field).Err()
}

// eachPart goes through the subjects of a month, its API first.
func (r *Roller) eachPart(ctx context.Context, api string, month usage.Month, do func([]usage.Subject) error) error {
	part := []usage.Subject{{API: api}, {API: api, Others: true}}
	next := func() error {
		err := errors.Join(r.hold(ctx), do(part))
		part = part[:0]
		return err
	}
	err := eachListed(ctx, r.client, monthListKey(api, month), func(_, id string) error {
		if part = append(part, usage.Subject{API: api, Key: id}); len(part) < foldPart {
			return nil
		}
		return next()
	})
	if err == nil {
		err = next()
	}
	return err
}
