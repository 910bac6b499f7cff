package counters

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"tollgate/policy/limits"
)

// Spends that share a script do what the same spends do one by one, also where they meet on one
// limit id, where leases are taken and settled between them, and where records are broken.
func TestSharedScriptIsOneByOne(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		s := b.store(t)
		rapid.Check(t, func(rt *rapid.T) {
			b.empty(rt)
			now := time.Date(2027, 12, 30, 23, 59, 50, 50_000_000, time.UTC)
			layouts := drawLayouts(rt)
			last := map[string]*operation{} // the one that was answered last, by limit id and layout
			for range rapid.IntRange(1, 5).Draw(rt, "batches") {
				now = now.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, time.Second, time.Minute, 40 * 24 * time.Hour, -time.Minute, -26 * time.Hour}).Draw(rt, "move"))
				b.at(t, now)
				spoil(rt, b, layouts)
				var shared, alone []*operation
				for range rapid.SampledFrom([]int{1, 2, 4, 7, 12}).Draw(rt, "calls") {
					c := drawSharedCall(rt, layouts, last)
					twin := &operation{id: "alone-" + c.id, layout: c.layout, cost: c.cost, readOnly: c.readOnly, want: c.want, settle: c.settle}
					shared, alone = append(shared, c), append(alone, twin)
				}
				s.send(t.Context(), shared)
				for i, c := range shared {
					s.send(t.Context(), alone[i:i+1])
					sameAnswer(rt, c, alone[i])
					if c.err == nil {
						last[fmt.Sprint(c.id, c.layout)] = c
					}
				}
				sameRecords(rt, b.client)
			}
			verifyCollected(rt, b)
		})
	})
}

func sharedIDs() []string { return []string{"a", "b", "c", "text"} }

func drawLayouts(rt *rapid.T) []*layout {
	windows := []limits.Window{{Name: "m", Per: limits.Minute}, {Name: "h", Per: limits.Hour}, {Name: "q", Per: limits.Month, Anchor: 31}, {Name: "d", Per: limits.Day}}
	var layouts []*layout
	for _, n := range []int{3, 3, 1, 4} {
		for i := range windows {
			windows[i].Limit = rapid.SampledFrom([]int64{0, 90, 250, 1000, 1000, 5000}).Draw(rt, "limit")
		}
		layouts = append(layouts, newLayout(windows[:n]))
	}
	return layouts
}

func drawSharedCall(rt *rapid.T, layouts []*layout, last map[string]*operation) *operation {
	c := &operation{
		id:       rapid.SampledFrom(sharedIDs()).Draw(rt, "id"),
		layout:   layouts[rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(rt, "layout")],
		cost:     rapid.SampledFrom([]int64{1, 1, 1, 1, 0, 7, 300}).Draw(rt, "cost"),
		want:     rapid.SampledFrom([]int64{0, 0, 0, 0, 3, 1000}).Draw(rt, "want"),
		readOnly: rapid.IntRange(0, 7).Draw(rt, "read") == 0,
	}
	if c.readOnly {
		c.want = 0
	}
	if before := last[fmt.Sprint(c.id, c.layout)]; before != nil && rapid.IntRange(0, 2).Draw(rt, "settle") == 0 {
		c.settle.units = rapid.Int64Range(1, 12).Draw(rt, "units")
		c.settle.back = rapid.Int64Range(0, c.settle.units).Draw(rt, "back")
		c.settle.counts = before.counts
	}
	return c
}

// spoil breaks records now and then, or mends them: the same of a spend that shares its script and
// of one that does not.
func spoil(rt *rapid.T, b *backend, layouts []*layout) {
	ctx := context.Background()
	b.client.Set(ctx, "tg:v1:count:{text}", "x", time.Hour*24*1000)
	b.client.Set(ctx, "tg:v1:count:{alone-text}", "x", time.Hour*24*1000)
	if rapid.IntRange(0, 3).Draw(rt, "spoil") > 0 {
		return
	}
	field := field(layouts[3].windows[rapid.IntRange(0, 3).Draw(rt, "window")])
	value := rapid.SampledFrom([]string{"x", "", "5:5:", "1000:6", "1000000000020:0", "0:5:6"}).Draw(rt, "value")
	for _, id := range []string{"b", "alone-b"} {
		b.client.HSet(ctx, "tg:v1:count:{"+id+"}", field, value)
		b.client.Expire(ctx, "tg:v1:count:{"+id+"}", time.Hour*24*1000)
	}
}

func sameAnswer(rt *rapid.T, c, alone *operation) {
	if fmt.Sprint(c.err) != fmt.Sprint(alone.err) {
		rt.Fatalf("%s: %v, alone %v", c.id, c.err, alone.err)
	}
	var broken *limits.BrokenError
	if c.err != nil && !errors.As(c.err, &broken) || (c.id == "text") != (c.err != nil && strings.Contains(c.err.Error(), "WRONGTYPE")) {
		rt.Fatalf("%s: %v", c.id, c.err)
	}
	if c.err == nil && (c.allowed != alone.allowed || c.granted != alone.granted || fmt.Sprint(c.counts) != fmt.Sprint(alone.counts)) {
		rt.Fatalf("%s: cost %d, want %d, settle %+v:\nshared %v %d %v\n alone %v %d %v", c.id, c.cost, c.want, c.settle,
			c.allowed, c.granted, c.counts, alone.allowed, alone.granted, alone.counts)
	}
}

func sameRecords(rt *rapid.T, client redis.UniversalClient) {
	for _, id := range sharedIDs()[:3] {
		shared, err := client.HGetAll(context.Background(), "tg:v1:count:{"+id+"}").Result()
		if err != nil {
			rt.Fatal(err)
		}
		alone, err := client.HGetAll(context.Background(), "tg:v1:count:{alone-"+id+"}").Result()
		if err != nil || !maps.Equal(shared, alone) {
			rt.Fatalf("%s: %v, alone %v, %v", id, shared, alone, err)
		}
	}
}

// What spends of one plan share: one command, one look at the clock, the plan.
func TestAlikeSpendsShare(t *testing.T) {
	b := startRedis(t)
	s := b.store(t)
	plans := []*layout{newLayout(plan()), newLayout(plan()[:2])}
	var calls []*operation
	for i := range maxScript {
		calls = append(calls, &operation{id: fmt.Sprint("key", i), layout: plans[0], cost: 1})
	}
	r := newScript()
	lay := func() int {
		r.encode(t.Context(), calls, "evalsha", s.sha, 0)
		return len(r.args) - 3 - len(calls) - 1
	}
	if n := lay(); n != 4+9 {
		t.Errorf("%d arguments of one plan", n)
	}
	if allocs := testing.AllocsPerRun(10, func() { lay() }); allocs > maxScript+1 {
		t.Errorf("%v allocations for the keys of %d calls and a command", allocs, maxScript)
	}
	for i := range calls {
		calls[i].layout = plans[i%2]
	}
	if n := lay(); n != 4*maxScript+9+6 {
		t.Errorf("%d arguments of two plans in turn", n)
	}
	mustSpend(t, s, spendOf(plan(), 1)) // the script is known
	s.send(t.Context(), calls)
	for command, want := range map[string]int{"evalsha": 2, "time": 2, "hmget": maxScript + 1, "hset": maxScript + 1} {
		if got, _ := commandStat(t, b, command); got != want {
			t.Errorf("%s: %d calls, want %d", command, got, want)
		}
	}
}

// What is beyond one script goes in the next one of the same round trip, and an order that spans
// both holds.
func TestManyScriptsInOneTrip(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
		client := b.dial(t)
		s := NewStore(client, b.now)
		mustSpend(t, s, &limits.Spend{ID: "one", Windows: plan(), Cost: 1})
		trips := &roundTrips{}
		client.AddHook(trips)
		layout := newLayout(plan())
		var calls []*operation
		for range maxBatch {
			calls = append(calls, &operation{id: "one", layout: layout, cost: 1})
		}
		s.send(t.Context(), calls)
		for i, c := range calls {
			if want := min(int64(i)+2, 60); c.err != nil || c.counts[0].Spent != want || c.allowed != (i < 59) {
				t.Fatalf("call %d: %v, %v, %v", i, c.allowed, c.counts, c.err)
			}
		}
		if got := strings.TrimSuffix(strings.Join(trips.sent, " "), " hello"); got != "pipeline" { // hello: a new connection
			t.Errorf("sent %q", got)
		}
	})
}
