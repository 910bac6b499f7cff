package usage

import (
	"time"

	"tollgate/policy"
)

// Question says what a report is about: one key, the keys of a team, or an API.
type Question struct {
	APIs []string // of the key or team, or the API itself
	Key  string   // id
	Team string   // "" for every team
	By   By       // what has a row
	From Hour
	To   Day // the last day, included
}

// OtherKeys stands in the place of a key's id for those that were too many to be told apart.
const OtherKeys = "(other keys)"

// ToldFrom returns the first day of a question that can still be told as finely as it asks by what
// is kept for so long. It is the question's own first day where nothing is missing.
func (q *Question) ToldFrom(keep policy.Usage, now time.Time) Day {
	from := q.From.Day()
	if q.By == ByHour {
		return max(from, DayOf(now.Add(-time.Duration(keep.Hours)*time.Hour)))
	}
	month := from.Month()
	whole := from == month.First() && q.By != ByDay
	if whole && month+Month(keep.Months) >= MonthOf(now) {
		return from
	}
	// Days of a month are told apart for so long after its end.
	for ; month < MonthOf(now) && !month.End().AddDate(0, 0, keep.Days).After(now); month++ {
	}
	return max(from, month.First())
}
