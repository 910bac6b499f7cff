package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/cmd/tollgate-bench/bench/load"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

func TestStat(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Stat
	}{
		{nil, Stat{}},
		{[]float64{3}, Stat{3, 3, 3}},
		{[]float64{9, 1, 5}, Stat{5, 1, 9}},
		{[]float64{4, 1, 9, 2}, Stat{3, 1, 9}},
	} {
		before := slices.Clone(c.values)
		if got := newStat(c.values); got != c.want || !slices.Equal(before, c.values) {
			t.Errorf("%v: %+v, want %+v", c.values, got, c.want)
		}
	}
	if got := ratios([]float64{1, 6, 5}, []float64{2, 3, 0}); !slices.Equal(got, []float64{.5, 2}) {
		t.Errorf("ratios %v", got)
	}
}

// The ratio is that of the rounds, not of the medians.
func TestRowComparesWithinARound(t *testing.T) {
	base := []sample{{cpu: 10}, {cpu: 20}, {cpu: 40}}
	row := newRow(testCase{id: "b"}, []sample{{cpu: 5, redis: 1, checks: 1, p99: 3}, {cpu: 8, redis: 6, checks: 2, p99: 1}, {cpu: 40, redis: 10, checks: 3, p99: 2}}, base)
	if row.RedisRatio != (Stat{.25, .1, .3}) || row.RedisCPU.Median != 6 {
		t.Errorf("Redis: %+v", row)
	}
	if row.Ratio != (Stat{.5, .4, 1}) || row.CPU != (Stat{8, 5, 40}) || row.P99.Median != 2 || row.Checks != 6 {
		t.Errorf("%+v", row)
	}
	full := &beside{own: []edgeSample{{envoy: 15, server: 3, redis: 2}, {envoy: 60}}, base: []edgeSample{{envoy: 20, server: 10}, {envoy: 60}},
		none: []edgeSample{{envoy: 10}, {envoy: 20}}}
	fixed := &beside{own: []edgeSample{{p50: 4}, {p50: 8}}, base: make([]edgeSample, 2), none: []edgeSample{{p50: 1}, {p50: 2}}}
	edge := newEdgeRow(setup{id: "b"}, full, fixed)
	if edge.Added != (Stat{25, 10, 40}) || edge.Ratio != (Stat{.75, .5, 1}) || edge.AddedP50.Median != 4.5 || edge.Total.Min != 20 {
		t.Errorf("%+v", edge)
	}
}

// A study can be cut down to some rows, by names that exist.
func TestRowsOfAStudy(t *testing.T) {
	s := comparison()
	if err := s.keep([]string{"h", "b"}); err != nil || len(s.rows) != 2 || s.rows[0].id != "h" || len(s.all()) != 4 {
		t.Errorf("%v, %+v", err, s.rows)
	}
	if err := s.keep([]string{"c"}); err == nil || err.Error() != `--rows: unknown row "c", want some of h, b` {
		t.Errorf("%v", err)
	}
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		line       Line
		met, fails bool
		verdict    string
	}{
		{Line{Limit: .7, Got: .7, Guards: true}, true, false, "reached"},
		{Line{Limit: .7, Got: .76, Guards: true}, false, false, "missed by less than 10 %"},
		{Line{Limit: .7, Got: .78, Guards: true}, false, true, "MISSED"},
		{Line{Limit: 3, Got: 30}, false, false, "missed"},
		{Line{Limit: 3, Got: 4.2, Guards: true, Slack: 1}, false, false, "missed, within what it may be off"},
		{Line{Limit: 3, Got: 4.4, Guards: true, Slack: 1}, false, true, "MISSED"},
		{Line{Limit: .7, Guards: true}, false, true, "MISSED, nothing to compare"},
		{Line{Limit: .7}, false, false, "missed, nothing to compare"},
		{Line{Limit: .7, Got: -3, Guards: true}, false, true, "MISSED, nothing to compare"},
		{Line{Limit: .7, Got: math.NaN(), Guards: true}, false, true, "MISSED, nothing to compare"},
		{Line{Limit: .7, Got: math.Inf(-1), Guards: true}, false, true, "MISSED, nothing to compare"},
		{Line{Limit: .7, Got: math.Inf(1)}, false, false, "missed, nothing to compare"},
		{Line{Limit: 3, Guards: true, ZeroCounts: true}, true, false, "reached"},
		{Line{Limit: 3, Got: -1, Guards: true, ZeroCounts: true}, true, false, "reached"},
		{Line{Limit: 3, Got: math.NaN(), Guards: true, ZeroCounts: true}, false, true, "MISSED, nothing to compare"},
	} {
		if c.line.Met() != c.met || c.line.Fails() != c.fails || c.line.verdict() != c.verdict {
			t.Errorf("%+v: %v, %v, %s", c.line, c.line.Met(), c.line.Fails(), c.line.verdict())
		}
	}
	base := &Row{Allocations: Stat{Median: 50}, Bytes: Stat{Median: 4000}}
	row := &Row{Ratio: Stat{Median: .9}, RedisRatio: Stat{Median: .2}, Allocations: Stat{Median: 52}, Bytes: Stat{Median: 6000}, Lookups: Stat{Median: .5}}
	want := map[string][]Line{
		"a": nil,
		"b": {{"b", "server CPU, ratio to (a)", .70, .9, true, 0, false}, {"b", "Redis CPU, ratio to (a)", .07, .2, false, 0, true},
			{"b", "allocations per check beyond grpc-go's", 3, 2, true, 0, true}, {"b", "bytes allocated per check beyond grpc-go's", 1024, 2000, true, 0, true}},
		"c": {{"c", "server CPU, ratio to (a)", 1, .9, true, 0, false}, {"c", "Redis CPU, ratio to (a)", .32, .2, false, 0, true}},
		"d": {{"d", "server CPU, ratio to (a)", .75, .9, true, 0, false}, {"d", "look-ups per key, replica and second", 1, .5, false, 0, true}},
		"e": {{"e", "server CPU, ratio to (a)", .75, .9, true, 0, false}, {"e", "Redis CPU, ratio to (a)", .02, .2, false, 0, true}},
		"f": {{"f", "server CPU, ratio to (a)", .65, .9, true, 0, false}, {"f", "Redis CPU, ratio to (a) (none)", noRedis, .2, false, 0, true}},
		"g": {{"g", "server CPU, ratio to (a)", 1.15, .9, true, 0, false}},
		"h": nil,
	}
	for _, c := range cases() {
		if got := c.lines(row, base, &Options{Judge: true, JudgeMemory: true, Duration: time.Second}); !reflect.DeepEqual(got, want[c.id]) {
			t.Errorf("case %s: %+v", c.id, got)
		}
	}
	if l := cases()[1].lines(row, base, &Options{Duration: 300 * time.Millisecond}); l[2].Slack != 1 || l[3].Slack != 80 || l[0].Slack != 0 {
		t.Errorf("of a short run: %+v", l)
	}
	const ratio, bytes = "(b) server CPU, ratio to (a): 0.90, at most 0.70", "(b) bytes allocated per check beyond grpc-go's: 2000, at most 1024"
	for want, o := range map[string]Options{
		ratio + "; " + bytes: {Judge: true, JudgeMemory: true}, ratio: {Judge: true}, bytes: {JudgeMemory: true}, "": {},
	} {
		if fails := (&Report{Lines: cases()[1].lines(row, base, &o)}).Fails(); FailureText(fails) != want {
			t.Errorf("%q, want %q", FailureText(fails), want)
		}
	}
}

func TestFailureText(t *testing.T) {
	const want = "(b) what: 2.00, at most 1.00; growth: nothing to compare, at most 1.15"
	if got := FailureText([]Line{{Case: "b", What: "what", Limit: 1, Got: 2}, {What: "growth", Limit: 1.15}}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// reports are one of each kind with every field set.
func reports(t *testing.T) (*Report, *EdgeReport) {
	t.Helper()
	stat := Stat{2, 1, 3}
	r := &Report{Version: "v", Date: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Machine: "a <CPU> & more", CPUs: 2, Go: "go", Load: "load", Rounds: 7, Seconds: 2,
		OpenLoop: &OpenLoop{1000, 14, stat, stat, stat, stat, stat}, Growth: []Growth{{"server CPU by keys", 10, stat, "µs", 1.5}},
		Features: []Feature{{"usage counted", stat, stat, stat}}}
	for _, c := range cases() {
		r.Rows = append(r.Rows, Row{c.id, c.name, stat, stat, stat, stat, stat, stat, stat, stat, stat, stat, stat, stat, 5})
	}
	r.Lines = []Line{{"b", "what", 1, 2, true, 0, true}}
	e := &EdgeReport{Version: "v", Date: r.Date, Machine: r.Machine, CPUs: 2, Go: "go", Envoy: "1.40.0", Load: "load", Rounds: 7, Seconds: 2, PerSecond: 9, Base: "a", Lines: r.Lines}
	compared := comparison()
	for _, s := range compared.all() {
		e.Rows = append(e.Rows, EdgeRow{s.id, s.name, stat, stat, stat, stat, Stat{-1, -2, 3}, stat, stat, stat, stat, stat, stat, stat})
	}
	return r, e
}

// The names of the JSON fields are what programs rely on.
func TestJSON(t *testing.T) {
	r, e := reports(t)
	for _, c := range []struct {
		write func(io.Writer) error
		into  any
		paths []string
	}{
		{r.WriteJSON, new(Report), []string{"version", "date", "machine", "cpus", "go", "load", "rounds", "seconds", "rows", "open_loop", "features", "growth", "lines"}},
		{e.WriteJSON, new(EdgeReport), []string{"version", "date", "machine", "cpus", "go", "envoy", "load", "rounds", "seconds", "requests_per_second", "base", "rows", "lines"}},
	} {
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(b.Bytes(), &fields); err != nil {
			t.Fatal(err)
		}
		if len(fields) != len(c.paths) {
			t.Errorf("%d fields, want %d", len(fields), len(c.paths))
		}
		for _, p := range c.paths {
			if fields[p] == nil {
				t.Errorf("no field %s", p)
			}
		}
		if err := json.Unmarshal(b.Bytes(), c.into); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]any{true: r, false: e}[reflect.TypeOf(c.into) == reflect.TypeOf(r)]; !reflect.DeepEqual(c.into, want) {
			t.Errorf("read again it is %+v", c.into)
		}
	}
	row, err := json.Marshal(r.Rows[1])
	for _, name := range []string{"server_cpu_us", "ratio", "redis_cpu_us", "p50_us", "p99_us", "p999_us", "allocations", "bytes", "rss_bytes"} {
		if err != nil || !strings.Contains(string(row), `"`+name+`":{"median":2,"min":1,"max":3}`) {
			t.Errorf("no %s in %s", name, row)
		}
	}
}

// A ratio to nothing is no ratio, whether or not a round had a base.
func TestRatioToNothingFails(t *testing.T) {
	c := cases()[1]
	row := newRow(c, []sample{{cpu: 5}}, []sample{{cpu: 0}})
	if l := c.lines(&row, &Row{}, &Options{Judge: true})[0]; l.Met() || !l.Fails() {
		t.Errorf("%+v: %s", l, l.verdict())
	}
	edge := newEdgeRow(setup{id: "b"}, &beside{own: []edgeSample{{envoy: 200}}, base: []edgeSample{{envoy: 90}}, none: []edgeSample{{envoy: 100}}}, &beside{})
	if l := (Line{Limit: .85, Got: edge.Ratio.Median, Guards: true}); !l.Fails() {
		t.Errorf("%+v: %s", l, l.verdict())
	}
}

// JSON has no word for what is no number; the report is written all the same.
func TestJSONWithoutNumbers(t *testing.T) {
	r, e := reports(t)
	none := Stat{math.NaN(), math.Inf(-1), math.Inf(1)}
	r.Rows[1].Ratio, e.Rows[2].Ratio, r.Lines, e.Lines = none, none, []Line{{What: "what", Got: math.NaN()}}, []Line{{What: "what", Got: math.Inf(1)}}
	for _, write := range []func(io.Writer) error{r.WriteJSON, e.WriteJSON} {
		var b, flat bytes.Buffer
		if err := errors.Join(write(&b), json.Compact(&flat, b.Bytes())); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"ratio":{"median":null,"min":null,"max":null}`, `"got":null`} {
			if !strings.Contains(flat.String(), want) {
				t.Errorf("no %s in %s", want, &flat)
			}
		}
	}
}

func TestTableAndChart(t *testing.T) {
	r, e := reports(t)
	for _, c := range []struct {
		table, chart func(io.Writer) error
		says         []string
		bars         int
	}{
		{r.WriteTable, r.WriteChart, []string{"(b)", "2.00", "1.00–3.00", "open loop at 1000 checks/s, 14 rounds", "MISSED", "growth", "usage counted"}, len(cases())},
		{e.WriteTable, e.WriteChart, []string{"no filter", "-1.00", "MISSED", "Envoy 1.40.0"}, len(e.Rows) - 1}, // one row is without a filter
	} {
		var b bytes.Buffer
		if err := c.table(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.says {
			if !strings.Contains(b.String(), want) {
				t.Errorf("the table does not say %q:\n%s", want, &b)
			}
		}
		b.Reset()
		if err := c.chart(&b); err != nil {
			t.Fatal(err)
		}
		bars := 0
		for d := xml.NewDecoder(&b); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
				bars++
			}
		}
		if bars != c.bars+1 { // and the background
			t.Errorf("%d bars, want %d", bars-1, c.bars)
		}
	}
}

// What was measured must be what the case is about.
func TestVerify(t *testing.T) {
	read := func(reasons map[string]float64) *reading { return &reading{figures: &figures{decisions: reasons}} }
	none := read(map[string]float64{"allowed": 5})
	for _, c := range []struct {
		id     string
		result load.Result
		after  map[string]float64
		says   string
	}{
		{"b", load.Result{Calls: 2, Allowed: 2}, map[string]float64{"allowed": 7}, ""},
		{"b", load.Result{}, nil, "no check"},
		{"b", load.Result{Calls: 2, Allowed: 1, Failed: 1, Failure: "gone"}, nil, "gone"},
		{"b", load.Result{Calls: 2, Allowed: 1, Denied: 1}, nil, "refused"},
		{"b", load.Result{Calls: 2, Allowed: 2}, map[string]float64{"allowed": 6}, "1 checks were decided as allowed, but 2"},
		{"d", load.Result{Calls: 2, Denied: 2}, map[string]float64{"allowed": 5, "rate_limited": 2}, ""},
		{"d", load.Result{Calls: 2, Denied: 1, Allowed: 1}, nil, "allowed"},
		{"e", load.Result{Calls: 2, Denied: 2}, map[string]float64{"undecided": 1, "unknown_key": 1}, "decided as undecided"},
		{"a", load.Result{Calls: 2, Allowed: 2}, nil, ""},
	} {
		i := slices.IndexFunc(cases(), func(t testCase) bool { return t.id == c.id })
		err := cases()[i].verify(&c.result, none, read(c.after))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("case %s, %+v: %v, want %q", c.id, c.result, err, c.says)
		}
	}
}

func TestFigures(t *testing.T) {
	f := &figures{decisions: map[string]float64{}}
	for _, line := range []string{
		"# HELP go_memstats_mallocs_total x", "go_memstats_mallocs_total 1.5e+06", "go_memstats_alloc_bytes_total 20", "go_memstats_alloc_bytes 10",
		`tollgate_decisions_total{api="bench",plan="pro",reason="allowed",route="item"} 3`, `tollgate_decisions_total{api="other",plan="",reason="allowed",route=""} 4`, "other 1", "",
		`tollgate_limit_spends_total{from="lease"} 5`, `tollgate_limit_spends_total{from="store"} 6`,
	} {
		if err := f.line(line); err != nil {
			t.Error(err)
		}
	}
	if f.mallocs != 1.5e6 || f.allocated != 20 || f.live != 10 || f.spends != 6 || f.decisions["allowed"] != 7 || len(f.decisions) != 1 {
		t.Errorf("%+v", f)
	}
	if f.line("go_memstats_mallocs_total many") == nil {
		t.Error("a number that is none")
	}
}

// The policy compiles, and every key of the load fits it.
func TestPolicyAndKeys(t *testing.T) {
	sets := map[bool]*policy.Set{}
	for concurrent, text := range map[bool]string{false: policyText(), true: slotsPolicyText()} {
		var err error
		if sets[concurrent], err = policyfile.Compile(policyfile.File{Name: "bench", Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for name, s := range keySets(1_200) {
		secrets := s.secrets()
		if !slices.Equal(secrets, s.secrets()) {
			t.Errorf("%s: other secrets in another run", name)
		}
		for i, secret := range secrets {
			if len(secret) != len(placeholder()) || keys.HasChecksum(secret, prefix) == s.broken || seen[secret] {
				t.Fatalf("%s: secret %d is not of this kind", name, i)
			}
			seen[secret] = true
		}
		if s.windows == 0 {
			continue
		}
		entries := s.entries(secrets[100:], 100)
		if len(entries) != 1_100 || entries[0].Key.ID != "key_"+name+"0000100" {
			t.Fatalf("%s: %d entries from %s", name, len(entries), entries[0].Key.ID)
		}
		for _, e := range entries {
			e.Key.Algorithm, e.Key.Digest = keys.AlgorithmHMACSHA256, keys.Digest{1}
			if err := errors.Join(e.Key.Validate(), sets[s.concurrent].ValidateKey(&e.Key)); err != nil {
				t.Fatal(err)
			}
		}
		if raisedKeys := len(entries[0].Key.Limits); name == known && raisedKeys != loadWindows {
			t.Errorf("key 100 has %d raised windows", raisedKeys)
		}
	}
	if n := hotKeys(10_000); n < 500 || n > 9_000 {
		t.Errorf("%d of 10,000 keys are hot", n)
	}
}
