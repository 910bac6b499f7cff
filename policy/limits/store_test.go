package limits

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func plan() []Window {
	return []Window{
		{Name: "minute", Limit: 60, Per: Minute}, {Name: "day", Limit: 1000, Per: Day}, {Name: "quota", Limit: 10000, Per: Month, Anchor: 31},
	}
}

// Eight clients of each of four replicas hammer one key: its monthly limit is what passes, to the unit.
func TestRaceForOneKey(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
		sp := &Spend{ID: "one", Windows: []Window{{Name: "month", Limit: 1000, Per: Month}}, Cost: 1}
		var passed, refused atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			s := b.store(t)
			for range 8 {
				wg.Go(func() {
					for range 50 {
						res, err := s.Spend(context.Background(), sp)
						switch {
						case err != nil:
							t.Error(err)
							return
						case res.Allowed:
							passed.Add(1)
						default:
							refused.Add(1)
						}
					}
				})
			}
		}
		wg.Wait()
		if passed.Load() != 1000 || refused.Load() != 600 {
			t.Fatalf("%d passed and %d were refused, want 1000 and 600", passed.Load(), refused.Load())
		}
	})
}

// roundTrips counts what a client sends.
type roundTrips struct{ sent []string }

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }
func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.sent = append(r.sent, cmd.Name())
		return next(ctx, cmd)
	}
}
func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.sent = append(r.sent, "pipeline")
		return next(ctx, cmds)
	}
}

func TestOneRoundTrip(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		client := b.dial(t)
		s := NewStore(client, nil)
		sp := &Spend{ID: "trips", Windows: plan(), Cost: 1}
		mustSpend(t, s, sp)
		r := &roundTrips{}
		client.AddHook(r)
		mustSpend(t, s, sp)
		if got := strings.Join(r.sent, " "); got != "evalsha" {
			t.Errorf("a spend sent %q", got)
		}
		r.sent = nil
		before := time.Now().Add(-time.Second)
		res := mustSpend(t, s, &Spend{ID: "trips", Cost: 5})
		if !res.Allowed || len(res.States) != 0 || res.Now.Before(before) || len(r.sent) != 0 {
			t.Errorf("no windows: %+v, sent %q; want allowed and nothing sent", res, r.sent)
		}
		// A script that Redis does not have has run nothing: it is sent once more, whole.
		if err := b.client.ScriptFlush(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
		if res := mustSpend(t, s, sp); res.States[1].Spent != 3 {
			t.Errorf("after SCRIPT FLUSH %d is spent, want 3", res.States[1].Spent)
		}
		if got := strings.Join(r.sent, " "); got != "evalsha eval" {
			t.Errorf("after SCRIPT FLUSH the spend sent %q", got)
		}
	})
}

// What the script costs Redis: one HMGET, and only where something is spent one HSET; a PEXPIREAT only where a window begins.
func TestScriptCommands(t *testing.T) {
	b := startRedis(t)
	ctx := context.Background()
	b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
	s := b.store(t)
	windows := []Window{{Name: "d", Limit: 10, Per: Day}, {Name: "q", Limit: 100, Per: Month}}
	for range 15 { // 10 pass
		mustSpend(t, s, &Spend{ID: "a", Windows: windows, Cost: 1})
	}
	mustSpend(t, s, &Spend{ID: "a", Windows: windows, Cost: 1, ReadOnly: true})
	mustSpend(t, s, &Spend{ID: "b", Windows: windows, Cost: 0})
	for command, want := range map[string]int{"hmget": 17, "hset": 10, "pexpireat": 1} {
		if calls, _ := commandStat(t, b, command); calls != want {
			t.Errorf("%s: %d calls, want %d", command, calls, want)
		}
	}
	if n, err := b.client.Exists(ctx, "tg:v1:count:{b}").Result(); err != nil || n != 0 {
		t.Errorf("a cost of 0 wrote: %d, %v", n, err)
	}
	fields, err := b.client.HGetAll(ctx, "tg:v1:count:{a}").Result()
	if err != nil || fields["day:d"] != "1768435200:10" || fields["month:q"] != "1767225600:10" || len(fields) != 2 {
		t.Errorf("stored: %v, %v", fields, err)
	}
}

// commandStat reads INFO commandstats: calls and µs per call.
func commandStat(t testing.TB, b *backend, command string) (calls int, usec float64) {
	t.Helper()
	info, err := b.client.Info(context.Background(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`cmdstat_` + command + `:calls=(\d+),usec=\d+,usec_per_call=([\d.]+)`).FindStringSubmatch(info)
	if m == nil {
		return 0, 0
	}
	calls, _ = strconv.Atoi(m[1])
	usec, _ = strconv.ParseFloat(m[2], 64)
	return calls, usec
}

func TestInvalidSpend(t *testing.T) {
	b := startEmbedded(t)
	s := b.store(t)
	ok := Window{Name: "m", Limit: 5, Per: Minute}
	for about, sp := range map[string]*Spend{
		"empty limit id":             {Windows: []Window{ok}, Cost: 1},
		"empty limit id, no windows": {Cost: 1},
		"negative cost":              {ID: "a", Windows: []Window{ok}, Cost: -1},
		"lowest cost":                {ID: "a", Windows: []Window{ok}, Cost: math.MinInt64},
		"window without a name":      {ID: "a", Windows: []Window{{Limit: 5, Per: Minute}}},
		"no unit":                    {ID: "a", Windows: []Window{{Name: "m", Limit: 5}}},
		"unknown unit":               {ID: "a", Windows: []Window{{Name: "m", Limit: 5, Per: 6}}},
		"negative limit":             {ID: "a", Windows: []Window{{Name: "m", Limit: -1, Per: Day}}},
		"limit no double holds":      {ID: "a", Windows: []Window{{Name: "m", Limit: MaxLimit + 1, Per: Day}}},
		"anchor 32":                  {ID: "a", Windows: []Window{{Name: "m", Limit: 5, Per: Month, Anchor: 32}}},
		"anchor -1":                  {ID: "a", Windows: []Window{{Name: "m", Limit: 5, Per: Month, Anchor: -1}}},
		"one window twice":           {ID: "a", Windows: []Window{ok, {Name: "d", Limit: 1, Per: Day}, ok}},
	} {
		if res, err := s.Spend(context.Background(), sp); err == nil || res.Allowed {
			t.Errorf("%s: %+v, %v; want an error", about, res, err)
		}
		if res := NewLocal(1, nil, 10).Spend(sp); res.Allowed {
			t.Errorf("%s: allowed locally", about)
		}
	}
	if keys := b.mini.Keys(); len(keys) != 0 {
		t.Errorf("an invalid spend wrote %q", keys)
	}
}

// A value that is no counter is an error, and is left as it is.
func TestCorruptCounter(t *testing.T) {
	minute := strconv.FormatInt(clock(t, "2026-01-15T12:00:00Z").Unix(), 10)
	values := []string{
		"", "x", "5", ":", minute, minute + ":", ":5", "x:5", minute + ":x", minute + ":-5", minute + ":5.5", minute + ":1e3",
		minute + ":nan", minute + ":inf", "nan:5", "inf:5", minute + ":5:", minute + ":5:6", minute + ":5:-1", minute + ":5:x", minute + ":5:5:5", minute + ":5\n", " " + minute + ":5", "0x10:5",
		minute + ":9007199254740992", minute + ":" + strings.Repeat("9", 400), strings.Repeat("9", 400) + ":0",
		"1000000000020:0", minute + "1:5", // a start that no clock has; one after now that is none
	}
	eachBackend(t, func(t *testing.T, b *backend) {
		ctx := context.Background()
		s := b.store(t)
		b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
		for i, value := range values {
			sp := &Spend{ID: fmt.Sprint("corrupt", i), Windows: plan(), Cost: 1}
			key := "tg:v1:count:{" + sp.ID + "}"
			mustSpend(t, s, sp)
			if err := b.client.HSet(ctx, key, "minute:minute", value).Err(); err != nil {
				t.Fatal(err)
			}
			for _, sp.ReadOnly = range []bool{false, true} {
				if res, err := s.Spend(ctx, sp); err == nil || res.Allowed {
					t.Errorf("%q: %+v, %v; want an error", value, res, err)
				}
			}
			fields, err := b.client.HGetAll(ctx, key).Result()
			if err != nil || fields["minute:minute"] != value || !strings.HasSuffix(fields["day:day"], ":1") {
				t.Errorf("%q: left as %q, %v", value, fields, err)
			}
		}
	})
}

func TestWrongTypeKey(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		if err := b.client.Set(context.Background(), "tg:v1:count:{a}", "text", 0).Err(); err != nil {
			t.Fatal(err)
		}
		res, err := b.store(t).Spend(context.Background(), &Spend{ID: "a", Windows: plan(), Cost: 1})
		if err == nil || res.Allowed || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Fatalf("%+v, %v; want WRONGTYPE", res, err)
		}
	})
}

// A store that is gone or silent is an error by the context's deadline.
func TestStoreDown(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	fails := func(t *testing.T, s *Store, ctx context.Context) {
		t.Helper()
		begin := time.Now()
		res, err := s.Spend(ctx, &Spend{ID: "a", Windows: plan(), Cost: 1})
		if err == nil || res.Allowed {
			t.Fatalf("%+v, %v; want an error", res, err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Fatalf("the error came after %v", took)
		}
	}
	soon := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	eachBackend(t, func(t *testing.T, b *backend) {
		s := b.store(t)
		mustSpend(t, s, &Spend{ID: "a", Windows: plan(), Cost: 1})
		done, cancel := context.WithCancel(context.Background())
		cancel()
		fails(t, s, done)
		if n := mustSpend(t, s, &Spend{ID: "a", Windows: plan(), ReadOnly: true}).States[1].Spent; n != 1 {
			t.Fatalf("a spend with a finished context spent: %d", n)
		}
		b.stop()
		fails(t, s, soon(t))
	})
	t.Run("silent", func(t *testing.T) {
		b := &backend{network: "tcp", addr: silent.Addr().String()}
		fails(t, b.store(t), soon(t))
	})
}

// Whatever the store answers, only an answer that follows from its counters allows.
func TestReadReply(t *testing.T) {
	const start, now = int64(1768478400), int64(1768478400_050) // 2026-01-15T12:00:00Z
	minute := newLayout([]Window{{Name: "m", Limit: 5, Per: Minute}})
	spend := &call{layout: minute, cost: 2}
	read := &call{layout: minute, cost: 2, readOnly: true}
	lease := &call{layout: minute, cost: 2, want: 2}
	month := &call{layout: newLayout([]Window{{Name: "q", Limit: 5, Per: Month}}), cost: 2}
	dear := &call{layout: minute, cost: math.MaxInt64, want: 9}
	for _, c := range []struct {
		about string
		call  *call
		reply []int64
		ok    bool
	}{
		{"allowed", spend, []int64{now, start, 1, 2}, true},
		{"denied", spend, []int64{now, start, 0, 4}, true},
		{"a later window", spend, []int64{now, start + 60, 1, 2}, false},
		{"read, allowed", read, []int64{now, start, 1, 0}, true},
		{"read, denied", read, []int64{now, start, 0, 4}, true},
		{"empty", spend, nil, false},
		{"too short", spend, []int64{now, start, 1}, false},
		{"too long", spend, []int64{now, start, 1, 2, 2}, false},
		{"a later window after all", spend, []int64{now, start, 3, 2, start + 60}, false},
		{"the window said twice", spend, []int64{now, start, 3, 2, start}, true},
		{"a later window that is missing", spend, []int64{now, start, 3, 2}, false},
		{"a later window that is none", spend, []int64{now, start, 3, 2, start - 60}, false},
		{"the clock's start is missing", spend, []int64{now}, false},
		{"no window is broken", spend, []int64{now, start, -3}, false},
		{"broken and counted", spend, []int64{now, start, -1, 4}, false},
		{"allowed but not counted", spend, []int64{now, start, 1, 1}, false},
		{"allowed above the limit", spend, []int64{now, start, 1, 6}, false},
		{"read, allowed above the limit", read, []int64{now, start, 1, 4}, false},
		{"denied below the limit", spend, []int64{now, start, 0, 3}, false},
		{"negative count", spend, []int64{now, start, 0, -1}, false},
		{"count no double holds", spend, []int64{now, start, 0, 1 << 53}, false},
		{"an earlier window", spend, []int64{now, start - 60, 1, 2}, false},
		{"a start between windows", spend, []int64{now, start + 61, 1, 2}, false},
		{"a start past all clocks", spend, []int64{now, math.MaxInt64 / 60 * 60, 1, 2}, false},
		{"month", month, []int64{now, 1767225600, 1, 2}, true},
		{"a month that begins later", month, []int64{now, 1767225600 + 86400, 1, 2}, true},
		{"a month that begins tomorrow", month, []int64{now, 1768521600, 1, 2}, false},
		{"a month that began 27 days before", month, []int64{now, 1767225600 - 27*86400, 1, 2}, true},
		{"a month that began 28 days before", month, []int64{now, 1767225600 - 28*86400, 1, 2}, false},
		{"a month that begins at noon", month, []int64{now, start, 1, 2}, false},
		{"leased", lease, []int64{now, start, 5, 3}, true},
		{"leased, all of it", lease, []int64{now, start, 9, 4}, true},
		{"leased more than was asked for", lease, []int64{now, start, 13, 5}, false},
		{"leased less than nothing", lease, []int64{now, start, -3, 2}, false},
		{"leased and not counted", lease, []int64{now, start, 9, 2}, false},
		{"leased and not asked for", spend, []int64{now, start, 5, 3}, false},
		{"leased and denied", lease, []int64{now, start, 4, 4}, false},
		{"a sum that overflows", dear, []int64{now, start, 37, 3}, false},
	} {
		c.call.allowed, c.call.err = false, nil
		r := newScript()
		r.lay(t.Context(), []*call{c.call}, "evalsha", "", 0)
		r.read(c.reply)
		var broken *BrokenError
		if err := c.call.err; (err == nil) != c.ok || c.call.allowed && !c.ok || !c.ok && !errors.As(err, &broken) {
			t.Errorf("%s: allowed is %v, %v", c.about, c.call.allowed, err)
		}
	}
}

// An answer that is no list is an error too.
func TestForeignReply(t *testing.T) {
	b := startEmbedded(t)
	sp := &Spend{ID: "a", Windows: plan(), Cost: 1}
	for _, source := range []string{"return 1", "return 'OK'", "return nil", "return {}", "return {1, 2, 3}", "return {'1'}", "error('no')"} {
		s := b.store(t)
		sha, err := b.client.ScriptLoad(context.Background(), source).Result()
		if err != nil {
			t.Fatal(err)
		}
		s.sha = sha
		if res, err := s.Spend(context.Background(), sp); err == nil || res.Allowed {
			t.Errorf("%s: %+v, %v; want an error", source, res, err)
		}
	}
}

func BenchmarkSpend(b *testing.B) {
	run := func(b *testing.B, back *backend) {
		windows := plan()
		for i := range windows {
			windows[i].Limit = 1 << 40
		}
		s := back.store(b)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			mustSpend(b, s, &Spend{ID: strconv.Itoa(i % 1000), Windows: windows, Cost: 1})
		}
	}
	b.Run("embedded", func(b *testing.B) { run(b, startEmbedded(b)) })
	b.Run("redis", func(b *testing.B) {
		back := startRedis(b)
		run(b, back)
		_, usec := commandStat(b, back, "evalsha")
		b.ReportMetric(usec, "redis-µs/op")
	})
}
