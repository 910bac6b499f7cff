package usage

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"tollgate/cmd/tollgate/chart"
	"tollgate/policy/usage"
)

const (
	// maxBars is how many rows a picture has at most: more are no picture.
	maxBars = 100
	// maxLabel is the longest label, in characters.
	maxLabel = 28
)

// writeChart draws the rows into a file.
func (o *output) writeChart(path string) error {
	c, err := o.picture()
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(c.Write(file), file.Close())
}

// picture is the rows as bars: what was allowed and denied, or what was seen of each class of
// status.
func (o *output) picture() (*chart.Bars, error) {
	by := o.report.By
	rows := o.withoutGaps()
	if len(rows) > maxBars {
		return nil, fmt.Errorf("%d rows are more than the %d of a picture: ask for less, or by something else", len(rows), maxBars)
	}
	last := (o.to + 1).Start().Add(-time.Second)
	c := &chart.Bars{
		Title: "Requests by " + string(by) + ": " + o.about, LabelWidth: 220, ValueWidth: 270, Legend: "blue: allowed · red: denied",
		Note: fmt.Sprintf("%s to %s UTC", o.report.From.Start().Format("2006-01-02 15:04"), last.Format(time.DateOnly)),
	}
	total := &o.report.Total
	switch {
	case by == usage.ByStatus:
		c.Legend = "blue: as the access log says · red: 5xx"
	case by == usage.ByReason:
		c.Legend = "red: denied"
	case by.HasSeen() && total.Observed() > 0:
		c.Legend += " · 5xx and time: of the " + share(total.Observed(), total.Allowed) + " of the allowed requests that the access log told of"
	}
	if note := o.note(); note != "" {
		c.Note += "; " + note
	}
	for i := range rows {
		c.Bars = append(c.Bars, o.bar(&rows[i]))
	}
	return c, nil
}

func (o *output) bar(r *usage.Row) chart.Bar {
	b := chart.Bar{Label: cut(r.Name)}
	part := func(n uint64, fill chart.Fill) {
		b.Parts = append(b.Parts, chart.Part{Value: float64(n), Fill: fill})
	}
	switch by := o.report.By; by {
	case usage.ByStatus:
		fill := chart.Emphasis
		if r.Status[usage.Status5xx] > 0 {
			fill = chart.Warning
		}
		part(r.Observed(), fill)
		b.Text = grouped(r.Observed()) + ", " + share(r.Observed(), o.report.Total.Observed())
	case usage.ByReason:
		part(r.Denied, chart.Warning)
		b.Text = grouped(r.Denied)
	default:
		part(r.Allowed, chart.Emphasis)
		part(r.Denied, chart.Warning)
		b.Text = grouped(r.Allowed + r.Denied)
		if r.Denied > 0 {
			b.Text += ", " + share(r.Denied, r.Allowed+r.Denied) + " denied"
		}
		if r.Observed() > 0 {
			b.Text += ", " + share(r.Status[usage.Status5xx], r.Observed()) + " 5xx, " + millis(r.Mean())
		}
	}
	return b
}

// withoutGaps returns the rows, with those between the first and the last of hours and days in
// which nothing was counted.
func (o *output) withoutGaps() []usage.Row {
	layout, step := time.DateOnly, 24*time.Hour
	switch o.report.By {
	case usage.ByHour:
		layout, step = "2006-01-02 15:04", time.Hour
	case usage.ByDay:
	default:
		return o.rows
	}
	var all []usage.Row
	var next time.Time // that the row after the last one has if nothing is missing
	for _, r := range o.rows {
		at, err := time.Parse(layout, r.Name)
		if err != nil { // a month whose days are no longer told apart
			all = append(all, r)
			continue
		}
		for ; !next.IsZero() && next.Before(at) && len(all) <= maxBars; next = next.Add(step) {
			all = append(all, usage.Row{Name: next.Format(layout)})
		}
		all, next = append(all, r), at.Add(step)
	}
	return all
}

// cut shortens a label.
func cut(label string) string {
	if utf8.RuneCountInString(label) <= maxLabel {
		return label
	}
	return string([]rune(label)[:maxLabel-1]) + "…"
}

// grouped is a number with a comma between thousands.
func grouped(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}
