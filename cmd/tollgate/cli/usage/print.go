package usage

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/policy/usage"
)

// format is a value of --output.
type format string

const (
	table  format = "table"
	asJSON format = "json"
	asCSV  format = "csv"
)

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(text string) error {
	switch format(text) {
	case table, asJSON, asCSV:
		*f = format(text)
		return nil
	}
	return fmt.Errorf("%q is not table, json or csv", text)
}

func (f format) print(w io.Writer, r *usage.Report) error {
	switch f {
	case asJSON:
		return printJSON(w, r)
	case asCSV:
		return printCSV(w, r)
	}
	return printTable(w, r)
}

// row is a line for programs. What comes from the access log is missing where nothing was seen.
type row struct {
	Name      string `json:"name"`
	Allowed   uint64 `json:"allowed"`
	Denied    uint64 `json:"denied"`
	CostUnits uint64 `json:"cost_units"`
	Seen      *seen  `json:"access_log,omitempty"`
}

type seen struct {
	Observed  uint64  `json:"observed"`
	Share     float64 `json:"observed_share"`
	NoStatus  uint64  `json:"no_status"`
	Status2xx uint64  `json:"2xx"`
	Status3xx uint64  `json:"3xx"`
	Status4xx uint64  `json:"4xx"`
	Status5xx uint64  `json:"5xx"`
	BytesIn   uint64  `json:"bytes_in"`
	BytesOut  uint64  `json:"bytes_out"`
	MeanMS    float64 `json:"mean_ms"`
	MaxMS     uint64  `json:"max_ms"`
	Slow      uint64  `json:"slow"`
}

func rowOf(name string, m *usage.Measures) row {
	r := row{Name: name, Allowed: m.Allowed, Denied: m.Denied, CostUnits: m.Cost}
	n := m.Observed()
	if n == 0 {
		return r
	}
	r.Seen = &seen{
		Observed: n, NoStatus: m.Status[usage.StatusNone], Status2xx: m.Status[usage.Status2xx], Status3xx: m.Status[usage.Status3xx],
		Status4xx: m.Status[usage.Status4xx], Status5xx: m.Status[usage.Status5xx], BytesIn: m.BytesIn, BytesOut: m.BytesOut,
		MeanMS: float64(m.Mean().Microseconds()) / 1000, MaxMS: m.MaxMillis, Slow: m.Slow,
	}
	if m.Allowed > 0 {
		r.Seen.Share = float64(n) / float64(m.Allowed)
	}
	return r
}

func printJSON(w io.Writer, r *usage.Report) error {
	out := struct {
		By    usage.By  `json:"by"`
		From  time.Time `json:"from"`
		Rows  []row     `json:"rows"`
		Total row       `json:"total"`
	}{By: r.By, From: r.From.Start(), Rows: []row{}, Total: rowOf("total", &r.Total)}
	for _, line := range r.Rows() {
		out.Rows = append(out.Rows, rowOf(line.Name, &line.Measures))
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(out)
}

func printCSV(w io.Writer, r *usage.Report) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{string(r.By), "allowed", "denied", "cost_units", "observed", "no_status", "2xx", "3xx", "4xx", "5xx", "bytes_in", "bytes_out", "ms", "max_ms", "slow"})
	for _, line := range r.Rows() {
		m := &line.Measures
		fields := []string{line.Name}
		for _, n := range []uint64{m.Allowed, m.Denied, m.Cost} {
			fields = append(fields, strconv.FormatUint(n, 10))
		}
		for _, n := range append(append([]uint64{m.Observed()}, m.Status[:]...), m.BytesIn, m.BytesOut, m.Millis, m.MaxMillis, m.Slow) {
			text := ""
			if m.Observed() > 0 {
				text = strconv.FormatUint(n, 10)
			}
			fields = append(fields, text)
		}
		_ = c.Write(fields)
	}
	c.Flush()
	return c.Error()
}

func printTable(w io.Writer, r *usage.Report) error {
	rows := [][]string{{strings.ToUpper(string(r.By)), "ALLOWED", "DENIED", "COST"}}
	for _, line := range r.Rows() {
		m := &line.Measures
		rows = append(rows, []string{line.Name, fmt.Sprint(m.Allowed), fmt.Sprint(m.Denied), fmt.Sprint(m.Cost)})
	}
	return output.Columns(w, rows)
}
