package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run has measured. Its JSON form is the output of -o json.
type Report struct {
	Version string    `json:"version"`
	Date    time.Time `json:"date"`
	Machine string    `json:"machine"`
	CPUs    int       `json:"cpus"`
	Go      string    `json:"go"`
	Load    string    `json:"load"`
	Rounds  int       `json:"rounds"`  // of the cases
	Seconds float64   `json:"seconds"` // of each case in each round

	Rows     []Row     `json:"rows"`
	OpenLoop *OpenLoop `json:"open_loop,omitempty"`
	Features []Feature `json:"features,omitempty"`
	Growth   []Growth  `json:"growth,omitempty"`
	Lines    []Line    `json:"lines"`
}

// Row is one case. Times are microseconds, per check where they are CPU time.
type Row struct {
	Case string `json:"case"`
	Name string `json:"name"`

	CPU         Stat    `json:"server_cpu_us"`
	Ratio       Stat    `json:"ratio"` // of server CPU to case a of the same round
	RedisCPU    Stat    `json:"redis_cpu_us"`
	RedisRatio  Stat    `json:"redis_ratio"` // of Redis CPU to the server CPU of case a
	P50         Stat    `json:"p50_us"`
	P99         Stat    `json:"p99_us"`
	P999        Stat    `json:"p999_us"`
	Allocations Stat    `json:"allocations"`
	Bytes       Stat    `json:"bytes"`
	RSS         Stat    `json:"rss_bytes"`
	PerSecond   Stat    `json:"checks_per_second"`
	Lookups     Stat    `json:"lookups_per_key_second"` // spends in the store
	Checks      float64 `json:"checks"`                 // in all rounds
}

// OpenLoop compares leased with always-allow at a fixed rate, µs.
type OpenLoop struct {
	PerSecond float64 `json:"checks_per_second"`
	Rounds    int     `json:"rounds"`
	P50A      Stat    `json:"p50_a_us"`
	P99A      Stat    `json:"p99_a_us"`
	P50B      Stat    `json:"p50_b_us"`
	P99B      Stat    `json:"p99_b_us"`
	Ratio     Stat    `json:"p99_ratio"`
}

// Growth is how a figure changes with a size.
type Growth struct {
	What  string  `json:"what"`
	Size  int     `json:"size"`
	Value Stat    `json:"value"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"` // to the first size; 0 where it means nothing
}

// Fails returns the lines that fail the run.
func (r *Report) Fails() []Line {
	var list []Line
	for _, l := range r.Lines {
		if l.Fails() {
			list = append(list, l)
		}
	}
	return list
}

// WriteJSON writes the report as JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s, %d CPUs, %s, tollgate %s, %s\n", r.Machine, r.CPUs, r.Go, r.Version, r.Date.Format(time.DateOnly))
	fmt.Fprintf(t, "%s; %d rounds of %s s, medians\n\n", r.Load, r.Rounds, number(r.Seconds))
	fmt.Fprintln(t, "case\t\tCPU µs\tratio to (a)\t(min–max)\tRedis µs\tp50 µs\tp99 µs\tp99.9 µs\tallocs\tbytes\tRSS MB\tchecks/s")
	for _, row := range r.Rows {
		fmt.Fprintf(t, "(%s)\t%s\t%s\t%s\t%s–%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Case, row.Name, number(row.CPU.Median),
			number(row.Ratio.Median), number(row.Ratio.Min), number(row.Ratio.Max), number(row.RedisCPU.Median),
			number(row.P50.Median), number(row.P99.Median), number(row.P999.Median), number(row.Allocations.Median),
			number(row.Bytes.Median), number(row.RSS.Median/1e6), number(row.PerSecond.Median))
	}
	if o := r.OpenLoop; o != nil {
		fmt.Fprintf(t, "\nopen loop at %s checks/s, %d rounds: p50 (a) %s µs, (b) %s µs; p99 (a) %s µs, (b) %s µs, ratio %s (%s–%s)\n",
			number(o.PerSecond), o.Rounds, number(o.P50A.Median), number(o.P50B.Median), number(o.P99A.Median), number(o.P99B.Median),
			number(o.Ratio.Median), number(o.Ratio.Min), number(o.Ratio.Max))
	}
	writeFeatures(t, r.Features)
	writeGrowth(t, r.Growth)
	writeLines(t, r.Lines)
	return t.Flush()
}

func writeFeatures(t io.Writer, list []Feature) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(t, "\nfeature\tCPU µs with\twithout\tratio\t(min–max)")
	for _, f := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s–%s\n", f.What, number(f.With.Median), number(f.Without.Median),
			number(f.Ratio.Median), number(f.Ratio.Min), number(f.Ratio.Max))
	}
}

func writeGrowth(t io.Writer, list []Growth) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(t, "\ngrowth\tsize\tvalue\tratio to the first")
	for _, g := range list {
		ratio := ""
		if g.Ratio > 0 {
			ratio = number(g.Ratio)
		}
		fmt.Fprintf(t, "%s\t%d\t%s %s\t%s\n", g.What, g.Size, number(g.Value.Median), g.Unit, ratio)
	}
}

func writeLines(t io.Writer, list []Line) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(t, "\nline\t\tat most\tmeasured\t")
	for _, l := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", l.label(), l.What, number(l.Limit), number(l.Got), l.verdict())
	}
}

// label names the case; a line of no case has none.
func (l Line) label() string {
	if l.Case == "" {
		return ""
	}
	return "(" + l.Case + ")"
}

// FailureText names the lines that fail the run.
func FailureText(list []Line) string {
	var texts []string
	for _, l := range list {
		got := number(l.Got)
		if !l.Measured() {
			got = "nothing to compare"
		}
		text := fmt.Sprintf("%s %s: %s, at most %s", l.label(), l.What, got, number(l.Limit))
		texts = append(texts, strings.TrimSpace(text))
	}
	return strings.Join(texts, "; ")
}
