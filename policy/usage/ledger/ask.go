package ledger

import (
	"context"

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
	s, err := r.span(ctx, q.API, q.From.Day(), q.To)
	if err != nil {
		return nil, err
	}
	if q.By == usage.ByHour {
		s.months = nil
	}
	subjects, err := r.subjects(ctx, &q, &s)
	if err != nil {
		return nil, err
	}
	err = r.each(ctx, &s, subjects,
		func(of usage.Subject, day usage.Day, d *usage.DayUsage) { report.Add(rowName(of), day, d) },
		func(of usage.Subject, month usage.Month, d *usage.DayUsage) {
			if month.First() < s.first {
				report.Cut = true
				return
			}
			report.AddMonth(rowName(of), month, d)
		})
	return report, err
}

// OtherKeys stands in the place of a key's id for those that were too many to be told apart.
const OtherKeys = "(other keys)"

func rowName(s usage.Subject) string {
	if s.Others {
		return OtherKeys
	}
	return s.Key
}

// subjects returns whose usage answers the question.
func (r *Reader) subjects(ctx context.Context, q *Question, s *span) ([]usage.Subject, error) {
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
	var lists []string
	for _, day := range s.days {
		lists = append(lists, listKey(q.API, day))
	}
	for _, month := range s.months {
		lists = append(lists, monthListKey(q.API, month))
	}
	known := map[string]bool{}
	for _, list := range lists {
		err := eachListed(ctx, r.client, list, func(team, id string) error {
			if !known[id] && (q.Team == "" || team == q.Team) {
				known[id] = true
				all = append(all, usage.Subject{API: q.API, Key: id})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
