package ledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/usage"
)

// Question says what a report is about: one key, the keys of a team, or an API.
type Question struct {
	API  string   // of the key or team, or the API itself
	Key  string   // id
	Team string   // "" for every team
	By   usage.By // what has a row
	From usage.Hour
	To   usage.Day // the last day, included
}

// Ask answers a question. Nothing was counted where the report has no rows.
func (r *Reader) Ask(ctx context.Context, q Question) (*usage.Report, error) {
	report := &usage.Report{By: q.By, From: q.From}
	for day := q.From.Day(); day <= q.To; day++ {
		subjects, err := r.subjects(ctx, &q, listKey(q.API, day))
		if err != nil {
			return nil, err
		}
		err = r.Days(ctx, subjects, day, func(s usage.Subject, d *usage.DayUsage) {
			report.Add(rowName(s), day, d)
		})
		if err != nil {
			return nil, err
		}
	}
	return report, nil
}

// OtherKeys stands in the place of a key's id for those that were too many to be told apart.
const OtherKeys = "(other keys)"

func rowName(s usage.Subject) string {
	if s.Others {
		return OtherKeys
	}
	return s.Key
}

// subjects returns whose usage answers the question, of the keys on a list.
func (r *Reader) subjects(ctx context.Context, q *Question, list string) ([]usage.Subject, error) {
	switch {
	case q.Key != "":
		return []usage.Subject{{API: q.API, Key: q.Key}}, nil
	case q.Team == "" && q.By != usage.ByKey:
		return []usage.Subject{{API: q.API}}, nil
	}
	var all []usage.Subject
	if q.Team == "" {
		all = append(all, usage.Subject{API: q.API, Others: true})
	}
	err := r.eachListed(ctx, list, func(team, id string) {
		if q.Team == "" || team == q.Team {
			all = append(all, usage.Subject{API: q.API, Key: id})
		}
	})
	return all, err
}

// eachListed reads a list in parts, so that Redis serves others between them. A member can come
// twice.
func (r *Reader) eachListed(ctx context.Context, list string, found func(team, id string)) error {
	seen := map[string]bool{}
	for cursor := uint64(0); ; {
		members, next, err := r.client.SScan(ctx, list, cursor, "", 1000).Result()
		if redis.HasErrorPrefix(err, "WRONGTYPE") {
			return nil
		}
		if err != nil {
			return fmt.Errorf("usage: read: %w", err)
		}
		for _, m := range slices.Compact(members) {
			if !seen[m] {
				seen[m] = true
				found(parseListed(m))
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
