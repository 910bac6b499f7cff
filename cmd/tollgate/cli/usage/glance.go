package usage

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"tollgate/policy/usage"
)

// takeView has a view say what has a row, and how far back it goes: 24 hours by hour, others by
// day.
func (o *options) takeView() error {
	switch o.view {
	case "24h":
		o.by = string(usage.ByHour)
	case "7d", "30d":
		o.by = string(usage.ByDay)
	default:
		return fmt.Errorf("--view: %q is not 24h, 7d or 30d", o.view)
	}
	o.since = o.view
	return nil
}

// glance is what a view says beside its rows.
type glance struct {
	// Days is what the access log says of the whole days that the view is about: it tells no hours
	// apart.
	Days    row   `json:"days"`
	Reasons []row `json:"reasons"` // why requests were denied on these days

	decided usage.Decided // in the time of the view
	days    usage.Measures
	from    usage.Day
}

// glanceAt asks for what a report leaves out.
func glanceAt(ctx context.Context, from *sources, q usage.Question, report *usage.Report) (*glance, error) {
	g := &glance{Reasons: []row{}, decided: report.Total.Decided, days: report.Total, from: q.From.Day()}
	q.From = q.From.Day().Hour(0)
	if report.By == usage.ByHour {
		q.By = usage.ByDay
		days := &usage.Report{By: q.By, From: q.From}
		if _, err := from.addTo(ctx, days, q); err != nil {
			return nil, err
		}
		g.days = days.Total
	}
	q.By = usage.ByReason
	reasons := &usage.Report{By: q.By, From: q.From}
	if _, err := from.addTo(ctx, reasons, q); err != nil {
		return nil, err
	}
	for _, r := range reasons.Rows("") {
		g.Reasons = append(g.Reasons, rowOf(usage.ByReason, r.Name, &r.Measures))
	}
	g.Days = rowOf(usage.ByDay, "", &g.days)
	return g, nil
}

// write prints it for people, in front of the rows.
func (g *glance) write(w io.Writer) error {
	all := g.decided.Allowed + g.decided.Denied
	if all == 0 {
		return nil
	}
	lines := [][2]string{
		{"requests", fmt.Sprintf("%s, %s denied", grouped(all), share(g.decided.Denied, all))},
		{"cost", grouped(g.decided.Cost)},
	}
	if m := &g.days; m.Observed() > 0 {
		since := " (since " + g.from.Start().Format(time.DateOnly) + ")"
		lines = append(lines,
			[2]string{"errors", fmt.Sprintf("%s 5xx, %s 4xx%s", share(m.Status[usage.Status5xx], m.Observed()), share(m.Status[usage.Status4xx], m.Observed()), since)},
			[2]string{"times", fmt.Sprintf("%s on average, %s at most, %s slow%s", millis(m.Mean()), millis(time.Duration(m.MaxMillis)*time.Millisecond), share(m.Slow, m.Observed()), since)},
			[2]string{"observed", share(m.Observed(), m.Allowed)})
	} else if m.Allowed > 0 {
		lines = append(lines, [2]string{"errors", NoLog}, [2]string{"times", NoLog})
	}
	var why []string
	for _, r := range g.Reasons {
		why = append(why, r.Name+" "+grouped(*r.Denied))
	}
	if len(why) > 0 {
		lines = append(lines, [2]string{"denied", strings.Join(why, ", ")})
	}
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "%-9s %s\n", line[0], line[1]); err != nil {
			return err
		}
	}
	return nil
}
