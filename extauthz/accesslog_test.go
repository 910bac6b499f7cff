package extauthz_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
)

// Entries are counted by their kind, under the same names in metrics and in JSON.
func TestLogCounts(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := extauthz.NewMetrics(registry)
	var counts extauthz.LogCounts
	counts.Add(&extauthz.LogCounts{extauthz.LogEnded: 3, extauthz.LogTCP: 1})
	counts.Add(&extauthz.LogCounts{extauthz.LogEnded: 4})
	m.LogRead(&counts, 20*time.Millisecond)
	m.LogRead(&extauthz.LogCounts{extauthz.LogMalformed: 1}, -1) // nothing ended, so nothing was late
	m.LogStreams(2)
	m.LogStreams(-1)
	mustTell(t, registry, `tollgate_access_log_entries_total{kind="ended"} 7`, `tollgate_access_log_entries_total{kind="tcp"} 1`,
		`tollgate_access_log_entries_total{kind="malformed"} 1`, `tollgate_access_log_entries_total{kind="foreign"} 0`,
		"tollgate_access_log_streams 1", "tollgate_access_log_lag_seconds_count 1", "tollgate_access_log_lag_seconds_sum 0.02")
	got, err := json.Marshal(counts)
	if want := `{"ended":7,"foreign":0,"malformed":0,"other_log":0,"other_type":0,"periodic":0,"tcp":1}`; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRefusedUnreadIsCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := extauthz.NewMetrics(registry)
	m.GRPCRefused("malformed")
	m.HTTPRefused("too_large")
	mustTell(t, registry, `tollgate_grpc_refused_total{why="malformed"} 1`, `tollgate_http_refused_total{why="too_large"} 1`)
}

// A process that leaves is not ready again.
func TestReadiness(t *testing.T) {
	var r extauthz.Readiness
	for _, step := range []struct {
		do      func()
		serving bool
	}{
		{func() {}, true}, {func() { r.Set(false) }, false}, {func() { r.Set(true) }, true}, {r.Drain, false}, {func() { r.Set(true) }, false},
	} {
		step.do()
		if r.Serving() != step.serving {
			t.Errorf("serving %v, want %v", r.Serving(), step.serving)
		}
	}
}

func TestCleanValue(t *testing.T) {
	for value, want := range map[string]string{
		"a plain\tvalue": "a plain\tvalue", "a\r\nset-cookie: b": "a  set-cookie: b", "\x00\x7f": "  ", "\xff\xfea": "?a", "é": "é", "": "",
	} {
		if got := extauthz.CleanValue(value); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}
