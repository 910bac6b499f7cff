package usage

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"tollgate/policy/usage"
)

// Format is a value of --output.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	CSV   Format = "csv"
)

// String implements pflag.Value.
func (f *Format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *Format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *Format) Set(text string) error {
	switch Format(text) {
	case Table, JSON, CSV:
		*f = Format(text)
		return nil
	}
	return fmt.Errorf("%q is not table, json or csv", text)
}

// output is a report on its way out.
type output struct {
	report *usage.Report
	rows   []usage.Row // some of the report's, perhaps
	about  string
	to     usage.Day
	glance *glance // of a view; nil for none

	historyFrom usage.Day // since when there is history, where that is later than what was asked for; else 0
}

func (o *output) print(w io.Writer, f Format) error {
	switch f {
	case JSON:
		return o.json(w)
	case CSV:
		return o.csv(w)
	}
	return o.table(w)
}

// row is a line for programs.
type row struct {
	Name      string  `json:"name,omitempty"`
	Allowed   *uint64 `json:"allowed,omitempty"`
	Denied    *uint64 `json:"denied,omitempty"`
	CostUnits *uint64 `json:"cost_units,omitempty"`
	Observed  *uint64 `json:"observed,omitempty"`   // of those allowed, how many the access log told of
	Log       *seen   `json:"access_log,omitempty"` // missing where it told of none
}

// seen is what the access log says.
type seen struct {
	ObservedShare float64 `json:"observed_share,omitempty"`
	NoStatus      uint64  `json:"no_status"`
	Status2xx     uint64  `json:"2xx"`
	Status3xx     uint64  `json:"3xx"`
	Status4xx     uint64  `json:"4xx"`
	Status5xx     uint64  `json:"5xx"`
	BytesIn       uint64  `json:"bytes_in"`
	BytesOut      uint64  `json:"bytes_out"`
	MeanMS        float64 `json:"mean_ms"`
	MaxMS         uint64  `json:"max_ms"`
	Slow          uint64  `json:"slow"`
}

func rowOf(by usage.By, name string, m *usage.Measures) row {
	r := row{Name: name}
	if by != usage.ByStatus {
		r.Denied = &m.Denied
	}
	if by == usage.ByReason {
		return r
	}
	observed := m.Observed()
	if by != usage.ByHour {
		r.Observed = &observed
	}
	if by != usage.ByStatus {
		r.Allowed, r.CostUnits = &m.Allowed, &m.Cost
	}
	if observed == 0 || by == usage.ByStatus {
		return r
	}
	r.Log = &seen{
		NoStatus: m.Status[usage.StatusNone], Status2xx: m.Status[usage.Status2xx], Status3xx: m.Status[usage.Status3xx],
		Status4xx: m.Status[usage.Status4xx], Status5xx: m.Status[usage.Status5xx], BytesIn: m.BytesIn, BytesOut: m.BytesOut,
		MeanMS: float64(m.Mean().Microseconds()) / 1000, MaxMS: m.MaxMillis, Slow: m.Slow,
	}
	if m.Allowed > 0 {
		r.Log.ObservedShare = float64(observed) / float64(m.Allowed)
	}
	return r
}

func (o *output) json(w io.Writer) error {
	out := struct {
		About string    `json:"about"`
		By    usage.By  `json:"by"`
		From  time.Time `json:"from"`
		To    time.Time `json:"to"` // the end of the last day
		Cut   bool      `json:"cut,omitempty"`
		Rows  []row     `json:"rows"`
		Total row       `json:"total"`
		Note  string    `json:"note,omitempty"`
		*glance
	}{glance: o.glance, About: o.about, By: o.report.By, From: o.report.From.Start(), To: (o.to + 1).Start(), Cut: o.report.Cut, Rows: []row{}, Total: rowOf(usage.ByRoute, "", &o.report.Total), Note: o.note()}
	if o.report.By == usage.ByHour {
		out.Total = rowOf(usage.ByHour, "", &o.report.Total)
	}
	for i := range o.rows {
		out.Rows = append(out.Rows, rowOf(o.report.By, o.rows[i].Name, &o.rows[i].Measures))
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(out)
}

// csv leaves the fields of the access log empty where it told of nothing.
func (o *output) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	by := o.report.By
	header := []string{string(by)}
	switch by {
	case usage.ByReason:
		header = append(header, "denied")
	case usage.ByStatus:
		header = append(header, "observed")
	case usage.ByHour:
		header = append(header, "allowed", "denied", "cost_units")
	default:
		header = append(header, "allowed", "denied", "cost_units", "observed", "no_status", "2xx", "3xx", "4xx", "5xx", "bytes_in", "bytes_out", "ms", "max_ms", "slow")
	}
	_ = c.Write(header)
	for i := range o.rows {
		m := &o.rows[i].Measures
		numbers := []uint64{m.Allowed, m.Denied, m.Cost}
		switch by {
		case usage.ByReason:
			numbers = []uint64{m.Denied}
		case usage.ByStatus:
			numbers = []uint64{m.Observed()}
		case usage.ByHour:
		default:
			numbers = append(numbers, m.Observed())
			if m.Observed() > 0 {
				numbers = append(append(numbers, m.Status[:]...), m.BytesIn, m.BytesOut, m.Millis, m.MaxMillis, m.Slow)
			}
		}
		fields := []string{o.rows[i].Name}
		for _, n := range numbers {
			fields = append(fields, strconv.FormatUint(n, 10))
		}
		_ = c.Write(append(fields, make([]string, len(header)-len(fields))...))
	}
	c.Flush()
	return c.Error()
}
