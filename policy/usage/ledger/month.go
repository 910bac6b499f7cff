package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/usage"
)

// replaceSource replaces the record of a month if it is still the one that was read, so that of two
// servers that change it at once neither undoes what the other has done.
//
// KEYS[1] the record. ARGV: what was read, ” for none; the new record; when it ends, in Unix ms.
// Reply: 1 if it was replaced.
const replaceSource = `
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 1`

// change is the record of a month on its way to another one.
type change struct {
	usage.Subject
	month  usage.Month
	before string // as it was read
	record *usage.MonthRecord
	reply  *redis.Cmd
}

// errChanged says that others have changed a record so often that it was not changed.
var errChanged = errors.New("usage: the record of a month is changed by others all the time")

// changeMonths changes the record of a month of each subject for which alter does not return false.
// One that cannot be read is left as it is, and counted.
func (r *Roller) changeMonths(ctx context.Context, month usage.Month, keepMonths int, subjects []usage.Subject, alter func(*change) bool) error {
	left := subjects
	for range 5 {
		changes, err := r.readMonths(ctx, month, left)
		if err != nil {
			return err
		}
		changes = slices.DeleteFunc(changes, func(c change) bool { return !alter(&c) })
		if left, err = r.replace(ctx, changes, keepMonths); err != nil || len(left) == 0 {
			return err
		}
	}
	return errChanged
}

func (r *Roller) readMonths(ctx context.Context, month usage.Month, subjects []usage.Subject) ([]change, error) {
	replies := getMonths(ctx, r.client, month, subjects)
	changes := make([]change, 0, len(subjects))
	for i, s := range subjects {
		text, record, err := monthOf(replies[i])
		if errors.Is(err, errNoRecord) {
			r.stats.broken.Add(1)
			continue
		}
		if err != nil {
			return nil, err
		}
		changes = append(changes, change{Subject: s, month: month, before: text, record: record})
	}
	return changes, nil
}

// replace returns whose records have changed meanwhile.
func (r *Roller) replace(ctx context.Context, changes []change, keepMonths int) (changed []usage.Subject, err error) {
	unseen := func(c *change) bool { return c.reply == nil || redis.HasErrorPrefix(c.reply.Err(), "NOSCRIPT") }
	for _, eval := range []func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd{r.replaceMonth.EvalSha, r.replaceMonth.Eval} {
		_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range changes {
				if c := &changes[i]; unseen(c) {
					ends := (c.month + usage.Month(keepMonths) + 1).Start().UnixMilli()
					c.reply = eval(ctx, p, []string{monthKey(c.Subject, c.month)}, c.before, c.record.Encode(), ends)
				}
			}
			return nil
		})
	}
	for i := range changes {
		c := &changes[i]
		n, err := c.reply.Int()
		if err != nil {
			return nil, fmt.Errorf("usage: fold: %w", err)
		}
		if n == 0 {
			changed = append(changed, c.Subject)
		}
	}
	return changed, nil
}

// errNoRecord says that something else stands in the place of a record.
var errNoRecord = errors.New("usage: not a record of a month")

// getMonths reads the records of a month of some subjects in one round trip.
func getMonths(ctx context.Context, c redis.UniversalClient, month usage.Month, subjects []usage.Subject) []*redis.StringCmd {
	var replies []*redis.StringCmd
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		replies = askMonths(ctx, p, month, subjects)
		return nil
	})
	return replies
}

func askMonths(ctx context.Context, p redis.Pipeliner, month usage.Month, subjects []usage.Subject) []*redis.StringCmd {
	replies := make([]*redis.StringCmd, len(subjects))
	for i, s := range subjects {
		replies[i] = p.Get(ctx, monthKey(s, month))
	}
	return replies
}

// monthOf reads a reply of getMonths. Errors: errNoRecord, or the store's.
func monthOf(reply *redis.StringCmd) (string, *usage.MonthRecord, error) {
	text, err := reply.Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", &usage.MonthRecord{}, nil
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return "", nil, errNoRecord
	case err != nil:
		return "", nil, fmt.Errorf("usage: read: %w", err)
	}
	record, err := usage.DecodeMonth([]byte(text))
	if err != nil {
		return "", nil, errNoRecord
	}
	return text, record, nil
}
