package clickhouse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"tollgate/policy/usage"
)

// askTimeout bounds one question.
const askTimeout = time.Minute

// Reader answers questions about usage. It is safe for concurrent use.
type Reader struct{ client *Client }

// NewReader returns a Reader.
func NewReader(c *Client) *Reader { return &Reader{client: c} }

// AddTo adds to a report what answers a question.
func (r *Reader) AddTo(ctx context.Context, report *usage.Report, q usage.Question) error {
	for _, api := range q.APIs {
		if err := r.add(ctx, report, &q, api); err != nil {
			return fmt.Errorf("usage: %w", err)
		}
	}
	return nil
}

// First returns the first day of which there is usage of an API, 0 if there is none.
func (r *Reader) First(ctx context.Context, api string) (usage.Day, error) {
	var first usage.Day
	err := r.ask(ctx, "SELECT toUInt32(min(day)) AS at FROM usage_day WHERE api = {api:String} FORMAT JSONEachRow",
		map[string]string{"api": api}, func(a *answer) { first = usage.Day(a.At) })
	if err != nil {
		return 0, fmt.Errorf("usage: %w", err)
	}
	return first, nil
}

// answer is a line of an answer.
type answer struct {
	At   uint32 `json:"at"`   // hour or day
	Name string `json:"name"` // of a row
	dayLine
}

// The queries. What is asked about is in their parameters; what is put together here is ours.
const (
	askHours = "SELECT toUInt32(toUnixTimestamp(hour) / 3600) AS at, sum(allowed) AS allowed, sum(denied) AS denied, sum(cost) AS cost" +
		" FROM usage_hour WHERE api = {api:String} AND toUnixTimestamp(hour) BETWEEN {from:UInt32} AND {to:UInt32}"
	askReasons = "SELECT reason, sum(refused) AS refused FROM usage_day" + ofDays + " AND reason != ''"
	sums       = "sum(allowed) AS allowed, sum(denied) AS denied, sum(cost) AS cost, sum(status_none) AS status_none," +
		" sum(status_2xx) AS status_2xx, sum(status_3xx) AS status_3xx, sum(status_4xx) AS status_4xx, sum(status_5xx) AS status_5xx," +
		" sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out, sum(ms) AS ms, max(max_ms) AS max_ms, sum(slow) AS slow" +
		" FROM usage_day" + ofDays + " AND reason = ''"
	ofDays = " WHERE api = {api:String} AND toUInt32(day) BETWEEN {from:UInt32} AND {to:UInt32}"

	aboutKey    = " AND subject = 'key' AND key_id = {key:String}"
	aboutTeam   = " AND subject = 'key' AND team = {team:String}"
	aboutKeys   = " AND subject IN ('key', 'others')"
	aboutAPI    = " AND subject = 'api'"
	jsonAnswers = " FORMAT JSONEachRow"
)

// about returns the condition that says whose usage answers a question.
func about(q *usage.Question) string {
	switch {
	case q.Key != "":
		return aboutKey
	case q.Team != "":
		return aboutTeam
	case q.By == usage.ByKey:
		return aboutKeys
	}
	return aboutAPI
}

func (r *Reader) add(ctx context.Context, report *usage.Report, q *usage.Question, api string) error {
	values := map[string]string{
		"api": api, "key": q.Key, "team": q.Team,
		"from": fmt.Sprint(uint32(q.From.Day())), "to": fmt.Sprint(uint32(q.To)),
	}
	if q.By == usage.ByHour {
		values["from"], values["to"] = fmt.Sprint(q.From.Start().Unix()), fmt.Sprint((q.To+1).Start().Unix()-1)
		return r.ask(ctx, askHours+about(q)+" GROUP BY at"+jsonAnswers, values, func(a *answer) {
			hour, route := usage.Hour(a.At), &usage.RouteUsage{}
			route.AddHour(hour.OfDay(), usage.Decided(a.decidedLine))
			report.Add("", hour.Day(), &usage.DayUsage{Routes: []*usage.RouteUsage{route}})
		})
	}
	if q.By == usage.ByReason {
		err := r.ask(ctx, askReasons+about(q)+" GROUP BY reason"+jsonAnswers, values, func(a *answer) { report.AddReason(a.Reason, a.Refused) })
		if err != nil {
			return err
		}
	}
	columns := "toUInt32(0) AS at, '' AS name, "
	switch q.By {
	case usage.ByDay, usage.ByMonth:
		columns = "toUInt32(day) AS at, '' AS name, "
	case usage.ByRoute:
		columns = "toUInt32(0) AS at, route AS name, "
	case usage.ByKey:
		columns = "toUInt32(0) AS at, key_id AS name, "
	}
	return r.ask(ctx, "SELECT "+columns+sums+about(q)+" GROUP BY at, name"+jsonAnswers, values, func(a *answer) {
		m := a.measures()
		if m == (usage.Measures{}) {
			return // of no rows at all there is one sum
		}
		name, route := a.Name, a.Name
		if q.By == usage.ByKey && name == "" {
			name = usage.OtherKeys
		}
		if q.By == usage.ByRoute && route == "" {
			route = usage.NoRoute
		}
		report.AddRoute(name, usage.Day(a.At), route, &m)
	})
}

func (a *answer) measures() usage.Measures {
	m := usage.Measures{Decided: usage.Decided(a.decidedLine)}
	m.Status = [...]uint64{a.StatusNone, a.Status2xx, a.Status3xx, a.Status4xx, a.Status5xx}
	m.BytesIn, m.BytesOut, m.Millis, m.MaxMillis, m.Slow = a.BytesIn, a.BytesOut, a.Millis, a.MaxMillis, a.Slow
	return m
}

// ask runs a query whose answer is a line of JSON for each row.
func (r *Reader) ask(ctx context.Context, query string, values map[string]string, found func(*answer)) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	data, err := r.client.do(ctx, query, map[string]string{"output_format_json_quote_64bit_integers": "0"}, values, nil)
	if err != nil {
		return err
	}
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var a answer
		err := d.Decode(&a)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("clickhouse %s: %w", r.client.host, errReply)
		}
		found(&a)
	}
}
