package usage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// By is what a report has a row for.
type By string

// The values of By.
const (
	ByRoute  By = "route"
	ByHour   By = "hour"
	ByDay    By = "day"
	ByMonth  By = "month"
	ByKey    By = "key"
	ByStatus By = "status"
	ByReason By = "reason"
)

// Bys returns all values of By.
func Bys() []By { return []By{ByRoute, ByHour, ByDay, ByMonth, ByKey, ByStatus, ByReason} }

// ParseBy reads a By. Its error names them all.
func ParseBy(text string) (By, error) {
	if by := By(text); slices.Contains(Bys(), by) {
		return by, nil
	}
	var all []string
	for _, by := range Bys() {
		all = append(all, string(by))
	}
	return "", fmt.Errorf("%q is not one of %s", text, strings.Join(all, ", "))
}

// HasSeen reports whether rows of this kind say what the log told: hours do not, and reasons are
// those of requests that the log says nothing about.
func (b By) HasSeen() bool { return b != ByHour && b != ByReason }

// Row is one line of a report. Of ByReason it has only what was denied, of ByStatus only what was
// seen.
type Row struct {
	Name string
	Measures
}

// Report adds up what subjects did. The zero value with By is ready for Add.
type Report struct {
	By    By
	From  Hour // the first hour; hours before it are left out ByHour
	Cut   bool // the days before some month's first are no longer told apart from those that were asked about, and left out
	Total Measures

	rows map[string]*Row
	last *Row           // of rows, that was added to
	days map[Day]string // their names
}

// Part returns an empty report of the same kind, to be filled beside others and merged.
func (r *Report) Part() *Report { return &Report{By: r.By, From: r.From} }

// Merge adds a part, which is void afterwards.
func (r *Report) Merge(part *Report) {
	r.Cut = r.Cut || part.Cut
	r.Total.Add(&part.Total)
	for name, row := range part.rows {
		r.row(name).Add(&row.Measures)
	}
}

// Add adds what a subject did on a day. Rows of ByKey have the name that is given.
func (r *Report) Add(name string, day Day, d *DayUsage) {
	for _, route := range d.Routes {
		if r.By == ByHour {
			r.addHours(day, route)
		} else {
			r.AddRoute(name, day, route.Route, &route.Measures)
		}
	}
	for _, reason := range d.Reasons {
		r.AddReason(reason.Reason, reason.N)
	}
}

// AddRoute adds what a subject did on a day with a route. ByHour that is not known.
func (r *Report) AddRoute(name string, day Day, route string, m *Measures) {
	switch r.By {
	case ByDay:
		name = r.textOf(day, time.DateOnly)
	case ByMonth:
		name = r.textOf(day, monthOnly)
	case ByRoute:
		name = route
	}
	r.add(name, m)
}

// AddMonth adds what a subject did with a route in a month whose days are no longer told apart.
func (r *Report) AddMonth(name string, month Month, route string, m *Measures) {
	switch r.By {
	case ByDay, ByMonth:
		name = month.Start().Format(monthOnly)
	case ByRoute:
		name = route
	}
	r.add(name, m)
}

const monthOnly = "2006-01"

func (r *Report) textOf(day Day, layout string) string {
	text, known := r.days[day]
	if !known {
		if r.days == nil {
			r.days = map[Day]string{}
		}
		text = day.Start().Format(layout)
		r.days[day] = text
	}
	return text
}

// AddReason adds requests that were denied for a reason.
func (r *Report) AddReason(reason string, n uint64) {
	if r.By == ByReason {
		r.row(reason).Denied += n
	}
}

func (r *Report) add(name string, m *Measures) {
	r.Total.Add(m)
	switch r.By {
	case ByStatus:
		for class, n := range m.Status {
			if n > 0 {
				r.row(ClassName(class)).Status[class] += n
			}
		}
	case ByReason, ByHour:
	default:
		r.row(name).Add(m)
	}
}

func (r *Report) addHours(day Day, route *RouteUsage) {
	if route.Hours == nil {
		return
	}
	for n, decided := range route.Hours {
		if hour := day.Hour(n); hour >= r.From && decided != (Decided{}) {
			r.row(hour.Start().Format("2006-01-02 15:00")).Decided.Add(decided)
			r.Total.Decided.Add(decided)
		}
	}
}

func (r *Report) row(name string) *Row {
	if r.last != nil && r.last.Name == name { // a key's days come one after the other
		return r.last
	}
	if r.rows == nil {
		r.rows = map[string]*Row{}
	}
	row := r.rows[name]
	if row == nil {
		row = &Row{Name: name}
		r.rows[name] = row
	}
	r.last = row
	return row
}

// Most is what rows are put in order by, the most first.
type Most string

// The values of Most. Errors are answers with 5xx.
const (
	MostRequests Most = "requests"
	MostDenied   Most = "denied"
	MostCost     Most = "cost"
	MostErrors   Most = "errors"
	MostSlow     Most = "slow"
)

// ParseMost reads a Most. Its error names them all.
func ParseMost(text string) (Most, error) {
	switch most := Most(text); most {
	case MostRequests, MostDenied, MostCost, MostErrors, MostSlow:
		return most, nil
	}
	return "", fmt.Errorf("%q is not one of requests, denied, cost, errors, slow", text)
}

func (m Most) of(r *Row) uint64 {
	switch m {
	case MostDenied:
		return r.Denied
	case MostCost:
		return r.Cost
	case MostErrors:
		return r.Status[Status5xx]
	case MostSlow:
		return r.Slow
	}
	return r.Allowed + r.Denied
}

// Rows returns the rows: times and classes of status in their order, others with the most first,
// MostRequests for "".
func (r *Report) Rows(most Most) []Row {
	rows := make([]Row, 0, len(r.rows))
	for _, row := range r.rows {
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		switch r.By {
		case ByHour, ByDay, ByMonth, ByStatus:
			return strings.Compare(a.Name, b.Name)
		}
		return cmp.Or(cmp.Compare(most.of(&b), most.of(&a)), strings.Compare(a.Name, b.Name))
	})
	return rows
}
