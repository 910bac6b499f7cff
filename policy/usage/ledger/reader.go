package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/usage"
)

// Reader reads usage. It is safe for concurrent use.
type Reader struct{ client redis.UniversalClient }

// NewReader returns a Reader.
func NewReader(c redis.UniversalClient) *Reader { return &Reader{client: c} }

// readPart is how many subjects are read in one round trip.
const readPart = 500

// readDays reads what subjects did on a day, in one round trip, and hands each that did anything to
// found. What holds something else did nothing.
func readDays(ctx context.Context, c redis.UniversalClient, subjects []usage.Subject, day usage.Day, found func(usage.Subject, *usage.DayUsage)) error {
	replies := make([]*redis.MapStringStringCmd, len(subjects))
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, s := range subjects {
			replies[i] = p.HGetAll(ctx, dayKey(s, day))
		}
		return nil
	})
	for i, s := range subjects {
		fields, err := replies[i].Result()
		switch {
		case redis.HasErrorPrefix(err, "WRONGTYPE"):
		case err != nil:
			return fmt.Errorf("usage: read: %w", err)
		case len(fields) > 0:
			found(s, parseDay(fields))
		}
	}
	return nil
}

// eachListed reads a list in parts, so that Redis serves others between them, and calls found once
// for each of its keys.
func eachListed(ctx context.Context, c redis.UniversalClient, list string, found func(team, id string) error) error {
	seen := map[string]bool{} // SSCAN may return a member twice
	for cursor := uint64(0); ; {
		members, next, err := c.SScan(ctx, list, cursor, "", 1000).Result()
		if redis.HasErrorPrefix(err, "WRONGTYPE") {
			return nil
		}
		if err != nil {
			return fmt.Errorf("usage: read: %w", err)
		}
		for _, m := range members {
			if seen[m] {
				continue
			}
			seen[m] = true
			if err := found(parseListed(m)); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// span is what of the time that a question is about is kept where.
type span struct {
	first, last usage.Day
	days        []usage.Day   // by hour, in hashes of their own
	months      []usage.Month // in records
}

func (r *Reader) span(ctx context.Context, api string, first, last usage.Day) (s span, err error) {
	s.first, s.last = first, last
	// Hashes of days live for as long as servers fold, and then for a while.
	if s.days, err = existingDays(ctx, r.client, api, max(first, last-maxHashDays), last); err != nil {
		return s, err
	}
	s.months, err = existingMonths(ctx, r.client, api, first.Month(), last.Month())
	return s, err
}

// maxHashDays is how many days back there can be hashes of days.
const maxHashDays = keepDays + 2

// each calls found for each day, or month whose days are no longer known, on which some subjects
// did something. A day that stands in both, because it is being folded, counts once.
func (r *Reader) each(ctx context.Context, s *span, subjects []usage.Subject, found func(usage.Subject, usage.Day, *usage.DayUsage), sum func(usage.Subject, usage.Month, *usage.DayUsage)) error {
	type subjectDay struct {
		usage.Subject
		day usage.Day
	}
	for part := range slices.Chunk(subjects, readPart) {
		known := map[subjectDay]bool{}
		for _, day := range s.days {
			err := readDays(ctx, r.client, part, day, func(of usage.Subject, d *usage.DayUsage) {
				known[subjectDay{of, day}] = true
				found(of, day, d)
			})
			if err != nil {
				return err
			}
		}
		for _, month := range s.months {
			first := month.First()
			for i, reply := range getMonths(ctx, r.client, month, part) {
				_, record, err := monthOf(reply)
				if errors.Is(err, errNoRecord) {
					continue
				}
				if err != nil {
					return err
				}
				for n, d := range record.Days {
					day := first + usage.Day(n-1)
					if day >= s.first && day <= s.last && !known[subjectDay{part[i], day}] {
						found(part[i], day, d)
					}
				}
				if record.Rest != nil {
					sum(part[i], month, record.Rest)
				}
			}
		}
	}
	return nil
}
