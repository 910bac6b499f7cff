package bench

import (
	"fmt"
	"io"

	"tollgate/cmd/tollgate/chart"
)

// chartLegend says what a bar shows.
const chartLegend = "bar: median · thin line: least to greatest round · red: the line to stay below"

// bar is a value with the range it was measured in, and the line it should stay below (0 = none).
func bar(label string, value Stat, limit float64, unit string) chart.Bar {
	fill := chart.Plain
	if limit > 0 {
		fill = chart.Emphasis
	}
	return chart.Bar{
		Label: label, Parts: []chart.Part{{Value: value.Median, Fill: fill}}, Range: [2]float64{value.Min, value.Max},
		Line: limit, Text: number(value.Median) + unit,
	}
}

// WriteChart draws the ratios of the report.
func (r *Report) WriteChart(w io.Writer) error {
	c := &chart.Bars{
		Title:  "Server CPU of one check, always-allow on stock grpc-go = 1",
		Note:   fmt.Sprintf("%s, %d CPUs, %s, %s; %d rounds", r.Machine, r.CPUs, r.Go, r.Date.Format("2006-01-02"), r.Rounds),
		Legend: chartLegend,
	}
	limits := map[string]float64{}
	for _, t := range cases() {
		limits[t.id] = t.ratio
	}
	for _, row := range r.Rows {
		c.Bars = append(c.Bars, bar("("+row.Case+") "+row.Name, row.Ratio, limits[row.Case], ""))
	}
	return c.Write(w)
}
