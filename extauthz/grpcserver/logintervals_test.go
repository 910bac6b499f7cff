package grpcserver_test

import (
	"fmt"
	"testing"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
)

// For how long a log is silent about a request: from its begin, from entry to entry, to its end.
func TestIntervalsOfALog(t *testing.T) {
	opened := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	intervals, followed := grpcserver.LogIntervals(opened)
	const unknown = -1
	for i, step := range []struct {
		at       float64 // seconds
		decision string
		start    float64
		took     float64 // 0: it goes on
		slot     string
		want     float64
		followed int64
	}{
		{1, "a", 0.5, 0.1, "s", unknown, 0}, // too short to say anything
		{5, "a", 1, 4, "s", 4, 0},           // nothing was said of it in between
		{6, "b", 2, 0, "s", 4, 1},
		{9, "c", 8, 0, "t", 1, 2},
		{26, "b", 2, 0, "s", 20, 2},
		{27, "b", 2, 25, "s", 1, 1},
		{28, "b", 2, 26, "s", 26, 1},       // another entry of the end: it is no longer known
		{30, "d", 10, 20, "", unknown, 1},  // holds no place
		{31, "e", -5, 0, "s", unknown, 2},  // began before the stream: another one may have told of it
		{41, "e", -5, 0, "s", 10, 2},       // since then it is known
		{42, "f", -5, 47, "s", unknown, 2}, // likewise
		{43, "g", 50, 0, "s", 0, 3},        // by a clock that is ahead
	} {
		now := opened.Add(time.Duration(step.at * float64(time.Second)))
		got, ok := intervals(&extauthz.AccessLogEntry{
			DecisionID: step.decision, SlotID: step.slot, Periodic: step.took == 0,
			Start: opened.Add(time.Duration(step.start * float64(time.Second))), Duration: time.Duration(step.took * float64(time.Second)),
		}, now)
		if ok != (step.want != unknown) || ok && got.Seconds() != step.want || followed() != step.followed {
			t.Errorf("step %d: %v, %v, %d followed, want %v and %d", i, got, ok, followed(), step.want, step.followed)
		}
	}
	for i := range 20_000 {
		intervals(&extauthz.AccessLogEntry{DecisionID: fmt.Sprint("flood ", i), SlotID: "s", Periodic: true, Start: opened}, opened)
	}
	if n := followed(); n != 16<<10 {
		t.Errorf("%d requests are followed", n)
	}
}

// What a server says of the intervals of a log, and that those of APIs that it does not know are
// not kept.
func TestIntervalsAreReported(t *testing.T) {
	o := &observer{}
	s := observing(t, o)
	stream := logStream(t, s)
	entry := func(api string) *datav3.HTTPAccessLogEntry {
		e := ended(t)
		e.CommonProperties.StartTime = timestamppb.New(time.Now().Add(time.Hour)) // after the stream was opened
		e.CommonProperties.Metadata = decided(t, map[string]any{"api": api, "slot_id": "slot"})
		return e
	}
	if err := stream.Send(message("edge", entry("small"), entry("forged"))); err != nil {
		t.Fatal(err)
	}
	extauthztest.Eventually(t, "both entries", func() bool { return o.count() == 2 })
	state := s.GRPC.AccessLogs()[0]
	if len(state.Intervals) != 1 || state.Intervals["small"] != 1.5 {
		t.Errorf("%v", state.Intervals)
	}
	if apis := s.Authorizer.LoggedAPIs(); len(apis) != 1 || apis[0] != (extauthz.LoggedAPI{Name: "small"}) {
		t.Errorf("%+v: no plan limits requests under way", apis)
	}
}
