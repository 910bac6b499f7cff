package ledger

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"tollgate/policy/usage"
)

// Question is usage.Question, which is asked elsewhere, too.
type Question = usage.Question

// Ask answers a question. Nothing was counted where the report has no rows.
func (r *Reader) Ask(ctx context.Context, q Question) (*usage.Report, error) {
	report := &usage.Report{By: q.By, From: q.From}
	if err := r.AddTo(ctx, report, q); err != nil {
		return nil, err
	}
	return report, nil
}

// AddTo adds to a report what answers a question.
func (r *Reader) AddTo(ctx context.Context, report *usage.Report, q Question) error {
	for _, api := range q.APIs {
		if err := r.add(ctx, report, &q, api); err != nil {
			return err
		}
	}
	return nil
}

// APIs returns the APIs of which there is usage, sorted.
func (r *Reader) APIs(ctx context.Context) ([]string, error) {
	apis, err := r.client.SMembers(ctx, apisKey).Result()
	if err != nil {
		return nil, fmt.Errorf("usage: read: %w", err)
	}
	slices.Sort(apis)
	return apis, nil
}

// add adds to a report what the question asks of one API.
func (r *Reader) add(ctx context.Context, report *usage.Report, q *Question, api string) error {
	s, err := r.span(ctx, api, q.From.Day(), q.To)
	if err != nil {
		return err
	}
	if q.By == usage.ByHour {
		s.months = nil
	}
	subjects, err := r.subjects(ctx, q, api, &s)
	if err != nil {
		return err
	}
	return r.each(ctx, &s, subjects, report)
}

func rowName(s usage.Subject) string {
	if s.Others {
		return usage.OtherKeys
	}
	return s.Key
}

// subjects returns whose usage answers the question.
func (r *Reader) subjects(ctx context.Context, q *Question, api string, s *span) ([]usage.Subject, error) {
	switch {
	case q.Key != "":
		return []usage.Subject{{API: api, Key: q.Key}}, nil
	case q.Team == "" && q.By != usage.ByKey:
		return []usage.Subject{{API: api}}, nil
	}
	var all []usage.Subject
	if q.Team == "" {
		all = append(all, usage.Subject{API: api, Others: true})
	}
	var lists []string
	for _, day := range s.days {
		lists = append(lists, listKey(api, day))
	}
	for _, month := range s.months {
		lists = append(lists, monthListKey(api, month))
	}
	var mu sync.Mutex
	known := map[string]bool{}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(readers)
	for _, list := range lists {
		work.Go(func() error {
			return eachListed(ctx, r.client, list, func(team, id string) error {
				mu.Lock()
				defer mu.Unlock()
				if !known[id] && (q.Team == "" || team == q.Team) {
					known[id] = true
					all = append(all, usage.Subject{API: api, Key: id})
				}
				return nil
			})
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}
