package ledger_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// world is a store whose clock the test moves: forward only, from the present, because Redis ends
// keys by its own.
type world struct {
	*testing.T
	client  redis.UniversalClient
	set     *policy.Set
	counter *usage.Counter
	writer  *ledger.Writer
	start   time.Time
	now     time.Time
}

func newWorld(t *testing.T, c redis.UniversalClient) *world {
	w := &world{T: t, client: c, set: jobs()}
	clock, err := c.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	w.start = clock.UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)
	w.now = w.start
	w.counter = usage.NewCounter(0, w.set.Find)
	w.writer = w.newWriter()
	return w
}

func (w *world) newWriter() *ledger.Writer {
	return ledger.NewWriter(w.client, w.counter, func() time.Time { return w.now })
}

func (w *world) newRoller(keep policy.Usage) *ledger.Roller { return w.newRollerOn(w.client, keep) }

func (w *world) newRollerOn(c redis.UniversalClient, keep policy.Usage) *ledger.Roller {
	return ledger.NewRoller(c, func(string) policy.Usage { return keep }, func() time.Duration {
		clock, err := w.client.Time(w.Context()).Result()
		if err != nil {
			w.Fatal(err)
		}
		return w.now.Sub(clock)
	})
}

func (w *world) decide(key, route string, reason policy.Reason) {
	api, r := w.set.Find("jobs", route)
	if key == "" {
		w.counter.Decided(api, nil, r, reason, w.now)
		return
	}
	w.counter.Decided(api, grant(key, "team of "+key), r, reason, w.now)
}

func (w *world) finish(key, route string, status int, took time.Duration) {
	w.Helper()
	f := usage.Finished{API: "jobs", Route: route, Key: key, Team: "team of " + key, Start: w.now, Status: status, BytesIn: 10, BytesOut: 100, Took: took}
	if !w.counter.Finished(&f) {
		w.Fatal("the entry is ignored")
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// ask returns rows as "name allowed/denied/cost observed", and the total.
func (w *world) ask(q ledger.Question) (rows map[string]string, total string) {
	w.Helper()
	q.APIs = []string{"jobs"}
	if q.To == 0 {
		q.To = usage.DayOf(w.now)
	}
	r, err := ledger.NewReader(w.client).Ask(w.Context(), q)
	w.must(err)
	rows = map[string]string{}
	for _, row := range r.Rows("") {
		rows[row.Name] = show(&row.Measures)
	}
	return rows, show(&r.Total)
}

func show(m *usage.Measures) string {
	return fmt.Sprintf("%d/%d/%d %d", m.Allowed, m.Denied, m.Cost, m.Observed())
}

func (w *world) keys(pattern string) []string {
	w.Helper()
	keys, err := w.client.Keys(w.Context(), pattern).Result()
	w.must(err)
	slices.Sort(keys)
	return keys
}

// TestDaysMonthsAndTheirEnds goes through sixteen months a day at a time. Whatever is folded,
// trimmed and removed meanwhile, and however often, the sums that people see stay what was counted,
// for as long as they are kept; and nothing is left of what is not.
func TestDaysMonthsAndTheirEnds(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w, random := newWorld(t, c), rand.New(rand.NewPCG(5, 6))
		keep := policy.DefaultUsage()
		keep.Months = 4
		roller, other := w.newRoller(keep), w.newRoller(keep)
		byDay, byMonth := map[string]*usage.Measures{}, map[string]*usage.Measures{}
		count := func(m map[string]*usage.Measures, name string, add *usage.Measures) {
			if m[name] == nil {
				m[name] = &usage.Measures{}
			}
			m[name].Add(add)
		}
		names := []string{"key_aaaa", "key_bbbb", "key_cccc"}
		const days = 240
		for day := range days {
			for _, key := range names {
				if key == "key_cccc" && day > 60 || random.IntN(4) == 0 {
					continue
				}
				for _, route := range []string{"job", "submit", "r0", "r1", "r2", "r3"}[:1+random.IntN(6)] {
					cost := uint64(1)
					if route == "submit" {
						cost = 5
					}
					w.decide(key, route, policy.Allowed)
					w.finish(key, route, 200, 0)
					w.decide(key, route, policy.QuotaExceeded)
					m := &usage.Measures{Decided: usage.Decided{Allowed: 1, Denied: 1, Cost: cost}}
					m.Status[usage.Status2xx] = 1
					count(byDay, key+w.now.Format(" 2006-01-02"), m)
					count(byMonth, key+w.now.Format(" 2006-01"), m)
					count(byDay, w.now.Format(" 2006-01-02"), m)
					count(byMonth, w.now.Format(" 2006-01"), m)
				}
			}
			w.decide("", "job", policy.UnknownKey)
			count(byDay, w.now.Format(" 2006-01-02"), &usage.Measures{Decided: usage.Decided{Denied: 1}})
			count(byMonth, w.now.Format(" 2006-01"), &usage.Measures{Decided: usage.Decided{Denied: 1}})
			w.must(w.writer.Flush(t.Context()))
			w.must(roller.Roll(t.Context()))
			if day%7 == 0 {
				w.must(other.Roll(t.Context()))
			}
			if day%20 == 0 || day == days-1 {
				for _, key := range append(names, "") {
					w.compare(key, usage.ByDay, usage.DayOf(w.now)-34, byDay)
					w.compare(key, usage.ByMonth, (usage.MonthOf(w.now) - 3).First(), byMonth)
				}
			}
			w.now = w.now.Add(24 * time.Hour)
		}
		// Three days by hour, this month and four before, and nothing else.
		w.now = w.now.Add(-24 * time.Hour)
		months := map[string]bool{}
		for _, key := range w.keys("tg:v1:usage:*") {
			when := key[strings.LastIndexByte(key, ':')+1:]
			switch len(when) {
			case len("20261129"):
				if at, err := time.Parse("20060102", when); err != nil || w.now.Sub(at) > 72*time.Hour {
					t.Errorf("%s is left", key)
				}
			case len("202611"):
				months[when] = true
			default:
				if key != "tg:v1:usage:apis" && key != "tg:v1:usage:trimmed" {
					t.Errorf("%s is left", key)
				}
			}
		}
		for when := range months {
			at, err := time.Parse("200601", when)
			if err != nil || usage.MonthOf(w.now)-usage.MonthOf(at) > 4 {
				t.Errorf("month %s is left", when)
			}
		}
		trimmed, err := c.HKeys(t.Context(), "tg:v1:usage:trimmed").Result()
		w.must(err)
		if len(trimmed) < 2 || len(trimmed) > 4 {
			t.Errorf("trimmed are %q, there are %v", trimmed, slices.Sorted(maps.Keys(months)))
		}
	})
}

// compare compares a report with what was counted since a day.
func (w *world) compare(key string, by usage.By, from usage.Day, counted map[string]*usage.Measures) {
	w.Helper()
	got, _ := w.ask(ledger.Question{Key: key, By: by, From: from.Hour(0)})
	want := map[string]string{}
	for name, m := range counted {
		of, when, _ := strings.Cut(name, " ")
		layout := time.DateOnly
		if by == usage.ByMonth {
			layout = "2006-01"
		}
		at, err := time.Parse(layout, when)
		w.must(err)
		if of == key && !at.Before(from.Start()) {
			want[when] = show(m)
		}
	}
	if !maps.Equal(got, want) {
		w.Fatalf("%s: %q by %s: %v\nwant %v", w.now, key, by, got, want)
	}
}

// A server that dies between two steps of folding leaves nothing that counts twice or not at all:
// at each command of it, what people see is the same, and the next server completes it.
func TestFoldingThatIsCutShort(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		for i := range 3 {
			key := fmt.Sprintf("key_%04d", i)
			w.decide(key, "job", policy.Allowed)
			w.finish(key, "job", 500, time.Minute)
			w.decide(key, "submit", policy.Allowed)
		}
		w.must(w.writer.Flush(t.Context()))
		day := usage.DayOf(w.now)
		w.now = w.now.Add(4 * 24 * time.Hour)
		question := ledger.Question{By: usage.ByKey, From: day.Hour(0), To: day}
		want, total := w.ask(question)
		if len(want) != 3 || total != "6/0/18 3" {
			t.Fatal(want, total)
		}
		cut, another := &cutting{}, redis.NewClient(c.(*redis.Client).Options())
		defer another.Close()
		another.AddHook(cut)
		dying := w.newRollerOn(another, policy.DefaultUsage())
		steps := 0
		for cut.after = 0; ; cut.after++ {
			cut.calls = 0
			cut.on = true
			err := dying.Roll(t.Context())
			cut.on = false
			c.Del(t.Context(), "tg:v1:usage:lock") // a minute passes
			got, sum := w.ask(question)
			if !maps.Equal(got, want) || sum != total {
				t.Fatalf("cut after %d commands: %v %s, want %v %s", cut.after, got, sum, want, total)
			}
			if err == nil {
				break
			}
			if steps++; steps > 500 {
				t.Fatal(err)
			}
		}
		if steps < 8 || len(w.keys("tg:v1:usage:*:"+day.String())) > 0 {
			t.Errorf("%d steps; left are %q", steps, w.keys("tg:v1:usage:*"))
		}
	})
}

// cutting is a client whose commands fail after so many, as if its process had died.
type cutting struct {
	on           bool
	after, calls int
}

var errCut = fmt.Errorf("the process has died")

func (c *cutting) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *cutting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if c.on {
			if c.calls++; c.calls > c.after {
				cmd.SetErr(errCut)
				return errCut
			}
		}
		return next(ctx, cmd)
	}
}

func (c *cutting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !c.on {
			return next(ctx, cmds)
		}
		left := max(c.after-c.calls, 0)
		c.calls += len(cmds)
		for _, cmd := range cmds[min(left, len(cmds)):] {
			cmd.SetErr(errCut)
		}
		if left >= len(cmds) {
			return next(ctx, cmds)
		}
		if left > 0 {
			_ = next(ctx, cmds[:left])
		}
		return errCut
	}
}

// One server folds at a time; the next does when the lock of one that died is over.
func TestOneServerFolds(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		w.decide("key_aaaa", "job", policy.Allowed)
		w.must(w.writer.Flush(t.Context()))
		w.now = w.now.Add(4 * 24 * time.Hour)
		w.must(c.Set(t.Context(), "tg:v1:usage:lock", "a server that has died", time.Minute).Err())
		roller := w.newRoller(policy.DefaultUsage())
		w.must(roller.Roll(t.Context()))
		if n := roller.Stats().Folded; n != 0 {
			t.Errorf("%d folded beside another server", n)
		}
		w.must(c.Del(t.Context(), "tg:v1:usage:lock").Err())
		w.must(roller.Roll(t.Context()))
		if n := roller.Stats().Folded; n != 2 {
			t.Errorf("%d folded, want a key and its API", n)
		}
		if n := c.Exists(t.Context(), "tg:v1:usage:lock").Val(); n != 0 {
			t.Error("the lock is kept")
		}
	})
}

// What somebody else has put in the place of a record is left alone, counted, and in nobody's way.
func TestForeignValuesInTheWay(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		month := usage.MonthOf(w.now).String()
		for _, key := range []string{"key_aaaa", "key_bbbb", "key_cccc"} {
			w.decide(key, "job", policy.Allowed)
		}
		w.must(c.RPush(t.Context(), "tg:v1:usage:{key_aaaa}:"+w.now.Format("20060102"), "foreign").Err())
		w.must(c.RPush(t.Context(), "tg:v1:usage:{key_bbbb}:"+month, "foreign").Err())
		w.must(w.writer.Flush(t.Context()))
		if s := w.writer.Stats(); s.Broken != 1 || s.Added != 3 {
			t.Errorf("%+v", s)
		}
		w.now = w.now.Add(4 * 24 * time.Hour)
		roller := w.newRoller(policy.DefaultUsage())
		w.must(roller.Roll(t.Context()))
		if s := roller.Stats(); s.Broken != 1 {
			t.Errorf("%+v", s)
		}
		rows, _ := w.ask(ledger.Question{By: usage.ByKey, From: usage.DayOf(w.now.Add(-10 * 24 * time.Hour)).Hour(0)})
		if len(rows) != 1 || rows["key_cccc"] != "1/0/1 0" {
			t.Errorf("%v", rows)
		}
	})
}
