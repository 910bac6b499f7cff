package bench

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// bar is one bar of a chart: a value with the range it was measured in, and the
// line it should stay below (0 = none).
type bar struct {
	label    string
	value    Stat
	limit    float64
	emphasis bool
}

// chart is a picture of bars, from 0.
type chart struct {
	title, note, unit string
	bars              []bar
}

// The sizes of a chart, in pixels.
const (
	chartWidth = 860
	labelWidth = 330
	valueWidth = 130
	barHeight  = 18
	barStep    = 30
	headHeight = 62
)

// write draws the chart as SVG.
func (c *chart) write(w io.Writer) error {
	greatest := 0.0
	for _, b := range c.bars {
		greatest = max(greatest, b.value.Max, b.limit)
	}
	if greatest == 0 {
		greatest = 1
	}
	x := func(v float64) float64 { return labelWidth + v/greatest*(chartWidth-labelWidth-valueWidth) }
	height := headHeight + barStep*len(c.bars) + 34
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", chartWidth, height, chartWidth, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	fmt.Fprintf(&b, `<text x="16" y="26" font-size="16" font-weight="bold" fill="#1f2933">%s</text>`+"\n", html.EscapeString(c.title))
	fmt.Fprintf(&b, `<text x="16" y="46" fill="#52606d">%s</text>`+"\n", html.EscapeString(c.note))
	for i, bar := range c.bars {
		y := headHeight + barStep*i
		fill := "#9aa5b1"
		if bar.emphasis {
			fill = "#2f6fde"
		}
		middle := y + barHeight/2
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#1f2933">%s</text>`+"\n", labelWidth-10, y+14, html.EscapeString(bar.label))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", labelWidth, y, max(x(bar.value.Median)-labelWidth, 0), barHeight, fill)
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#1f2933"/>`+"\n", x(bar.value.Min), middle, x(bar.value.Max), middle)
		if bar.limit > 0 {
			fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#d64545" stroke-width="2"/>`+"\n", x(bar.limit), y-3, x(bar.limit), y+barHeight+3)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" fill="#1f2933">%s%s</text>`+"\n", x(max(bar.value.Max, bar.limit))+8, y+14, number(bar.value.Median), c.unit)
	}
	fmt.Fprintf(&b, `<text x="16" y="%d" font-size="11" fill="#52606d">bar: median · thin line: least to greatest round · red: the line to stay below</text>`+"\n</svg>\n", height-12)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteChart draws the ratios of the report.
func (r *Report) WriteChart(w io.Writer) error {
	c := &chart{
		title: "Server CPU of one check, always-allow on stock grpc-go = 1",
		note:  fmt.Sprintf("%s, %d CPUs, %s, %s; %d rounds", r.Machine, r.CPUs, r.Go, r.Date.Format("2006-01-02"), r.Rounds),
	}
	limits := map[string]float64{}
	for _, t := range cases() {
		limits[t.id] = t.ratio
	}
	for _, row := range r.Rows {
		c.bars = append(c.bars, bar{label: "(" + row.Case + ") " + row.Name, value: row.Ratio, limit: limits[row.Case], emphasis: limits[row.Case] > 0})
	}
	return c.write(w)
}
