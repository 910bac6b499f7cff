package clickhouse_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
	"tollgate/policy/usage/clickhouse/clickhousetest"
	"tollgate/policy/usage/ledger"
)

// The engine is started once: it takes seconds. Each test has a database of its own.
func TestRealEngine(t *testing.T) {
	s := clickhousetest.Start(t)
	for name, test := range map[string]func(*testing.T, *engine){
		"sums":      sumsEqualThoseInRedis,
		"names":     namesAreNotSQL,
		"schema":    schemaIsTaken,
		"twice":     sentTwiceCountsOnce,
		"no tables": withoutTables,
		"decisions": decisionsCountOnce,
	} {
		t.Run(name, func(t *testing.T) {
			database := strings.ReplaceAll(name, " ", "_")
			s.Run("", "CREATE DATABASE "+database)
			if name != "no tables" {
				for _, statement := range clickhouse.Statements() {
					s.Run(database, statement)
				}
			}
			test(t, &engine{s, database})
		})
	}
}

type engine struct {
	*clickhousetest.Server
	database string
}

func (e *engine) run(statement string) string { return strings.TrimSpace(e.Run(e.database, statement)) }

func (e *engine) url() string { return "http://tollgate@" + e.Host + "/" + e.database }

// unreliable is a way to the engine on which requests and replies are lost while bad is set.
func (e *engine) unreliable(t *testing.T) (address string, bad *atomic.Bool) {
	bad = &atomic.Bool{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: e.Host})
	var calls atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := calls.Add(1) % 4; {
		case !bad.Load() || n == 0:
			proxy.ServeHTTP(w, r)
		case n == 1:
			http.Error(w, "no", 500)
		case n == 2:
			panic(http.ErrAbortHandler)
		default: // it is inserted, and nobody is told
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(s.Close)
	return at(t, s.URL, e.database), bad
}

func schemaIsTaken(t *testing.T, e *engine) {
	for _, statement := range clickhouse.Statements() { // again does no harm
		e.run(statement)
	}
	for _, table := range []string{"usage_hour", "usage_day", "decisions"} {
		said := e.run("SHOW CREATE TABLE " + table)
		for _, want := range []string{"TTL ", "non_replicated_deduplication_window = 10000", map[bool]string{true: "ENGINE = MergeTree", false: "AggregatingMergeTree"}[table == "decisions"]} {
			if !strings.Contains(said, want) {
				t.Errorf("%s has no %s: %s", table, want, said)
			}
		}
	}
	if !strings.Contains(clickhouse.Schema(), clickhouse.SystemLogs()) {
		t.Error("the schema does not say how system logs stay small")
	}
	var config struct {
		Logs []struct {
			XMLName xml.Name
			TTL     string `xml:"ttl"`
			Remove  string `xml:"remove,attr"`
		} `xml:",any"`
	}
	must(t, xml.Unmarshal([]byte(clickhouse.SystemLogs()), &config))
	for _, log := range config.Logs {
		if log.Remove != "1" {
			e.run("CREATE TABLE " + log.XMLName.Local + " (event_date Date) ENGINE = MergeTree ORDER BY event_date TTL " + log.TTL)
		}
	}
	if len(config.Logs) < 15 {
		t.Errorf("%+v", config)
	}
	// The comment with the system logs is one for the engine, too.
	if got := e.run("SELECT 1 " + clickhouse.Schema()[strings.Index(clickhouse.Schema(), "\n/*"):]); got != "1" {
		t.Error(got)
	}
}

func sentTwiceCountsOnce(t *testing.T, e *engine) {
	address, bad := e.unreliable(t)
	w := clickhouse.NewWriter(open(t, address), 0)
	bad.Store(true)
	for batch := range 20 {
		for key := range 10 {
			w.Add(delta(fmt.Sprint("key_", key), "job", uint64(batch+1)))
		}
		for w.Send(t.Context()) != nil {
			continue
		}
	}
	if stats := w.Stats(); stats.Rows != 400 || stats.Failed < 40 || stats.Waiting != 0 {
		t.Errorf("%+v", stats)
	}
	for _, table := range []string{"usage_hour", "usage_day"} {
		if got := e.run("SELECT sum(allowed) FROM " + table); got != "2100" {
			t.Errorf("%s: %s, want 2100", table, got)
		}
	}
	// Which the tables' setting does: without it they would count each try that has arrived.
	e.run("ALTER TABLE usage_day MODIFY SETTING non_replicated_deduplication_window = 0")
	w.Add(delta("key_0", "job", 1))
	for w.Send(t.Context()) != nil {
		continue
	}
	if hours, days := e.run("SELECT sum(allowed) FROM usage_hour"), e.run("SELECT sum(allowed) FROM usage_day"); hours != "2101" || days != "2102" {
		t.Errorf("%s and, without deduplication, %s; want 2101 and 2102", hours, days)
	}
}

// Lines of the decision log become rows as they are, each batch once however often it is sent; what
// is no column is left out.
func decisionsCountOnce(t *testing.T, e *engine) {
	address, bad := e.unreliable(t)
	d := clickhouse.NewDecisions(open(t, address))
	bad.Store(true)
	at := time.Now().UTC().Format("2006-01-02 15:04:05") // by which rows are kept
	second := strings.Replace(at, " ", "T", 1)
	allowed := `{"time":"` + second + `.104512Z","allowed":true,"decision_id":"51c0a7e94f2b83d6","reason":"allowed","api":"jobs","route":"job","key_id":"key_a","team":"red","plan":"free",` +
		`"slot_id":"00ff","of_later":{"a":[1]},"preflight":"true","method":"GET","host":"jobs.example.com","path":"/v1/jobs/17","address":"203.0.113.9","duration_ms":0.031,"share":0.1}`
	method := strings.Join(hostile(), " ")
	quoted, err := json.Marshal(method)
	must(t, err)
	failed := 0
	for n := range 20 {
		lines := allowed + "\n" + fmt.Sprintf(`{"time":"`+second+`.%06dZ","allowed":false,"decision_id":"%016d","reason":"unknown_api","status":403,"method":%s,"duration_ms":12}`, n, n, quoted) + "\n"
		for {
			taken, err := d.Take(t.Context(), []byte(lines))
			if err == nil && taken == 2 {
				break
			}
			if failed++; taken != 0 {
				t.Fatalf("%d taken, %v", taken, err)
			}
		}
	}
	if failed < 20 {
		t.Errorf("only %d tries failed", failed)
	}
	bad.Store(false)
	for query, want := range map[string]string{
		"SELECT count(), countIf(allowed), countIf(status = 403), sum(if(allowed, 1 / share, 0)) FROM decisions":                                                                      "40\t20\t20\t200",
		"SELECT DISTINCT time, reason, route, key_id, team, plan, preflight, method, host, path, address, round(duration_ms, 3), share, request_id FROM decisions WHERE api = 'jobs'": at + ".104512\tallowed\tjob\tkey_a\tred\tfree\ttrue\tGET\tjobs.example.com\t/v1/jobs/17\t203.0.113.9\t0.031\t0.1\t",
		"SELECT uniqExact(decision_id), min(time), max(time) FROM decisions WHERE status = 403":                                                                                       "20\t" + at + ".000000\t" + at + ".000019",
	} {
		if got := e.run(query); got != strings.TrimSpace(want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if got, want := e.run("SELECT DISTINCT hex(method) FROM decisions WHERE status = 403"), fmt.Sprintf("%X", method); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func withoutTables(t *testing.T, e *engine) {
	w := clickhouse.NewWriter(open(t, e.url()), 0)
	w.Add(delta("key_a", "job", 1))
	if err := w.Send(t.Context()); err == nil || !strings.Contains(err.Error(), "usage_hour") {
		t.Error(err)
	}
	wrong, err := clickhouse.Open(e.url(), "guess")
	must(t, err)
	if _, err := clickhouse.NewReader(wrong).First(t.Context(), "jobs"); err == nil || !strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), "guess") {
		t.Error(err)
	}
	for _, statement := range clickhouse.Statements() {
		e.run(statement)
	}
	must(t, w.Send(t.Context())) // once the tables are there
	if got := e.run("SELECT sum(allowed) FROM usage_hour"); got != "1" {
		t.Error(got)
	}
}

// hostile are names that would do something else if they were part of a query.
func hostile() []string {
	return []string{
		`'; DROP TABLE usage_day; --`, `" OR ""="`, `\' OR 1=1 --`, `\`, `a\tb`, "a\tb\nc", `{x:String}`, "`", `%27`, "ключ", "\u2028",
		`') UNION ALL SELECT 1 --`, `/*`, `<&>`, "", " ",
	}
}

// Each name comes back as it went in, and is asked about alone.
func namesAreNotSQL(t *testing.T, e *engine) {
	w, r := clickhouse.NewWriter(open(t, e.url()), 0), clickhouse.NewReader(open(t, e.url()))
	day := usage.DayOf(noon())
	for i, name := range hostile() {
		d := delta("key of "+name, name, uint64(i+1))
		d.API, d.Team = "api "+name, "team "+name
		d.Reasons = []usage.ReasonCount{{Reason: "why " + name, N: uint64(i + 1)}}
		w.Add(d)
	}
	must(t, w.Finish(t.Context()))
	ask := func(q usage.Question) []usage.Row {
		report := &usage.Report{By: q.By, From: day.Hour(0)}
		q.From, q.To = day.Hour(0), day
		must(t, r.AddTo(t.Context(), report, q))
		return report.Rows("")
	}
	for i, name := range hostile() {
		api := []string{"api " + name}
		for _, q := range []usage.Question{{APIs: api, Key: "key of " + name}, {APIs: api, Team: "team " + name}} {
			for by, want := range map[usage.By]string{usage.ByKey: "key of " + name, usage.ByReason: "why " + name, usage.ByRoute: name, usage.ByHour: "2026-11-29 12:00", usage.ByDay: "2026-11-29"} {
				if q.By = by; by == usage.ByKey && q.Key != "" || by == usage.ByRoute && name == "" {
					want = map[bool]string{true: usage.NoRoute, false: want}[by == usage.ByRoute]
				}
				rows := ask(q)
				if len(rows) != 1 || rows[0].Name != want || rows[0].Allowed+rows[0].Denied != uint64(i+1) {
					t.Errorf("%+v: %+v, want %q", q, rows, want)
				}
			}
		}
		if first, err := r.First(t.Context(), "api "+name); err != nil || first != day {
			t.Errorf("%q: %v %v", name, first, err)
		}
	}
	if first, err := r.First(t.Context(), "jobs"); err != nil || first != 0 {
		t.Error(first, err)
	}
	if rows := ask(usage.Question{APIs: []string{"api "}, By: usage.ByRoute}); len(rows) > 0 {
		t.Errorf("%+v", rows)
	}
}

// world is one server that counts for Redis and, over a bad network, for ClickHouse.
type world struct {
	*testing.T
	now     time.Time
	set     *policy.Set
	counter *usage.Counter
	redis   redis.UniversalClient
	ledger  *ledger.Writer
	history *clickhouse.Writer
}

func newWorld(t *testing.T, address string) *world {
	w := &world{T: t, now: noon()}
	routes := map[string]*policy.Route{"job": {Name: "job", Cost: 1}, "submit": {Name: "submit", Cost: 5}}
	w.set = policy.New(policy.Spec{Name: "jobs", Routes: routes, Usage: policy.DefaultUsage()})
	w.counter = usage.NewCounter(64*5, w.set.Find) // some keys are too many
	w.redis = redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = w.redis.Close() })
	w.ledger = ledger.NewWriter(w.redis, w.counter, func() time.Time { return w.now })
	w.history = clickhouse.NewWriter(open(t, address), 0)
	w.ledger.Tell(w.history.Add)
	return w
}

// traffic decides about requests of some keys, of unknown ones and without any, and ends some.
func (w *world) traffic(random *rand.Rand, requests int) {
	reasons := []policy.Reason{policy.Allowed, policy.Allowed, policy.Allowed, policy.RateLimited, policy.QuotaExceeded}
	for range requests {
		id := fmt.Sprintf("key_%04d", random.IntN(4000))
		team := "team " + id[len(id)-1:]
		api, route := w.set.Find("jobs", []string{"job", "submit"}[random.IntN(2)])
		reason := reasons[random.IntN(len(reasons))]
		if random.IntN(10) == 0 {
			w.counter.Decided(api, nil, nil, policy.UnknownKey, w.now)
			continue
		}
		w.counter.Decided(api, keys.NewGrant(&keys.Key{ID: id, API: "jobs", Team: team, Name: "a name", LimitID: id}), route, reason, w.now)
		if reason == policy.Allowed && random.IntN(2) == 0 {
			w.counter.Finished(&usage.Finished{
				API: "jobs", Route: route.Name, Key: id, Team: team, Start: w.now, Status: 200 + 100*random.IntN(4),
				BytesIn: 10, BytesOut: 1 << 33, Took: time.Duration(random.IntN(3000)) * time.Millisecond,
			})
		}
	}
}

func show(r *usage.Report) string {
	rows := r.Rows("")
	slices.SortFunc(rows, func(a, b usage.Row) int { return strings.Compare(a.Name, b.Name) })
	return fmt.Sprintf("total %+v\n%+v", r.Total, rows)
}

// Whatever is lost between here and ClickHouse, it and Redis answer each question alike.
func sumsEqualThoseInRedis(t *testing.T, e *engine) {
	address, bad := e.unreliable(t)
	w := newWorld(t, address)
	random := rand.New(rand.NewPCG(3, 4))
	bad.Store(true)
	for range 30 {
		w.traffic(random, 1000)
		must(t, w.ledger.Flush(t.Context()))
		_ = w.history.Send(t.Context())
		w.now = w.now.Add(31 * time.Minute) // to the next day
	}
	// A forged entry of the log, about a key that nobody has seen, counts nowhere.
	w.counter.Finished(&usage.Finished{API: "jobs", Route: "job", Key: "key_forged", Team: "red", Start: w.now, Status: 200})
	for range 30 {
		must(t, w.ledger.Flush(t.Context()))
	}
	w.history.SetAfter(func(time.Duration) <-chan time.Time { return time.After(0) })
	must(t, w.history.Finish(t.Context()))
	if stats := w.history.Stats(); stats.Failed < 20 || stats.Lost > 0 || stats.Waiting > 0 {
		t.Errorf("%+v", stats)
	}
	if s := w.ledger.Stats(); s.Unknown != 1 || s.Failed+s.Uncertain+s.Late+s.Broken > 0 || w.counter.Stats().Others == 0 {
		t.Errorf("%+v, %+v", s, w.counter.Stats())
	}
	w.compare(address, bad)
	e.run("OPTIMIZE TABLE usage_hour FINAL")
	e.run("OPTIMIZE TABLE usage_day FINAL") // rows of the same key become one
	w.compare(address, bad)
}

func (w *world) compare(address string, bad *atomic.Bool) {
	w.Helper()
	bad.Store(false)
	in := clickhouse.NewReader(open(w.T, address))
	first, last := usage.DayOf(noon()), usage.DayOf(w.now)
	for _, of := range []usage.Question{{}, {Team: "team 3"}, {Key: "key_0017"}} {
		for _, span := range [][2]usage.Day{{first, last}, {first, first}, {last, last}} {
			for _, q := range usage.Bys() {
				of.By, of.APIs, of.From, of.To = q, []string{"jobs"}, span[0].Hour(0), span[1]
				want, err := ledger.NewReader(w.redis).Ask(context.Background(), of)
				must(w.T, err)
				got := &usage.Report{By: q, From: of.From}
				must(w.T, in.AddTo(context.Background(), got, of))
				if show(got) != show(want) {
					w.Errorf("%+v:\n%.600s\nwant\n%.600s", of, show(got), show(want))
				}
				if want.Total.Allowed == 0 && of.Key == "" {
					w.Errorf("%+v: nothing was counted", of)
				}
			}
		}
	}
}
