package usage_test

import (
	"fmt"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/usage"
)

func BenchmarkDecided(b *testing.B) {
	for _, n := range []int{1, 10_000, 1_000_000} {
		b.Run(fmt.Sprint(n, " keys"), func(b *testing.B) {
			set, grants := jobs(), make([]*keys.Grant, n)
			for i := range grants {
				grants[i] = grant(fmt.Sprintf("key_%016x", i), "team_a")
			}
			api, route := set.Find("jobs", "job")
			c, now := usage.NewCounter(0, set.Find), time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
			for _, g := range grants {
				c.Decided(api, g, route, policy.Allowed, now)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				c.Decided(api, grants[i*7919%n], route, policy.Allowed, now)
			}
		})
	}
	b.Run("in parallel", func(b *testing.B) {
		set, g := jobs(), grant("key_0123456789abcdef", "team_a")
		api, route := set.Find("jobs", "job")
		c, now := usage.NewCounter(0, set.Find), time.Now()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				c.Decided(api, g, route, policy.Allowed, now)
			}
		})
	})
}

func BenchmarkFinished(b *testing.B) {
	set := jobs()
	c, f := usage.NewCounter(0, set.Find), finished("key_0123456789abcdef", 200, time.Millisecond)
	b.ReportAllocs()
	for range b.N {
		if !c.Finished(&f) {
			b.Fatal("ignored")
		}
	}
}

// BenchmarkTake is what writing costs this server, a key, without the writing.
func BenchmarkTake(b *testing.B) {
	const n = 10_000
	set, grants := jobs(), make([]*keys.Grant, n)
	for i := range grants {
		grants[i] = grant(fmt.Sprintf("key_%016x", i), "team_a")
	}
	api, route := set.Find("jobs", "job")
	var batch usage.Batch
	c, now := usage.NewCounter(0, set.Find), time.Now()
	b.ReportAllocs()
	for range b.N/n + 1 {
		for _, g := range grants {
			c.Decided(api, g, route, policy.Allowed, now)
		}
		c.Take(&batch, -1, now)
		if len(batch.Deltas) != n+1 {
			b.Fatal(len(batch.Deltas))
		}
		c.Release(&batch)
	}
}
