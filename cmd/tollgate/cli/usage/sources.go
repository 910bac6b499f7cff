package usage

import (
	"context"
	"time"

	"tollgate/policy"
	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
	"tollgate/policy/usage/ledger"
)

// sources are where usage is: each day is read in one of them, so that nothing counts twice.
type sources struct {
	ledger  *ledger.Reader
	history *clickhouse.Reader // nil for none
	keep    func(api string) policy.Usage
	now     time.Time
}

// addTo adds what answers a question: from the store as far back as it tells what is asked, from
// the history what is older. It returns since when there is history, if that is later than asked
// for, else 0.
func (s *sources) addTo(ctx context.Context, report *usage.Report, q usage.Question) (since usage.Day, err error) {
	for _, api := range q.APIs {
		recent := q
		recent.APIs = []string{api}
		if s.history != nil {
			told := q.ToldFrom(s.keep(api), s.now)
			if told > q.From.Day() {
				first, err := s.addHistory(ctx, report, recent, told)
				if err != nil {
					return 0, err
				}
				since, recent.From = max(since, first), told.Hour(0)
			}
		}
		if err := s.ledger.AddTo(ctx, report, recent); err != nil {
			return 0, err
		}
	}
	return since, nil
}

// addHistory adds the days before told.
func (s *sources) addHistory(ctx context.Context, report *usage.Report, q usage.Question, told usage.Day) (since usage.Day, err error) {
	q.To = told - 1
	if err := s.history.AddTo(ctx, report, q); err != nil {
		return 0, err
	}
	first, err := s.history.First(ctx, q.APIs[0])
	switch {
	case err != nil:
		return 0, err
	case first == 0: // there is none yet
		return told, nil
	case first > q.From.Day():
		return first, nil
	}
	return 0, nil
}
