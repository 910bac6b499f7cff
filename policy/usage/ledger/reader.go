package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

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
	var replies []*redis.MapStringStringCmd
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		replies = askDays(ctx, p, subjects, day)
		return nil
	})
	return tellDays(replies, subjects, found)
}

func askDays(ctx context.Context, p redis.Pipeliner, subjects []usage.Subject, day usage.Day) []*redis.MapStringStringCmd {
	replies := make([]*redis.MapStringStringCmd, len(subjects))
	for i, s := range subjects {
		replies[i] = p.HGetAll(ctx, dayKey(s, day))
	}
	return replies
}

func tellDays(replies []*redis.MapStringStringCmd, subjects []usage.Subject, found func(usage.Subject, *usage.DayUsage)) error {
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

// readers is how many parts, or lists, are read at once: while one is taken apart here, Redis
// answers others.
const readers = 4

// each adds to a report what subjects did in a span.
func (r *Reader) each(ctx context.Context, s *span, subjects []usage.Subject, report *usage.Report) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(readers)
	var mu sync.Mutex
	for part := range slices.Chunk(subjects, readPart) {
		work.Go(func() error {
			own := report.Part()
			if err := r.part(ctx, s, part, own); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			report.Merge(own)
			return nil
		})
	}
	return work.Wait()
}

// part adds what some subjects did, in one round trip. A day that stands in a hash and in the
// month's record, because it is being folded, counts once.
func (r *Reader) part(ctx context.Context, s *span, part []usage.Subject, report *usage.Report) error {
	ofDays, ofMonths := make([][]*redis.MapStringStringCmd, len(s.days)), make([][]*redis.StringCmd, len(s.months))
	_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, day := range s.days {
			ofDays[i] = askDays(ctx, p, part, day)
		}
		for i, month := range s.months {
			ofMonths[i] = askMonths(ctx, p, month, part)
		}
		return nil
	})
	days := make([]map[usage.Subject]*usage.DayUsage, len(s.days))
	for i, day := range s.days {
		days[i] = map[usage.Subject]*usage.DayUsage{}
		if err := tellDays(ofDays[i], part, func(of usage.Subject, d *usage.DayUsage) { days[i][of] = d }); err != nil {
			return err
		}
		for of, d := range days[i] {
			report.Add(rowName(of), day, d)
		}
	}
	counted := func(of usage.Subject, day usage.Day) bool {
		i := slices.Index(s.days, day)
		return i >= 0 && days[i][of] != nil
	}
	for i, month := range s.months {
		if err := s.addMonth(month, part, ofMonths[i], counted, report); err != nil {
			return err
		}
	}
	return nil
}

// addMonth adds the records of a month, but for days that are counted already. What is no record
// says nothing.
func (s *span) addMonth(month usage.Month, part []usage.Subject, replies []*redis.StringCmd, counted func(usage.Subject, usage.Day) bool, report *usage.Report) error {
	first := month.First()
	for i, reply := range replies {
		data, err := reply.Bytes()
		if errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE") {
			continue
		}
		if err != nil {
			return fmt.Errorf("usage: read: %w", err)
		}
		of, name := part[i], rowName(part[i])
		// The day's number is 0 for the sum of those that are no longer told apart.
		wanted := func(number int) (day usage.Day, ok bool) {
			if number == 0 {
				report.Cut = report.Cut || first < s.first
				return first, first >= s.first
			}
			day = first + usage.Day(number-1)
			return day, day >= s.first && day <= s.last && !counted(of, day)
		}
		_ = usage.WalkMonth(data, func(number int, route string, m *usage.Measures) {
			switch day, ok := wanted(number); {
			case !ok:
			case number == 0:
				report.AddMonth(name, month, route, m)
			default:
				report.AddRoute(name, day, route, m)
			}
		}, func(number int, reason string, n uint64) {
			if _, ok := wanted(number); ok {
				report.AddReason(reason, n)
			}
		})
	}
	return nil
}
