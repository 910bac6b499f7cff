package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"runtime"
	"text/tabwriter"
	"time"

	"tollgate/cmd/tollgate/chart"
)

// EdgeReport is what a run through Envoy has measured. Its JSON form is the output
// of -o json.
type EdgeReport struct {
	Version   string    `json:"version"`
	Date      time.Time `json:"date"`
	Machine   string    `json:"machine"`
	CPUs      int       `json:"cpus"`
	Go        string    `json:"go"`
	Envoy     string    `json:"envoy"`
	Load      string    `json:"load"`
	Rounds    int       `json:"rounds"`
	Seconds   float64   `json:"seconds"`
	PerSecond float64   `json:"requests_per_second"` // at which latency was measured
	Base      string    `json:"base"`                // ID of the row that ratios refer to

	Rows  []EdgeRow `json:"rows"`
	Lines []Line    `json:"lines"`
}

// EdgeRow is one setup. CPU times are µs per request, at full load; latencies µs,
// at the fixed rate.
type EdgeRow struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Envoy    Stat   `json:"envoy_cpu_us"`
	Server   Stat   `json:"server_cpu_us"`
	Redis    Stat   `json:"redis_cpu_us"`
	Total    Stat   `json:"total_cpu_us"`
	Added    Stat   `json:"added_cpu_us"` // to no filter, in the same round
	Ratio    Stat   `json:"ratio"`        // of what it adds to what the base adds, in the same round
	P50      Stat   `json:"p50_us"`
	P99      Stat   `json:"p99_us"`
	AtRate   Stat   `json:"ratio_at_rate"` // Ratio at the fixed rate
	AddedP50 Stat   `json:"added_p50_us"`
	AddedP99 Stat   `json:"added_p99_us"`

	PerSecond Stat `json:"requests_per_second"` // at full load
}

func (b *through) edgeReport(binary string) *EdgeReport {
	r := &EdgeReport{Version: b.Version, Date: time.Now().UTC(), Machine: machine(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Envoy: envoyVersion(binary), Base: b.study.base.id,
		Load:   fmt.Sprintf("%d connections, %d keys (Zipf %v), HTTP/1.1, Envoy with 1 worker, answering by itself", edgeCallers, b.Keys, zipf),
		Rounds: b.Rounds, Seconds: b.Duration.Seconds(), PerSecond: b.rate}
	full, fixed := &beside{}, &beside{}
	for _, s := range b.study.rows {
		full.add(b.samples[s.id])
		fixed.add(b.delays[s.id])
	}
	r.Rows = append(r.Rows, newEdgeRow(b.study.none, &beside{full.none, full.base, full.none}, &beside{fixed.none, fixed.base, fixed.none}),
		newEdgeRow(b.study.base, &beside{full.base, full.base, full.none}, &beside{fixed.base, fixed.base, fixed.none}))
	for _, s := range b.study.rows {
		row := newEdgeRow(s, b.samples[s.id], b.delays[s.id])
		r.Rows = append(r.Rows, row)
		if s.line > 0 {
			r.Lines = append(r.Lines, Line{Case: s.id, What: "CPU added to no filter, ratio to what always-allow adds", Limit: s.line,
				Got: row.Ratio.Median, Guards: b.Judge})
		}
	}
	return r
}

// add takes the rounds of another setup, as further rounds.
func (b *beside) add(other *beside) {
	b.own, b.base, b.none = append(b.own, other.own...), append(b.base, other.base...), append(b.none, other.none...)
}

// over returns a figure of each round: of the setup, the base and no filter.
func (b *beside) over(figure func(own, base, none edgeSample) float64) Stat {
	list := make([]float64, len(b.own))
	for i := range b.own {
		list[i] = figure(b.own[i], b.base[i], b.none[i])
	}
	return newStat(list)
}

func newEdgeRow(s setup, full, fixed *beside) EdgeRow {
	row := EdgeRow{ID: s.id, Name: s.name,
		Envoy:     full.over(func(own, _, _ edgeSample) float64 { return own.envoy }),
		Server:    full.over(func(own, _, _ edgeSample) float64 { return own.server }),
		Redis:     full.over(func(own, _, _ edgeSample) float64 { return own.redis }),
		Total:     full.over(func(own, _, _ edgeSample) float64 { return own.total() }),
		Added:     full.over(func(own, _, none edgeSample) float64 { return own.total() - none.total() }),
		P50:       fixed.over(func(own, _, _ edgeSample) float64 { return own.p50 }),
		P99:       fixed.over(func(own, _, _ edgeSample) float64 { return own.p99 }),
		AddedP50:  fixed.over(func(own, _, none edgeSample) float64 { return own.p50 - none.p50 }),
		AddedP99:  fixed.over(func(own, _, none edgeSample) float64 { return own.p99 - none.p99 }),
		PerSecond: full.over(func(own, _, _ edgeSample) float64 { return own.perSecond })}
	if s.id != withoutFilter {
		ratio := func(own, base, none edgeSample) float64 {
			return (own.total() - none.total()) / (base.total() - none.total())
		}
		row.Ratio, row.AtRate = full.over(ratio), fixed.over(ratio)
	}
	return row
}

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
	fmt.Fprintf(t, "%s; %d rounds of %s s, medians; latency at %s requests/s\n", r.Load, r.Rounds, number(r.Seconds), number(r.PerSecond))
	fmt.Fprintf(t, "ratio: of what is added to what row %s adds, in the same round; at rate: the same at the rate of the latencies\n\n", r.Base)
	fmt.Fprintln(t, "CPU µs per request\t\tEnvoy\tserver\tRedis\ttogether\tadded\tratio\t(min–max)\tat rate\tp50 µs\tadded\tp99 µs\tadded\trequests/s")
	for _, row := range r.Rows {
		ratio, span, atRate := "", "", ""
		if row.Ratio != (Stat{}) {
			atRate = signed(row.AtRate.Median)
			ratio, span = signed(row.Ratio.Median), signed(row.Ratio.Min)+"–"+signed(row.Ratio.Max)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.ID, row.Name, number(row.Envoy.Median), number(row.Server.Median),
			number(row.Redis.Median), number(row.Total.Median), signed(row.Added.Median), ratio, span, atRate,
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
	c := &chart.Bars{
		Title:  "CPU that a check adds to a request: Envoy, server and Redis together, µs",
		Note:   fmt.Sprintf("%s, %d CPUs, Envoy %s, %s; %d rounds", r.Machine, r.CPUs, r.Envoy, r.Date.Format(time.DateOnly), r.Rounds),
		Legend: chartLegend,
	}
	var allow float64
	for _, row := range r.Rows {
		if row.ID == r.Base {
			allow = row.Added.Median
		}
	}
	lines := map[string]float64{}
	for _, l := range r.Lines {
		lines[l.Case] = l.Limit * allow
	}
	for _, row := range r.Rows {
		if row.ID != withoutFilter {
			c.Bars = append(c.Bars, bar(row.Name, row.Added, lines[row.ID], " µs"))
		}
	}
	return c.Write(w)
}
