package keys

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"sync"

	"github.com/redis/go-redis/v9"
)

func cpu() int64 {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return r.Utime.Nano() + r.Stime.Nano()
}

func TestTmpBench(t *testing.T) {
	client := newServer(t)
	c, _ := newTestCache(client)
	var list []owned
	for i := range 200 {
		k := sample(func(k *Key) { k.ID, k.Digest = fmt.Sprintf("key_shared%d", i), digestOf(i) })
		create(t, client, k)
		r := c.store.readings(t.Context(), []owned{{digest: k.Digest}}, c.store.pipeline)[0]
		list = append(list, owned{k.Digest, k.ID, r.sum})
	}
	admin := client.(*redis.Client)
	used := func() (n float64) {
		s := admin.Info(t.Context(), "cpu").Val()
		var a, b float64
		for _, l := range splitLines(s) {
			fmt.Sscanf(l, "used_cpu_sys:%f", &a)
			fmt.Sscanf(l, "used_cpu_user:%f", &b)
		}
		return (a + b) * 1e6
	}
	for _, workers := range []int{1, 8, 64} {
		for round := range 3 {
			for _, shared := range []bool{false, true} {
				before, store := cpu(), used()
				var w sync.WaitGroup
				const each = 16000
				for g := range workers {
					w.Go(func() {
						for i := range each / workers {
							o := list[(g*31+i)%len(list)]
							if shared {
								c.trips.read(context.Background(), o)
							} else {
								c.store.readings(context.Background(), []owned{o}, c.store.pipeline)
							}
						}
					})
				}
				w.Wait()
				t.Logf("workers %d round %d shared %v: server %.1f us/reading, redis %.1f", workers, round, shared, float64(cpu()-before)/1e3/each, (used()-store)/each)
			}
		}
	}
}

func splitLines(s string) (out []string) {
	for len(s) > 0 {
		i := 0
		for i < len(s) && s[i] != '\n' { i++ }
		out = append(out, s[:i])
		if i < len(s) { i++ }
		s = s[i:]
	}
	return
}
