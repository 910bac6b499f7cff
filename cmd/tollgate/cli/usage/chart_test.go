package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/policy/usage"
)

// asked is a report with the rows of some days, or hours: allowed, denied, of which the log told of
// all but one, with one 5xx.
func asked(by usage.By, days ...int) *output {
	first := usage.DayOf(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	r := &usage.Report{By: by, From: first.Hour(0)}
	for _, day := range days {
		m := &usage.Measures{Decided: usage.Decided{Allowed: uint64(1000 * day), Denied: uint64(day)}}
		m.Status[usage.Status2xx], m.Status[usage.Status5xx], m.Millis = uint64(1000*day)-2, 1, uint64(25*1000*day)
		r.AddRoute("key", first+usage.Day(day), fmt.Sprintf("route %d <of many that have a long name>", day), m)
	}
	return &output{report: r, rows: r.Rows(""), about: "api shop", to: first + 29}
}

func TestPictureOfUsage(t *testing.T) {
	c, err := asked(usage.ByDay, 1, 2, 5).picture()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range c.Bars {
		got = append(got, b.Label+": "+b.Text)
	}
	want := []string{
		"2026-11-02: 1,001, <0.1 % denied, 0.1 % 5xx, 25 ms", "2026-11-03: 2,002, <0.1 % denied, <0.1 % 5xx, 25 ms", "2026-11-04: 0", "2026-11-05: 0",
		"2026-11-06: 5,005, <0.1 % denied, <0.1 % 5xx, 25 ms",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c.Title != "Requests by day: api shop" || c.Note != "2026-11-01 00:00 to 2026-11-30 UTC" || !strings.Contains(c.Legend, "of the >99.9 % of the allowed requests") && !strings.Contains(c.Legend, "of the 100.0 %") {
		t.Errorf("%+v", c)
	}
	if b := c.Bars[1]; b.Parts[0].Value != 2000 || b.Parts[1].Value != 2 {
		t.Errorf("%+v", b)
	}
	for by, legend := range map[usage.By]string{usage.ByStatus: "red: 5xx", usage.ByRoute: "red: denied", usage.ByKey: "red: denied"} {
		if c, err := asked(by, 1, 2).picture(); err != nil || len(c.Bars) == 0 || !strings.Contains(c.Legend, legend) {
			t.Errorf("%s: %+v, %v", by, c, err)
		}
	}
	// What was denied, by reason.
	r := &usage.Report{By: usage.ByReason}
	r.AddReason("rate_limited", 1234567)
	o := &output{report: r, rows: r.Rows(""), about: "api shop"}
	if c, err := o.picture(); err != nil || len(c.Bars) != 1 || c.Bars[0].Text != "1,234,567" || c.Legend != "red: denied" {
		t.Errorf("%+v, %v", c, err)
	}
	// Nothing at all is a picture that says so.
	if c, err := (&output{report: &usage.Report{By: usage.ByHour}}).picture(); err != nil || !strings.HasSuffix(c.Note, "; nothing was counted") {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestPicturesAreBounded(t *testing.T) {
	if _, err := asked(usage.ByDay, 1, 300).picture(); err == nil || !strings.Contains(err.Error(), "more than the 100 of a picture") {
		t.Errorf("a year of days: %v", err)
	}
	if label := asked(usage.ByRoute, 3).rows[0].Name; cut(label) != "route 3 <of many that have …" || cut("short") != "short" {
		t.Errorf("%q", cut(label))
	}
	file := filepath.Join(t.TempDir(), "usage.svg")
	if err := asked(usage.ByRoute, 1, 2).writeChart(file); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), "<svg ") || !strings.Contains(string(text), "route 1 &lt;of many") {
		t.Errorf("%s, %v", text, err)
	}
	if err := asked(usage.ByRoute, 1).writeChart(filepath.Join(file, "no folder")); err == nil {
		t.Error("it is written below a file")
	}
}
