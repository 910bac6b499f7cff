package clickhouse

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"tollgate/policy/usage"
)

// The values of the column subject.
const (
	ofKey    = "key"
	ofOthers = "others"
	ofAPI    = "api"
)

// rowKey is what a table orders its rows by. at is an Hour in usage_hour, a Day in usage_day.
type rowKey struct {
	API     string `json:"api"`
	Subject string `json:"subject"`
	Team    string `json:"team,omitempty"`
	Key     string `json:"key_id,omitempty"`
	Route   string `json:"route,omitempty"`
	Reason  string `json:"reason,omitempty"` // only in usage_day
	at      uint32
}

func subjectOf(d *usage.Delta) string {
	switch {
	case d.Key != "":
		return ofKey
	case d.Others:
		return ofOthers
	}
	return ofAPI
}

// dayCounts are the numbers of a row of usage_day.
type dayCounts struct {
	usage.Measures
	refused uint64
}

// rows are those of both tables that wait to be sent, each once.
type rows struct {
	hours map[rowKey]*usage.Decided
	days  map[rowKey]*dayCounts
}

func newRows() rows {
	return rows{hours: map[rowKey]*usage.Decided{}, days: map[rowKey]*dayCounts{}}
}

func (r *rows) len() int { return len(r.hours) + len(r.days) }

// missing returns how many rows more there would be with a delta.
func (r *rows) missing(d *usage.Delta) (n int) {
	more := rows{hours: map[rowKey]*usage.Decided{}, days: map[rowKey]*dayCounts{}}
	more.add(d)
	for k := range more.hours {
		if r.hours[k] == nil {
			n++
		}
	}
	for k := range more.days {
		if r.days[k] == nil {
			n++
		}
	}
	return n
}

// atMost bounds what missing can return, without a look.
func atMost(d *usage.Delta) int { return 2*len(d.Decided) + len(d.Reasons) + len(d.Seen) }

// add adds a delta. It keeps nothing of it but names of APIs, routes and reasons.
func (r *rows) add(d *usage.Delta) {
	k := rowKey{API: d.API, Subject: subjectOf(d), Team: d.Team, Key: d.Key}
	own := false
	// Most rows are there already, and then nothing is copied.
	clone := func() {
		if !own {
			k.Team, k.Key, own = strings.Clone(k.Team), strings.Clone(k.Key), true
		}
	}
	day := func(route, reason string) *dayCounts {
		k.Route, k.Reason, k.at = route, reason, uint32(d.Day)
		counts := r.days[k]
		if counts == nil {
			clone()
			counts = &dayCounts{}
			r.days[k] = counts
		}
		return counts
	}
	for i := range d.Decided {
		h := &d.Decided[i]
		day(h.Route, "").Decided.Add(h.Decided)
		k.at = uint32(h.Hour)
		counts := r.hours[k]
		if counts == nil {
			clone()
			counts = &usage.Decided{}
			r.hours[k] = counts
		}
		counts.Add(h.Decided)
	}
	for _, reason := range d.Reasons {
		day("", reason.Reason).refused += reason.N
	}
	for i := range d.Seen {
		day(d.Seen[i].Route, "").Seen.Add(&d.Seen[i].Seen)
	}
}

// insert is one that is sent until it is acknowledged, with the same token and the same bytes.
type insert struct {
	query string
	token string
	lines []line
}

// line is a row of either table.
type line struct {
	rowKey
	hour *usage.Decided
	day  *dayCounts
}

const (
	insertHours = "INSERT INTO usage_hour (hour, api, subject, team, key_id, route, allowed, denied, cost) FORMAT JSONEachRow"
	insertDays  = "INSERT INTO usage_day (day, api, subject, team, key_id, route, reason, allowed, denied, cost, refused," +
		" status_none, status_2xx, status_3xx, status_4xx, status_5xx, bytes_in, bytes_out, ms, max_ms, slow) FORMAT JSONEachRow"
)

// The fields of a row in JSON. A number that is missing is 0.
type (
	hourLine struct {
		Hour int64 `json:"hour"` // Unix seconds
		rowKey
		decidedLine
	}
	dayLine struct {
		Day string `json:"day"`
		rowKey
		decidedLine
		Refused    uint64 `json:"refused,omitempty"`
		StatusNone uint64 `json:"status_none,omitempty"`
		Status2xx  uint64 `json:"status_2xx,omitempty"`
		Status3xx  uint64 `json:"status_3xx,omitempty"`
		Status4xx  uint64 `json:"status_4xx,omitempty"`
		Status5xx  uint64 `json:"status_5xx,omitempty"`
		BytesIn    uint64 `json:"bytes_in,omitempty"`
		BytesOut   uint64 `json:"bytes_out,omitempty"`
		Millis     uint64 `json:"ms,omitempty"`
		MaxMillis  uint64 `json:"max_ms,omitempty"`
		Slow       uint64 `json:"slow,omitempty"`
	}
	decidedLine struct {
		Allowed uint64 `json:"allowed,omitempty"`
		Denied  uint64 `json:"denied,omitempty"`
		Cost    uint64 `json:"cost,omitempty"`
	}
)

// body returns the rows as JSON, a line each.
func (i *insert) body() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for n := range i.lines {
		if l := &i.lines[n]; l.hour != nil {
			_ = e.Encode(hourLine{Hour: usage.Hour(l.at).Start().Unix(), rowKey: l.rowKey, decidedLine: decidedLine(*l.hour)})
		} else {
			_ = e.Encode(l.dayLine())
		}
	}
	return b.Bytes()
}

func (l *line) dayLine() dayLine {
	m := &l.day.Measures
	return dayLine{
		Day: usage.Day(l.at).Start().Format(time.DateOnly), rowKey: l.rowKey, decidedLine: decidedLine(m.Decided), Refused: l.day.refused,
		StatusNone: m.Status[usage.StatusNone], Status2xx: m.Status[usage.Status2xx], Status3xx: m.Status[usage.Status3xx],
		Status4xx: m.Status[usage.Status4xx], Status5xx: m.Status[usage.Status5xx],
		BytesIn: m.BytesIn, BytesOut: m.BytesOut, Millis: m.Millis, MaxMillis: m.MaxMillis, Slow: m.Slow,
	}
}
