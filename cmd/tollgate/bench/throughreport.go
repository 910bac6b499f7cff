package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"text/tabwriter"
	"time"
)

// envoyVersion asks the binary, which answers "envoy  version: …/1.40.0/…".
func envoyVersion(binary string) string {
	out, err := exec.Command(binary, "--version").Output()
	if m := regexp.MustCompile(`/(\d+\.\d+\.\d+)[^/]*/`).FindSubmatch(out); err == nil && m != nil {
		return string(m[1])
	}
	return "of unknown version"
}

// Fails returns the lines that fail the run.
func (r *EdgeReport) Fails() []Line { return (&Report{Lines: r.Lines}).Fails() }

// WriteJSON writes the report as JSON.
func (r *EdgeReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteTable writes the report for people.
func (r *EdgeReport) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s, %d CPUs, %s, Envoy %s, tollgate %s, %s\n", r.Machine, r.CPUs, r.Go, r.Envoy, r.Version, r.Date.Format(time.DateOnly))
	fmt.Fprintf(t, "%s; %d rounds of %s s, medians; latency at %s requests/s\n\n", r.Load, r.Rounds, number(r.Seconds), number(r.PerSecond))
	fmt.Fprintln(t, "CPU µs per request\tEnvoy\tserver\tRedis\ttogether\tadded\tratio to always-allow\t(min–max)\tp50 µs\tadded\tp99 µs\tadded\trequests/s")
	for _, row := range r.Rows {
		ratio, span := "", ""
		if row.Ratio != (Stat{}) {
			ratio, span = signed(row.Ratio.Median), signed(row.Ratio.Min)+"–"+signed(row.Ratio.Max)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Name, number(row.Envoy.Median), number(row.Server.Median),
			number(row.Redis.Median), number(row.Total.Median), signed(row.Added.Median), ratio, span,
			number(row.P50.Median), signed(row.AddedP50.Median), number(row.P99.Median), signed(row.AddedP99.Median), number(row.PerSecond.Median))
	}
	writeLines(t, r.Lines)
	return t.Flush()
}

// signed prints a figure that may be less than nothing.
func signed(v float64) string {
	if v < 0 {
		return "-" + number(-v)
	}
	return number(v)
}

// WriteChart draws what each setup adds.
func (r *EdgeReport) WriteChart(w io.Writer) error {
	c := &chart{
		title: "CPU that a check adds to a request: Envoy, server and Redis together, µs",
		note:  fmt.Sprintf("%s, %d CPUs, Envoy %s, %s; %d rounds", r.Machine, r.CPUs, r.Envoy, r.Date.Format(time.DateOnly), r.Rounds),
		unit:  " µs",
	}
	var allow float64
	for _, row := range r.Rows {
		if row.ID == alwaysAllow {
			allow = row.Added.Median
		}
	}
	lines := map[string]float64{}
	for _, l := range r.Lines {
		lines[l.Case] = l.Limit * allow
	}
	for _, row := range r.Rows {
		if row.ID != withoutFilter {
			c.bars = append(c.bars, bar{label: row.Name, value: row.Added, limit: lines[row.ID], emphasis: lines[row.ID] > 0})
		}
	}
	return c.write(w)
}
