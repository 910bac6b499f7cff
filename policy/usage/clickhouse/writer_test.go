package clickhouse_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
)

// A reply that was lost, a 500, a connection that breaks: each insert comes again with the same
// token and the same bytes, and what came meanwhile comes after it.
func TestInsertsAreRepeatedUntilAcknowledged(t *testing.T) {
	s := newStandIn(t)
	s.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch n {
		case 1:
			http.Error(w, "Code: 241. DB::Exception: Memory limit exceeded", 500)
		case 2:
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	s.after = func(n int, w http.ResponseWriter) bool {
		if n == 3 || n == 5 {
			panic(http.ErrAbortHandler) // it is inserted, and nobody is told
		}
		return false
	}
	w := clickhouse.NewWriter(open(t, s.URL), 0)
	for i := range 10 {
		w.Add(delta(fmt.Sprint("key_", i), "job", 1))
	}
	for i := range 6 {
		err := w.Send(t.Context())
		if failed := i < 4; (err != nil) != failed {
			t.Fatalf("try %d: %v", i, err)
		}
		if i == 0 {
			if !strings.Contains(err.Error(), "Memory limit exceeded") {
				t.Error(err)
			}
			for i := range 20 {
				w.Add(delta(fmt.Sprint("key_", i), "job", 2))
			}
		}
	}
	if got, want := s.sum(), "30 rows, 50; 30 rows, 50"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if stats := w.Stats(); stats != (clickhouse.Stats{Rows: 60, Failed: 4}) {
		t.Errorf("%+v", stats)
	}
	if s.tokens[0] != s.tokens[1] || s.tokens[0] != s.tokens[4] || s.tokens[0] == s.tokens[len(s.tokens)-1] {
		t.Error(s.tokens)
	}
}

// What waits has a bound, in rows and in memory. What has no room is dropped as a whole and
// counted; what has a row already is added to that however long nobody takes it.
func TestWaitingIsBounded(t *testing.T) {
	const most = 100_000
	w := clickhouse.NewWriter(open(t, "http://127.0.0.1:1"), most)
	before := heap()
	fill := func() {
		for i := range 100_000 {
			w.Add(delta(fmt.Sprintf("key_%016d", i), "job", 1))
		}
	}
	fill()
	if err := w.Send(t.Context()); err == nil {
		t.Fatal("there is somebody on port 1")
	}
	fill()
	stats := w.Stats()
	if stats.Waiting != most || stats.Lost != 150_000 || stats.Failed != 1 {
		t.Errorf("%+v", stats)
	}
	if used := heap() - before; used > most*300 {
		t.Errorf("%d rows take %d bytes, %d each", stats.Waiting, used, used/most)
	} else {
		t.Logf("%d bytes a row", used/most)
	}
	runtime.KeepAlive(w)

	open := clickhouse.NewWriter(open(t, "http://127.0.0.1:1"), 2)
	for range 5 {
		open.Add(delta("key_a", "job", 1))
	}
	open.Add(delta("key_a", "submit", 1))
	if stats := open.Stats(); stats.Waiting != 2 || stats.Lost != 1 {
		t.Errorf("%+v", stats)
	}
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// Whoever adds does not wait for a ClickHouse that hangs, and what it was given is sent when it no
// longer does.
func TestNobodyWaitsForOneThatHangs(t *testing.T) {
	s := newStandIn(t)
	hung, let := make(chan struct{}), make(chan struct{})
	s.before = func(n int, _ http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			close(hung)
			<-let
		}
		return false
	}
	w := clickhouse.NewWriter(open(t, s.URL), 0)
	w.Add(delta("key_a", "job", 1))
	sent := make(chan error)
	go func() { sent <- w.Send(context.Background()) }()
	<-hung
	for range 1000 {
		w.Add(delta("key_b", "job", 1)) // would wait for ever, as Send does
	}
	if stats := w.Stats(); stats.Waiting != 4 || stats.Rows != 0 {
		t.Errorf("%+v", stats)
	}
	close(let)
	must(t, <-sent)
	must(t, w.Finish(t.Context()))
	if got, want := s.sum(), "2 rows, 1001; 2 rows, 1001"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Run sends every ten seconds, pauses longer after each failure, and does not wait for the time
// when there is enough for an insert. At the end Finish sends the rest, or says what it could not.
func TestRun(t *testing.T) {
	s := newStandIn(t)
	var broken atomic.Bool
	s.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		if broken.Load() {
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
		return broken.Load()
	}
	w := clickhouse.NewWriter(open(t, s.URL), 0)
	pauses, ticks := make(chan time.Duration), make(chan time.Time)
	w.SetAfter(func(d time.Duration) <-chan time.Time { pauses <- d; return ticks })
	failures := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run(ctx, func(err error) { failures <- err }) }()

	about := func(want time.Duration) {
		t.Helper()
		if d := <-pauses; d < want*8/10 || d > want*12/10 {
			t.Fatalf("paused %s, want about %s", d, want)
		}
	}
	about(clickhouse.SendInterval)
	w.Add(delta("key_a", "job", 1))
	broken.Store(true)
	ticks <- time.Time{}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if err := <-failures; !strings.Contains(err.Error(), "503") {
			t.Error(err)
		}
		about(want * time.Second)
		if want == 60 {
			broken.Store(false)
		}
		ticks <- time.Time{}
		if want == 60 {
			break
		}
	}
	about(clickhouse.SendInterval)
	for i := range clickhouse.InsertRows {
		w.Add(delta(fmt.Sprint("key_", i), "job", 1)) // two rows each: enough, twice
	}
	about(clickhouse.SendInterval) // without a tick
	stop()
	for ended != nil {
		select {
		case <-ended:
			ended = nil
		case <-pauses:
		}
	}
	broken.Store(true)
	w.Add(delta("key_z", "job", 1))
	short, cancel := context.WithCancel(t.Context())
	w.SetAfter(func(time.Duration) <-chan time.Time { cancel(); return nil })
	if err := w.Finish(short); err == nil || !strings.Contains(err.Error(), "rows of usage were not sent") {
		t.Error(err)
	}
	broken.Store(false)
	must(t, w.Finish(t.Context()))
	want := uint64(clickhouse.InsertRows + 2)
	if s.sums["usage_hour"]["allowed"] != want || s.sums["usage_day"]["allowed"] != want || w.Stats().Waiting != 0 {
		t.Errorf("%s, want %d; %+v", s.sum(), want, w.Stats())
	}
}

// No pause is so long that the float is no duration.
func TestPausesEnd(t *testing.T) {
	for _, failures := range []int{7, 100, 100_000} {
		if d := clickhouse.PauseAfter(failures); d < 48*time.Second || d > 72*time.Second {
			t.Errorf("%d failures: %s", failures, d)
		}
	}
}

// Many rows are several inserts, and one that fails has none of the others sent twice.
func TestLargeBatchesAreSplit(t *testing.T) {
	s := newStandIn(t)
	s.before = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n == 2 {
			http.Error(w, "", 500)
		}
		return n == 2
	}
	w := clickhouse.NewWriter(open(t, s.URL), 0)
	for i := range clickhouse.InsertRows + 1 {
		w.Add(delta(fmt.Sprint("key_", i), "job", 1))
	}
	if err := w.Send(t.Context()); err == nil {
		t.Error("the second insert was refused")
	}
	must(t, w.Send(t.Context()))
	if want := fmt.Sprintf("%d rows, %[1]d; %[1]d rows, %[1]d", clickhouse.InsertRows+1); s.sum() != want || s.calls != 5 {
		t.Errorf("%s in %d calls, want %s in 5", s.sum(), s.calls, want)
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"":                               "want http://",
		"127.0.0.1:8123":                 "want http://",
		"tcp://h:9000":                   "want http://",
		"http://":                        "want http://",
		"http://h/a/b":                   "want http://",
		"http://h/?password=hunter2":     "want http://",
		"http://h#hunter2":               "want http://",
		"http://u:hunter2@h":             "in a file of its own",
		"http://h:hunter2/":              "want http://",
		"http://h:8123":                  "",
		"https://tollgate@h.example/use": "",
	} {
		_, err := clickhouse.Open(address, "")
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", address, err, want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: the password is in %v", address, err)
		}
	}
}

// The password goes to the address that was given and nowhere else, and is in no error.
func TestPasswordStaysHere(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer other.Close()
	s := newStandIn(t)
	s.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		user, password, database := r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key"), r.URL.Query().Get("database")
		if user != "tollgate" || password != "secret" || database != "history" || strings.Contains(r.URL.String(), "secret") {
			t.Errorf("%s %s %s", user, password, r.URL)
		}
		switch n {
		case 1:
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			w.Header().Set("X-ClickHouse-Exception-Code", "60")
		}
		return n <= 3
	}
	w := clickhouse.NewWriter(open(t, at(t, s.URL, "history")), 0)
	w.Add(delta("key_a", "job", 1))
	for _, want := range []string{"307", "EOF", "code 60"} {
		err := w.Send(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		for _, secret := range []string{"secret", "INSERT", "token"} {
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Error(err)
			}
		}
	}
	must(t, w.Send(t.Context()))
}

func TestReaderAsksAndAdds(t *testing.T) {
	answers := map[string]string{}
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		args := r.URL.Query()
		asked = append(asked, fmt.Sprint(args.Get("param_api"), " ", args.Get("param_key"), " ", args.Get("param_team"), " ", args.Get("param_from"), " ", args.Get("param_to")))
		for part, answer := range answers {
			if strings.Contains(args.Get("query"), part) {
				_, _ = fmt.Fprint(w, answer)
				return
			}
		}
	}))
	defer s.Close()
	day := usage.DayOf(noon())
	r := clickhouse.NewReader(open(t, s.URL))
	q := usage.Question{APIs: []string{"jobs"}, By: usage.ByRoute, From: day.Hour(0), To: day}
	ask := func(by usage.By, part, answer string) *usage.Report {
		t.Helper()
		clear(answers)
		answers[part], q.By = answer, by
		report := &usage.Report{By: by, From: q.From}
		must(t, r.AddTo(t.Context(), report, q))
		return report
	}
	report := ask(usage.ByRoute, "route AS name", `{"at":0,"name":"job","allowed":18446744073709551615,"denied":2,"cost":3,"status_none":1,"status_2xx":2,"status_3xx":3,"status_4xx":4,"status_5xx":5,"bytes_in":6,"bytes_out":7,"ms":8,"max_ms":9,"slow":10}
{"at":0,"name":"","denied":1}
`)
	rows := report.Rows(usage.MostSlow)
	if len(rows) != 2 || rows[0].Allowed != 1<<64-1 || rows[0].Status != [...]uint64{1, 2, 3, 4, 5} || rows[0].MaxMillis != 9 || rows[1].Name != usage.NoRoute {
		t.Errorf("%+v", rows)
	}
	if rows := ask(usage.ByDay, "toUInt32(day) AS at", fmt.Sprintf(`{"at":%d,"allowed":1}`, day)).Rows(""); len(rows) != 1 || rows[0].Name != "2026-11-29" {
		t.Errorf("%+v", rows)
	}
	if rows := ask(usage.ByHour, "usage_hour", fmt.Sprintf(`{"at":%d,"allowed":1}`, day.Hour(7))).Rows(""); len(rows) != 1 || rows[0].Name != "2026-11-29 07:00" {
		t.Errorf("%+v", rows)
	}
	if rows := ask(usage.ByKey, "key_id AS name", `{"name":"","allowed":1}`).Rows(""); len(rows) != 1 || rows[0].Name != usage.OtherKeys {
		t.Errorf("%+v", rows)
	}
	if rows := ask(usage.ByReason, "sum(refused)", `{"reason":"rate_limited","refused":3}`).Rows(""); len(rows) != 1 || rows[0].Denied != 3 {
		t.Errorf("%+v", rows)
	}
	q.Key, q.Team = `k'\`+"\t", "red"
	if rows := ask(usage.ByMonth, "no such", "").Rows(""); len(rows) != 0 {
		t.Errorf("%+v", rows)
	}
	if got, want := asked[len(asked)-1], fmt.Sprintf(`jobs k'\\\t red %d %[1]d`, day); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	clear(answers)
	answers["min(day)"] = fmt.Sprintf(`{"at":%d}`, day)
	if first, err := r.First(t.Context(), "jobs"); err != nil || first != day {
		t.Error(first, err)
	}
	answers["min(day)"] = `{"at":`
	if _, err := r.First(t.Context(), "jobs"); err == nil {
		t.Error("half an answer was taken")
	}
	answers["usage_day"] = "<html>"
	for _, by := range []usage.By{usage.ByReason, usage.ByRoute} {
		q.By = by
		if err := r.AddTo(t.Context(), &usage.Report{By: by}, q); err == nil {
			t.Error("a page was taken for an answer")
		}
	}
}

// Lines of decisions go as they are. Those that were not acknowledged come again under the same
// name, and the next ones under another.
func TestDecisions(t *testing.T) {
	s := newStandIn(t)
	s.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if args := r.URL.Query(); args.Get("input_format_skip_unknown_fields") != "1" || args.Get("insert_deduplicate") != "1" {
			t.Errorf("%v", args)
		}
		if n == 1 {
			http.Error(w, "Code: 241. DB::Exception: Memory limit exceeded", 500)
		}
		return n == 1
	}
	s.after = func(n int, _ http.ResponseWriter) bool {
		if n == 2 {
			panic(http.ErrAbortHandler) // it is inserted, and nobody is told
		}
		return false
	}
	d := clickhouse.NewDecisions(open(t, s.URL))
	first, second := []byte("{\"allowed\":true,\"status\":1}\n{\"status\":2}\n"), []byte("{\"status\":4}\n")
	for range 2 {
		if n, err := d.Take(t.Context(), first); n != 0 || err == nil {
			t.Errorf("%d taken, %v", n, err)
		}
	}
	if n, err := d.Take(t.Context(), first); n != 2 || err != nil {
		t.Errorf("%d taken, %v", n, err)
	}
	if n, err := d.Take(t.Context(), second); n != 1 || err != nil {
		t.Errorf("%d taken, %v", n, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows["decisions"] != 3 || s.sums["decisions"]["status"] != 7 {
		t.Errorf("%v %v", s.rows, s.sums)
	}
	if len(s.tokens) != 4 || s.tokens[0] != s.tokens[1] || s.tokens[0] != s.tokens[2] || s.tokens[0] == s.tokens[3] {
		t.Error(s.tokens)
	}
}
