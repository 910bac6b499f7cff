package extauthz_test

import (
	"encoding/json"
	"maps"
	"testing"
	"time"

	"tollgate/extauthz"
)

// A report is read as it was written, whatever kinds of entries a newer server counts.
func TestLogReportIsReadAsWritten(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	want := extauthz.AccessLog{
		Node: "edge", Name: "tollgate", Address: "10.0.0.7", Streams: 2, Opened: 5, First: at, Latest: at.Add(time.Minute), LagSeconds: 0.25,
		Intervals: map[string]float64{"small": 1.5}, Entries: extauthz.LogCounts{extauthz.LogEnded: 7, extauthz.LogPeriodic: 3},
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got extauthz.AccessLog
	if err := json.Unmarshal(text, &got); err != nil || !maps.Equal(got.Intervals, want.Intervals) || got.Entries != want.Entries || got.Latest != want.Latest {
		t.Errorf("%s: %+v, %v", text, got, err)
	}
	var counts extauthz.LogCounts
	if err := json.Unmarshal([]byte(`{"ended":4,"of tomorrow":9}`), &counts); err != nil || counts != (extauthz.LogCounts{extauthz.LogEnded: 4}) {
		t.Errorf("%v, %v", counts, err)
	}
	if err := json.Unmarshal([]byte(`{"ended":-1}`), &counts); err == nil {
		t.Errorf("less than nothing is taken: %v", counts)
	}
}

// The longest intervals are forgotten ten to twenty minutes later: what was put right is no longer
// reported.
func TestLongestIntervals(t *testing.T) {
	began := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	var l extauthz.LongestIntervals
	for _, step := range []struct {
		minute   float64
		api      string
		interval time.Duration
		want     map[string]float64
	}{
		{0, "", 0, nil},
		{1, "a", 30 * time.Second, map[string]float64{"a": 30}},
		{2, "a", 20 * time.Second, map[string]float64{"a": 30}},
		{3, "b", 5 * time.Second, map[string]float64{"a": 30, "b": 5}},
		{11, "b", 4 * time.Second, map[string]float64{"a": 30, "b": 5}}, // of the span before
		{12, "a", 10 * time.Second, map[string]float64{"a": 30, "b": 5}},
		{21.5, "", 0, map[string]float64{"a": 10, "b": 4}},
		{32, "", 0, nil},
		{33, "b", time.Second, map[string]float64{"b": 1}},
		{60, "", 0, nil}, // both spans are over
	} {
		now := began.Add(time.Duration(step.minute * float64(time.Minute)))
		if step.api != "" {
			l.Add(step.api, step.interval, now)
		}
		if got := l.Seconds(now); !maps.Equal(got, step.want) {
			t.Errorf("minute %v: %v, want %v", step.minute, got, step.want)
		}
	}
}
