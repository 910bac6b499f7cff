package doctor_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/cmd/tollgate/cli/doctor"
	"tollgate/cmd/tollgate/exit"
	"tollgate/extauthz"
)

// now is the clock of all servers here.
var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// server answers with one report after the other, and then with the last.
func server(t *testing.T, reports ...*extauthz.LogReport) string {
	t.Helper()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/access-logs" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(reports[min(int(asked.Add(1)), len(reports))-1])
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// report is of a server with which nothing is wrong, of an API whose requests under way are
// limited, with these changes.
func report(changes ...func(*extauthz.LogReport)) *extauthz.LogReport {
	r := &extauthz.LogReport{
		Time: now, LogName: "tollgate", Decisions: 1000,
		APIs: []extauthz.LoggedAPI{{Name: "plain"}, {Name: "small", MaxDurationSeconds: 60}},
		Logs: []extauthz.AccessLog{{
			Node: "edge", Name: "tollgate", Address: "10.0.0.7", Streams: 2, Opened: 2, First: now.Add(-time.Hour), Latest: now.Add(-time.Second),
			Decided: now.Add(-time.Second), LagSeconds: 0.05, Intervals: map[string]float64{"small": 20.1, "gone": 500},
			Entries: extauthz.LogCounts{extauthz.LogEnded: 990, extauthz.LogPeriodic: 5, extauthz.LogForeign: 5},
		}},
	}
	for _, change := range changes {
		change(r)
	}
	return r
}

// run runs the command, and returns what it prints and whether something is wrong.
func run(t *testing.T, args ...string) (printed string, wrong bool, err error) {
	t.Helper()
	cmd := doctor.AccessLog()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	var failed *exit.Failure
	if errors.As(err, &failed) && failed.Err == nil {
		return out.String(), true, nil
	}
	return out.String(), false, err
}

// problems are the codes of what is wrong.
func problems(t *testing.T, servers ...string) (codes []string) {
	t.Helper()
	printed, wrong, err := run(t, "--server", strings.Join(servers, ","), "--watch", "1ms", "-o", "json")
	var found struct {
		Problems []struct {
			Code, Text string
			Change     map[string]string
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(printed), &found); err != nil {
		t.Fatalf("%v: %s", err, printed)
	}
	for _, p := range found.Problems {
		codes = append(codes, p.Code)
		if p.Text == "" || len(p.Change) == 0 {
			t.Errorf("%+v does not say what to do", p)
		}
	}
	if wrong != (len(codes) > 0) {
		t.Errorf("%v, and the exit code says %v", codes, wrong)
	}
	return codes
}

func TestWhatIsWrongWithAccessLogs(t *testing.T) {
	noLog := func(r *extauthz.LogReport) { r.Logs = nil }
	decided := func(n uint64) func(*extauthz.LogReport) { return func(r *extauthz.LogReport) { r.Decisions = n } }
	entries := func(c extauthz.LogCounts) func(*extauthz.LogReport) {
		return func(r *extauthz.LogReport) { r.Logs[0].Entries = c }
	}
	latest := func(ago time.Duration) func(*extauthz.LogReport) {
		return func(r *extauthz.LogReport) { r.Logs[0].Latest = now.Add(-ago) }
	}
	foreign := func(r *extauthz.LogReport) {
		r.Logs[0].Entries, r.Logs[0].Decided = extauthz.LogCounts{extauthz.LogForeign: 1000}, time.Time{}
	}
	trouble := func(api, problem string) func(*extauthz.LogReport) {
		return func(r *extauthz.LogReport) {
			r.Slots = append(r.Slots, extauthz.SlotTrouble{API: api, Problem: problem})
		}
	}
	for what, c := range map[string]struct {
		before, after *extauthz.LogReport
		want          string
	}{
		"nothing":                       {report(), report(), ""},
		"no request yet":                {report(noLog, decided(0)), report(noLog, decided(0)), "no_request"},
		"no log":                        {report(noLog), report(noLog, trouble("small", extauthz.SlotsNoLog)), "no_log"},
		"a log with another name":       {report(), report(func(r *extauthz.LogReport) { r.Logs[0].Name = "other" }), "wrong_name"},
		"another log beside it":         {report(), report(func(r *extauthz.LogReport) { r.Logs = append(r.Logs, extauthz.AccessLog{Node: "e", Name: "other"}) }), ""},
		"connections, not requests":     {report(), report(entries(extauthz.LogCounts{extauthz.LogTCP: 9}), func(r *extauthz.LogReport) { r.Logs[0].Decided = time.Time{} }), "tcp"},
		"without metadata":              {report(foreign), report(foreign, trouble("small", extauthz.SlotsNoLog)), "no_metadata"},
		"an API without entries":        {report(), report(trouble("small", extauthz.SlotsNoLog)), "no_log_of_api"},
		"stopped":                       {report(latest(time.Minute)), report(latest(time.Minute), decided(1001)), "silent"},
		"stopped, and nothing decided":  {report(latest(time.Hour)), report(latest(time.Hour)), ""},
		"only requests that go on":      {report(), report(decided(1050)), ""},
		"a few on their way":            {report(), report(decided(1150), entries(extauthz.LogCounts{extauthz.LogEnded: 1080})), ""},
		"half of them missing":          {report(), report(decided(1200), entries(extauthz.LogCounts{extauthz.LogEnded: 1080})), "few"},
		"a server that began anew":      {report(), report(decided(10), entries(extauthz.LogCounts{extauthz.LogEnded: 9})), ""},
		"late":                          {report(), report(func(r *extauthz.LogReport) { r.Logs[0].LagSeconds = 6 }), "late"},
		"not to be read":                {report(), report(entries(extauthz.LogCounts{extauthz.LogEnded: 990, extauthz.LogMalformed: 1})), "malformed"},
		"long requests told of seldom":  {report(), report(func(r *extauthz.LogReport) { r.Logs[0].Intervals["small"] = 22.1 }), "interval"},
		"places that end by themselves": {report(), report(trouble("", extauthz.SlotsExpired)), "expired"},
		"rights that are missing":       {report(), report(trouble("", extauthz.SlotsDenied)), "denied"},
	} {
		if got := strings.Join(problems(t, server(t, c.before, c.after)), " "); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

// An Envoy sends its log to any replica, whichever has decided.
func TestReplicasAreJudgedTogether(t *testing.T) {
	decides := report(func(r *extauthz.LogReport) {
		r.Logs = nil
		r.Slots = []extauthz.SlotTrouble{{API: "small", Problem: extauthz.SlotsNoLog}}
	})
	more := report(func(r *extauthz.LogReport) { r.Logs, r.Decisions = nil, 1500 })
	is := report(func(r *extauthz.LogReport) { r.Logs[0].Latest = now.Add(-time.Minute) })
	gets := report(func(r *extauthz.LogReport) { r.Logs[0].Entries[extauthz.LogEnded] = 1480 })
	if got := problems(t, server(t, decides, more), server(t, is, gets)); len(got) > 0 {
		t.Errorf("%v", got)
	}
	if got := problems(t, server(t, decides, decides), server(t, is, is)); len(got) > 0 {
		t.Errorf("of one that no request has come to in between: %v", got)
	}
	away := httptest.NewServer(nil)
	away.Close()
	if got := problems(t, away.URL, server(t, report())); !slices.Equal(got, []string{"unreachable"}) {
		t.Errorf("%v", got)
	}
	if got := problems(t, away.URL); !slices.Equal(got, []string{"unreachable"}) {
		t.Errorf("%v", got)
	}
}

// What answers and is no server.
func TestWhatIsNoServer(t *testing.T) {
	for what, answer := range map[string]http.HandlerFunc{
		"it answers 404":       func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"its report cannot be": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) },
		"is not a report":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
		"larger than 16 MiB":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte(" "), 17<<20)) },
		"unexpected EOF": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = w.Write([]byte("{"))
		},
		"entries: json: cannot": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"logs":[{"entries":[]}]}`)) },
	} {
		s := httptest.NewServer(answer)
		printed, wrong, err := run(t, "--server", s.URL, "--watch", "0s")
		s.Close()
		if err != nil || !wrong || !strings.Contains(printed, what) || !strings.Contains(printed, "problem: "+s.URL) {
			t.Errorf("%s: %s, %v", what, printed, err)
		}
	}
}

func TestWhatIsPrinted(t *testing.T) {
	printed, wrong, err := run(t, "--server", server(t, report(), report(func(r *extauthz.LogReport) {
		r.Decisions, r.Logs[0].Entries = 1002, extauthz.LogCounts{extauthz.LogEnded: 992, extauthz.LogPeriodic: 5, extauthz.LogForeign: 5}
	})), "--watch", "10ms")
	want := `1 server, 10 ms: 2 requests decided, 2 ended by the access logs
NODE  ADDRESS   LOG       STREAMS  LAST ENTRY   LAG    OUR METADATA
edge  10.0.0.7  tollgate  2        1.0 s ago    50 ms  997 of 1002
api small: silent about a request for 20.1 s at most; a third of max_duration is 20.0 s
ok
`
	if squeezed := func(s string) string { return strings.Join(strings.Fields(s), " ") }; err != nil || wrong || squeezed(printed) != squeezed(want) {
		t.Errorf("%v:\n%s\nwant\n%s", err, printed, want)
	}
	hostile := report(func(r *extauthz.LogReport) {
		r.Logs[0].Node, r.Logs[0].LagSeconds, r.Logs[0].Intervals = "ed\x1b[2Jge", 200, nil
		r.APIs = []extauthz.LoggedAPI{{Name: "small", MaxDurationSeconds: 5}}
	})
	hostile.Logs = append(hostile.Logs, extauthz.AccessLog{Name: "other", LagSeconds: -1})
	printed, wrong, err = run(t, "--server", server(t, hostile), "--watch", "0s")
	for _, want := range []string{
		"ed?[2Jge", "not read", "api small: no long request was seen; a third of max_duration is 1.7 s\n",
		"problem: the log of Envoy ed?[2Jge (10.0.0.7): entries come 3 min after the end of their requests", "  Envoy: set buffer_flush_interval: 0.05s", "  Istio: ", "  Envoy Gateway: ",
	} {
		if err != nil || !wrong || !strings.Contains(printed, want) || strings.Contains(printed, "\x1b") {
			t.Errorf("%q is not in\n%s, %v", want, printed, err)
		}
	}
	printed, _, _ = run(t, "--server", server(t, report(func(r *extauthz.LogReport) {
		r.APIs[1].MaxDurationSeconds = 10
	})), "--watch", "0s")
	if !strings.Contains(printed, "access_log_flush_interval: 3s") {
		t.Errorf("%s", printed)
	}
}

func TestMistakesOfDoctor(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--server is missing"},
		{[]string{"--server", "127.0.0.1:9002"}, "--server 1: want a URL such as http://127.0.0.1:9002"},
		{[]string{"--server", "http://a,ftp://b"}, "--server 2: want a URL such as"},
		{[]string{"--server", "http://ada:hunter2@a"}, "without user, query and fragment"},
		{[]string{"--server", "http://a", "--watch", "-1s"}, "--watch: -1s is not 0s to 10m0s"},
		{[]string{"hunter2"}, "access-log: takes flags only"},
		{[]string{"--server", "http://a", "-o", "csv"}, `"csv" is not table, json or yaml`},
	} {
		printed, _, err := run(t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error()+printed, "hunter2") {
			t.Errorf("%v: %s, %v, want %s", c.args, printed, err, c.want)
		}
	}
	if _, wrong, err := run(t, "--server", server(t, report()), "--watch", fmt.Sprint(0)); wrong || err != nil {
		t.Errorf("%v, %v", wrong, err)
	}
}
