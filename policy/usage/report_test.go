package usage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/usage"
)

// dayOf is what one key did on a day: GET job in two hours, and one denied submit.
func dayOf() *usage.DayUsage {
	var d usage.DayUsage
	job, submit := d.Route("job"), d.Route("submit")
	job.AddHour(3, usage.Decided{Allowed: 4, Cost: 4})
	job.AddHour(12, usage.Decided{Allowed: 2, Cost: 2})
	job.Seen = usage.Seen{BytesIn: 10, BytesOut: 1000, Millis: 600, MaxMillis: 400, Slow: 1}
	job.Status[usage.Status2xx], job.Status[usage.Status5xx] = 2, 1
	submit.AddHour(12, usage.Decided{Denied: 7})
	d.Reasons = []usage.ReasonCount{{Reason: "scope_denied", N: 7}}
	return &d
}

// told is a report's rows, each as line writes it.
func told(r *usage.Report, most usage.Most) string {
	var rows []string
	for _, row := range r.Rows(most) {
		rows = append(rows, line(row.Name, &row.Measures))
	}
	return strings.Join(rows, " ")
}

// line is NAME:ALLOWED/DENIED/COST/OBSERVED.
func line(name string, m *usage.Measures) string {
	return fmt.Sprintf("%s:%d/%d/%d/%d", name, m.Allowed, m.Denied, m.Cost, m.Observed())
}

func TestReportBy(t *testing.T) {
	day := usage.DayOf(noon())
	for by, want := range map[usage.By]string{
		usage.ByRoute:  "submit:0/14/0/0 job:12/0/12/6",
		usage.ByHour:   "2026-11-29 12:00:2/7/2/0 2026-11-30 03:00:4/0/4/0 2026-11-30 12:00:2/7/2/0",
		usage.ByDay:    "2026-11-29:6/7/6/3 2026-11-30:6/7/6/3",
		usage.ByMonth:  "2026-11:12/14/12/6",
		usage.ByKey:    "key_a:6/7/6/3 key_b:6/7/6/3",
		usage.ByStatus: "2xx:0/0/0/4 5xx:0/0/0/2",
		usage.ByReason: "scope_denied:0/14/0/0",
	} {
		r := &usage.Report{By: by, From: day.Hour(4)} // after the first day's first requests
		r.Add("key_a", day, dayOf())
		r.Add("key_b", day+1, dayOf())
		if got := told(r, ""); got != want {
			t.Errorf("by %s: %s, want %s", by, got, want)
		}
		total := "total:12/14/12/6"
		if by == usage.ByHour { // of the hours that it tells of, which the log says nothing about
			total = "total:8/14/8/0"
		}
		if got := line("total", &r.Total); got != total {
			t.Errorf("by %s: %s, want %s", by, got, total)
		}
		if r.By.HasSeen() != (by != usage.ByHour && by != usage.ByReason) {
			t.Errorf("by %s: seen %v", by, r.By.HasSeen())
		}
	}
}

// Days that were folded are told by their month, which stands in a report by day too.
func TestReportOfAFoldedMonth(t *testing.T) {
	month := usage.MonthOf(noon()) - 1
	m := usage.Measures{Decided: usage.Decided{Allowed: 5, Cost: 5}}
	for by, want := range map[usage.By]string{
		usage.ByDay: "2026-10:5/0/5/0 2026-11-29:6/7/6/3", usage.ByMonth: "2026-10:5/0/5/0 2026-11:6/7/6/3",
		usage.ByRoute: "job:11/0/11/3 submit:0/7/0/0", usage.ByKey: "key_a:11/7/11/3",
	} {
		r := &usage.Report{By: by}
		r.Add("key_a", usage.DayOf(noon()), dayOf())
		r.AddMonth("key_a", month, "job", &m)
		if got := told(r, ""); got != want {
			t.Errorf("by %s: %s, want %s", by, got, want)
		}
	}
}

// A day whose hours are no longer known has no row by hour.
func TestReportWithoutHours(t *testing.T) {
	d := dayOf()
	for _, r := range d.Routes {
		r.Hours = nil
	}
	r := &usage.Report{By: usage.ByHour}
	r.Add("key_a", usage.DayOf(noon()), d)
	if got := told(r, ""); got != "" || r.Total != (usage.Measures{}) {
		t.Errorf("%s, %+v", got, r.Total)
	}
}

func TestReportInOrder(t *testing.T) {
	r := &usage.Report{By: usage.ByKey}
	for name, m := range map[string]usage.Measures{
		"a": {Decided: usage.Decided{Allowed: 9, Cost: 1}, Seen: usage.Seen{Slow: 1}},
		"b": {Decided: usage.Decided{Allowed: 1, Denied: 2, Cost: 8}, Seen: usage.Seen{Status: [5]uint64{4: 3}}},
		"c": {Decided: usage.Decided{Denied: 5}, Seen: usage.Seen{Slow: 4}},
		"d": {Decided: usage.Decided{Denied: 5}},
	} {
		r.AddRoute(name, usage.DayOf(noon()), "job", &m)
	}
	for text, want := range map[string]string{"requests": "a c d b", "denied": "c d b a", "cost": "b a c d", "errors": "b a c d", "slow": "c a b d"} {
		most, err := usage.ParseMost(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, row := range r.Rows(most) {
			got = append(got, row.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("most %s: %s, want %s", text, got, want)
		}
	}
}

func TestReportWords(t *testing.T) {
	for _, by := range usage.Bys() {
		if got, err := usage.ParseBy(string(by)); got != by || err != nil {
			t.Errorf("%s: %s, %v", by, got, err)
		}
	}
	if _, err := usage.ParseBy("week"); err == nil || err.Error() != `"week" is not one of route, hour, day, month, key, status, reason` {
		t.Errorf("%v", err)
	}
	if _, err := usage.ParseMost("noise"); err == nil || err.Error() != `"noise" is not one of requests, denied, cost, errors, slow` {
		t.Errorf("%v", err)
	}
}

func TestMean(t *testing.T) {
	job := dayOf().Route("job")
	if got := job.Mean(); got != 200*time.Millisecond {
		t.Errorf("%v on average", got)
	}
	if got := dayOf().Route("submit").Mean(); got != 0 {
		t.Errorf("%v on average of nothing", got)
	}
}

func TestCalendar(t *testing.T) {
	for text, want := range map[string]string{
		"2026-11-30T23:59:59Z":      "20261130 30 202611 2026-11-01 2026-12-01",
		"2026-12-31T23:00:00-02:00": "20270101 1 202701 2027-01-01 2027-02-01",
		"2028-02-29T00:00:00Z":      "20280229 29 202802 2028-02-01 2028-03-01",
		"1969-07-20T20:17:40Z":      "19700101 1 197001 1970-01-01 1970-02-01",
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		day, month := usage.DayOf(at), usage.MonthOf(at)
		got := strings.Join([]string{
			day.String(), day.Start().Format("2"), month.String(), month.Start().Format(time.DateOnly), month.End().Format(time.DateOnly),
		}, " ")
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if month.First() != usage.DayOf(month.Start()) || month.First().OfMonth() != 1 || day.OfMonth() != day.Start().Day() {
			t.Errorf("%s: the first is %v", text, month.First())
		}
		if hour := usage.HourOf(at); hour.Day() != day || hour != day.Hour(hour.OfDay()) {
			t.Errorf("%s: hour %d of %v", text, hour, day)
		}
	}
}

// What waits to be written outlives the batch that it came with, and what comes later is added.
func TestDeltaOutlivesItsBatch(t *testing.T) {
	set := jobs()
	api, route := set.Find("jobs", "job")
	c, g := usage.NewCounter(0, set.Find), grant("key_0001", "team_a")
	var b usage.Batch
	var kept *usage.Delta
	for range 2 {
		c.Decided(api, g, route, policy.Allowed, noon())
		f := finished("key_0001", 200, time.Second)
		c.Finished(&f)
		c.Take(&b, -1, noon())
		for i := range b.Deltas {
			switch d := &b.Deltas[i]; {
			case d.Key == "":
			case kept == nil:
				kept = d.Clone()
			default:
				kept.Merge(d)
			}
		}
		c.Release(&b)
	}
	other := usage.Batch{} // uses the memory of the first
	c.Decided(api, grant("key_0002", "team_b"), route, policy.Allowed, noon())
	c.Take(&other, -1, noon())
	if kept.Key != "key_0001" || kept.Team != "team_a" || len(kept.Decided) != 1 || kept.Decided[0].Allowed != 2 || len(kept.Seen) != 1 || kept.Seen[0].Observed() != 2 {
		t.Errorf("%+v", kept)
	}
}
