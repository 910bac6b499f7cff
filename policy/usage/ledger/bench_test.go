package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// redisCPU returns the CPU time of a Redis.
func redisCPU(b *testing.B, c redis.UniversalClient) time.Duration {
	text, err := c.Info(b.Context(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	var sum float64
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += n
		}
	}
	return time.Duration(sum * float64(time.Second))
}

// BenchmarkWrite is what it costs to write what a key did, here and in Redis: with one route, and
// with three and the access log, on hashes with the hours of half a day.
func BenchmarkWrite(b *testing.B) {
	const n = 10_000
	for _, full := range []bool{false, true} {
		b.Run(fmt.Sprintf("full=%v", full), func(b *testing.B) {
			c := redistest.Start(b, redistest.SocketOnly).Admin
			set := jobs()
			counter := usage.NewCounter(0, set.Find)
			now := noon()
			w := ledger.NewWriter(c, counter, func() time.Time { return now })
			grants := make([]*keys.Grant, n)
			for i := range grants {
				grants[i] = grant(fmt.Sprintf("key_%016x", i), "team_a")
			}
			round := func(at time.Time) {
				for i, g := range grants {
					for _, name := range []string{"job", "submit", "r1"} {
						api, route := set.Find("jobs", name)
						counter.Decided(api, g, route, policy.Allowed, at)
						if full {
							counter.Finished(&usage.Finished{API: "jobs", Route: name, Key: g.ID(), Team: "team_a", Start: at, Status: 200, BytesIn: 1000, BytesOut: uint64(i), Took: time.Duration(i) * time.Millisecond})
							continue
						}
						break
					}
				}
				if err := w.Flush(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			for hour := range 12 {
				round(noon().Add(-time.Duration(hour+1) * time.Hour))
			}
			b.ReportAllocs()
			before := redisCPU(b, c)
			b.ResetTimer()
			for range b.N/n + 1 {
				round(noon())
			}
			b.StopTimer()
			b.ReportMetric(float64(redisCPU(b, c)-before)/float64((b.N/n+1)*n), "redis-ns/key")
		})
	}
}

// BenchmarkLoad is what usage costs Redis for each request, at the load of make bench: 25,000
// checks a second of 10,000 keys by Zipf's law (s = 1.1). Each round is a second of it, with what a
// server writes in that second; asked is a microsecond at most.
func BenchmarkLoad(b *testing.B) {
	const n, perSecond = 10_000, 25_000
	for _, logged := range []bool{false, true} {
		b.Run(fmt.Sprintf("access log=%v", logged), func(b *testing.B) {
			c := redistest.Start(b, redistest.SocketOnly).Admin
			set, now := jobs(), noon()
			counter := usage.NewCounter(0, set.Find)
			w := ledger.NewWriter(c, counter, func() time.Time { return now })
			grants := make([]*keys.Grant, n)
			for i := range grants {
				grants[i] = grant(fmt.Sprintf("key_%016x", i), "team_a")
			}
			choose := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, n-1)
			api, route := set.Find("jobs", "job")
			second := func() {
				for range perSecond {
					g := grants[choose.Uint64()]
					counter.Decided(api, g, route, policy.Allowed, now)
					if logged {
						counter.Finished(&usage.Finished{API: "jobs", Route: "job", Key: g.ID(), Team: "team_a", Start: now, Status: 200, BytesIn: 1000, BytesOut: 2000, Took: 20 * time.Millisecond})
					}
				}
				if err := w.Tick(b.Context()); err != nil {
					b.Fatal(err)
				}
				now = now.Add(time.Second)
			}
			for range 2 * usage.Groups { // until what comes every ten seconds comes
				second()
			}
			cpu, written := redisCPU(b, c), w.Stats().Added
			b.ResetTimer()
			for range b.N {
				second()
			}
			b.StopTimer()
			requests := float64(b.N) * perSecond
			b.ReportMetric(float64(redisCPU(b, c)-cpu)/1e3/requests, "redis-µs/request")
			b.ReportMetric(float64(w.Stats().Added-written)/float64(b.N), "writes/s")
		})
	}
}

// BenchmarkAsk asks about 10,000 keys that were used on each of the last 30 days, which has to take
// a second at most: what all of them did, by key; the busiest of them; and one of them, by day.
func BenchmarkAsk(b *testing.B) {
	const n, days = 10_000, 30
	c := redistest.Start(b, redistest.SocketOnly).Admin
	set := jobs()
	now := time.Now().UTC()
	counter := usage.NewCounter(0, set.Find)
	w := ledger.NewWriter(c, counter, func() time.Time { return now })
	roller := ledger.NewRoller(c, func(string) policy.Usage { return policy.DefaultUsage() }, func() time.Duration { return time.Until(now) })
	grants := make([]*keys.Grant, n)
	for i := range grants {
		grants[i] = grant(fmt.Sprintf("key_%016x", i), fmt.Sprint("team_", i/10))
	}
	for day := range days {
		at := now
		for i, g := range grants {
			for r, name := range []string{"job", "submit", "r1"} {
				api, route := set.Find("jobs", name)
				for range 1 + (i+r+day)%3 {
					counter.Decided(api, g, route, policy.Allowed, at)
					counter.Finished(&usage.Finished{API: "jobs", Route: name, Key: g.ID(), Team: g.Team(), Start: at, Status: 200, BytesIn: 1000, BytesOut: uint64(i), Took: time.Duration(i) * time.Millisecond})
				}
				counter.Decided(api, g, route, policy.RateLimited, at.Add(-time.Duration(i%5)*time.Hour))
			}
		}
		if err := w.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		if day < days-1 {
			now = now.Add(24 * time.Hour)
		}
		began := time.Now()
		if err := roller.Roll(b.Context()); err != nil {
			b.Fatal(err)
		}
		if day == days-1 {
			b.Logf("folding a day of %d keys took %s", n, time.Since(began).Round(time.Millisecond))
		}
	}
	info, err := c.Info(b.Context(), "memory").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(info) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name == "used_memory_human" {
			b.Logf("Redis holds %s", value)
		}
	}
	from := (usage.DayOf(now) - days + 1).Hour(0)
	for name, q := range map[string]ledger.Question{
		"all keys": {By: usage.ByKey}, "a team of 10 keys": {Team: "team_7", By: usage.ByRoute},
		"one key by day": {Key: grants[7].ID(), By: usage.ByDay}, "the API by day": {By: usage.ByDay}, "the API by hour": {By: usage.ByHour},
	} {
		b.Run(name, func(b *testing.B) {
			q.APIs, q.From, q.To = []string{"jobs"}, from, usage.DayOf(now)
			before := redisCPU(b, c)
			for range b.N {
				began := time.Now()
				r, err := ledger.NewReader(c).Ask(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				if rows := len(r.Rows("")); rows == 0 || q.By == usage.ByKey && rows != n || q.By == usage.ByDay && rows != days {
					b.Fatalf("%d rows", rows)
				}
				if took := time.Since(began); took > time.Second {
					b.Logf("took %s, want a second at most", took)
				}
			}
			b.ReportMetric(float64(redisCPU(b, c)-before)/float64(b.N)/1e6, "redis-ms/op")
		})
	}
}
