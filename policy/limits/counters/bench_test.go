package counters

import (
	"context"
	"math/rand"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/policy/limits"
)

// benchWindows are those of the benchmark of the whole server, wide enough to refuse nothing.
func benchWindows() []limits.Window {
	return []limits.Window{
		{Name: "minute", Limit: 1 << 40, Per: limits.Minute}, {Name: "hour", Limit: 1 << 40, Per: limits.Hour}, {Name: "day", Limit: 1 << 40, Per: limits.Day},
	}
}

// leased returns Leases that hold many units of the windows.
func leased(t testing.TB, b *backend, id string, windows []limits.Window) *Leases {
	l := NewLeases(b.store(t), Options{})
	sh := l.shard(id)
	mustSpend(t, l, &limits.Spend{ID: id, Windows: windows, Cost: 1})
	sh.entries[id].current = 1 << 30
	var res limits.Result
	for range 3 {
		mustSpend(t, l, &limits.Spend{ID: id, Windows: windows, Cost: 1})
	}
	if !l.Try(&limits.Spend{ID: id, Windows: windows, Cost: 1}, &res) {
		t.Fatal("no lease")
	}
	return l
}

// Neither a unit of a lease nor a remembered refusal nor a reading costs an allocation.
func TestTryAllocatesNothing(t *testing.T) {
	b := startEmbedded(t)
	l := leased(t, b, "a", benchWindows())
	spent := []limits.Window{{Name: "day", Limit: 1, Per: limits.Day}, {Name: "month", Limit: 5, Per: limits.Month}}
	for range 2 {
		mustSpend(t, l, &limits.Spend{ID: "spent", Windows: spent, Cost: 1})
	}
	mustSpend(t, l, &limits.Spend{ID: "read", Windows: benchWindows(), Cost: 1})
	for about, s := range map[string]*limits.Spend{
		"lease":      {ID: "a", Windows: benchWindows(), Cost: 1},
		"refusal":    {ID: "spent", Windows: spent, Cost: 1},
		"reading":    {ID: "read", Windows: benchWindows(), Cost: 1, ReadOnly: true},
		"no windows": {ID: "a"},
		"not here":   {ID: "other", Windows: spent, Cost: 1},
	} {
		res := limits.Result{States: make([]limits.State, 0, 3)}
		begin := time.Now()
		var tried bool
		allocs := testing.AllocsPerRun(100, func() { tried = l.Try(s, &res) })
		if allocs != 0 {
			t.Errorf("%s: %v allocations", about, allocs)
		}
		if want := about != "not here"; tried != want && time.Since(begin) < recheck/2 {
			t.Errorf("%s: answered is %v, want %v", about, tried, want)
		}
	}
}

func BenchmarkTry(b *testing.B) {
	back := startEmbedded(b)
	l := leased(b, back, "a", benchWindows())
	spent := []limits.Window{{Name: "minute", Limit: 1, Per: limits.Minute}, {Name: "month", Limit: 500, Per: limits.Month}}
	l.options.Clock = func() func() time.Duration { // a minute must not end meanwhile
		at, began := l.options.Clock(), time.Now()
		return func() time.Duration { return at + time.Since(began)/1000 }
	}()
	for range 2 {
		mustSpend(b, l, &limits.Spend{ID: "spent", Windows: spent, Cost: 1})
	}
	for _, c := range []struct {
		name string
		s    limits.Spend
	}{
		{"lease", limits.Spend{ID: "a", Windows: benchWindows(), Cost: 1}},
		{"refusal", limits.Spend{ID: "spent", Windows: spent, Cost: 1}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			res := limits.Result{States: make([]limits.State, 0, 3)}
			for b.Loop() {
				if !l.Try(&c.s, &res) {
					b.Fatal("not answered")
				}
			}
		})
		b.Run(c.name+"-parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				s, res := c.s, limits.Result{States: make([]limits.State, 0, 3)}
				for p.Next() {
					if !l.Try(&s, &res) {
						b.Error("not answered")
						return
					}
				}
			})
		})
	}
}

// BenchmarkBatch is 64 callers who spend exactly on a real Redis.
func BenchmarkBatch(b *testing.B) {
	for _, name := range []string{"alone", "batched"} {
		b.Run(name, func(b *testing.B) {
			back := startRedis(b)
			store := back.store(b)
			var s spender = store
			if name == "batched" {
				s = NewLeases(store, Options{Exact: true})
			}
			load(b, back, s, 1000)
		})
	}
}

// BenchmarkZipf is 64 callers on 10,000 keys whose popularity falls with the rank to the power of
// 1.1.
func BenchmarkZipf(b *testing.B) {
	for _, exact := range []bool{false, true} {
		b.Run("exact="+strconv.FormatBool(exact), func(b *testing.B) {
			back := startRedis(b)
			l := NewLeases(back.store(b), Options{Exact: exact})
			ctx, cancel := context.WithCancel(context.Background())
			var work sync.WaitGroup
			work.Go(func() { l.Run(ctx) })
			defer work.Wait()
			defer cancel()
			load(b, back, l, 10_000)
			s := l.Stats()
			b.ReportMetric(float64(s.Calls)/float64(b.N), "calls/op")
			b.ReportMetric(float64(s.Calls)/float64(s.Trips), "calls/trip")
		})
	}
}

func load(b *testing.B, back *backend, s spender, keys uint64) {
	windows := benchWindows()
	before := redisCPU(b, back)
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var work sync.WaitGroup
	for i := range 64 {
		work.Go(func() {
			zipf := rand.NewZipf(rand.New(rand.NewSource(int64(i))), 1.1, 1, keys-1)
			for left.Add(-1) >= 0 {
				mustSpend(b, s, &limits.Spend{ID: "key_" + strconv.FormatUint(zipf.Uint64(), 10), Windows: windows, Cost: 1})
			}
		})
	}
	work.Wait()
	b.StopTimer()
	b.ReportMetric((redisCPU(b, back)-before)*1e6/float64(b.N), "redis-cpu-µs/op")
	_, usec := commandStat(b, back, "evalsha")
	b.ReportMetric(usec, "µs/script")
}

// redisCPU reads how many seconds of CPU the server has used.
func redisCPU(b *testing.B, back *backend) (seconds float64) {
	info, err := back.client.Info(context.Background(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			seconds += n
		}
	}
	return seconds
}
