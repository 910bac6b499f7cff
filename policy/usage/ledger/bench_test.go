package ledger_test

import (
	"fmt"
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
