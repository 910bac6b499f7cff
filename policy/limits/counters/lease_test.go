package counters

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/policy/limits"
)

func noon() time.Time { return time.Date(2026, 1, 15, 12, 0, 0, 50_000_000, time.UTC) }

func three(minute, hour, day int64) []limits.Window {
	return []limits.Window{{Name: "minute", Limit: minute, Per: limits.Minute}, {Name: "hour", Limit: hour, Per: limits.Hour}, {Name: "day", Limit: day, Per: limits.Day}}
}

// simulation draws faults, replicas and steps.
type simulation struct {
	exact   bool
	faults  bool
	changes bool // of plans
	gathers bool // operations that nobody waits for gather until there is another
}

// No interleaving of replicas, crashes, skewed clocks, window edges, slow and lost round trips and
// changed plans exceeds a limit; what is refused early is at most 2 % of a limit, and nothing in
// exact mode.
func TestNeverOverAdmits(t *testing.T) {
	for name, s := range map[string]simulation{
		"auto":                {},
		"auto, faults":        {faults: true},
		"auto, plans change":  {faults: true, changes: true},
		"auto, gathering":     {faults: true, gathers: true},
		"auto, all":           {faults: true, changes: true, gathers: true},
		"exact":               {exact: true},
		"exact, faults":       {exact: true, faults: true},
		"exact, plans change": {exact: true, faults: true, changes: true},
	} {
		if s.lesser() && underRace() {
			continue
		}
		t.Run(name, func(t *testing.T) { rapid.Check(t, s.run) })
	}
}

// lesser reports whether another simulation has all that this one has.
func (s simulation) lesser() bool {
	return !s.faults || !s.changes || !s.exact && !s.gathers
}

// underRace reports whether the race detector is on. It makes the simulations ten times slower and
// finds next to nothing in them, because one goroutine at a time moves their clock; make test runs
// all of them without it.
func underRace() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func (s simulation) run(rt *rapid.T) {
	w := newWorld(rt, noon().Add(-5*time.Second))
	w.lazy = s.gathers
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
	if s.faults {
		w.fault = func() fault {
			f := fault{before: time.Duration(rng.IntN(3000)) * time.Microsecond, after: time.Duration(rng.IntN(3000)) * time.Microsecond}
			switch rng.IntN(40) {
			case 0:
				f.lost = 1
			case 1:
				f.lost = 2
			case 2:
				f.before = time.Duration(rng.IntN(900)) * time.Millisecond
			case 3:
				f.after = time.Duration(rng.IntN(900)) * time.Millisecond
			}
			return f
		}
	}
	plans := [][]limits.Window{
		three(250, 1100, 4000), three(250, 1100, 4000), three(500, 900, 4000), three(110, 2000, 2000),
		{{Name: "second", Limit: 150, Per: limits.Second}, {Name: "day", Limit: 4000, Per: limits.Day}},
		{{Name: "month", Limit: 1500, Per: limits.Month}},
	}
	slack := int64(50)
	if s.exact {
		slack = 0
	}
	plan := plans[rng.IntN(len(plans))]
	skew := func() time.Duration { return time.Duration(rng.Int64N(int64(4*time.Second))) - 2*time.Second }
	replicas := make([]*Leases, 1+rng.IntN(5))
	for i := range replicas {
		replicas[i] = w.replica(skew(), s.exact)
	}
	for range rapid.IntRange(20, 400).Draw(rt, "steps") {
		i := rng.IntN(len(replicas))
		switch n := rng.IntN(200); {
		case n == 0:
			replicas[i] = w.replica(skew(), s.exact) // crashed
		case n == 1:
			replicas[i].returnAll() // ended
			replicas[i] = w.replica(skew(), s.exact)
		case n < 6:
			replicas[i].sweep()
			if !s.gathers || n < 4 {
				replicas[i].batches.drain(rt.Context())
			}
		case n < 8 && s.changes:
			plan = plans[rng.IntN(len(plans))]
		case n < 12:
			w.at = w.at.Add(time.Duration(rng.IntN(70)) * time.Second)
		case n < 20:
			w.at = w.at.Truncate(time.Minute).Add(time.Minute - time.Duration(rng.IntN(2000))*time.Microsecond) // just before an edge
		case n < 100:
			w.at = w.at.Add(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
		spend := &limits.Spend{ID: "a", Windows: plan, Cost: []int64{0, 1, 1, 1, 1, 2, 5, 30}[rng.IntN(8)], ReadOnly: rng.IntN(20) == 0}
		for range 1 + rng.IntN(20) {
			slack := slack
			if s.changes {
				slack = 1 // a limit that is lowered says no without having said yes
			}
			_, _ = w.spend(replicas[i], spend, slack)
		}
	}
}

// One replica answers as the model does, leases or not: each answer, each counter and each reset.
func TestOneReplicaIsTheModel(t *testing.T) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%v", exact), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				w, m := newWorld(rt, noon().Add(-30*time.Second)), newModel()
				w.lazy = rapid.Bool().Draw(rt, "lazy")
				l := w.replica(0, exact)
				rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
				plans := [][]limits.Window{three(250, 1100, 4000), three(120, 130, 1000), {{Name: "minute", Limit: 150, Per: limits.Minute}, {Name: "day", Limit: 4000, Per: limits.Day}}}
				plan := plans[0]
				for range rapid.IntRange(20, 300).Draw(rt, "steps") {
					switch n := rng.IntN(40); {
					case n == 0:
						w.at = w.at.Add(time.Duration(rng.IntN(100)) * time.Second)
					case n == 1:
						plan = plans[rng.IntN(len(plans))]
					case n == 2:
						l.sweep()
						l.batches.drain(rt.Context())
					case n < 20:
						w.at = w.at.Add(time.Duration(rng.IntN(200)) * time.Millisecond)
					}
					spend := &limits.Spend{ID: "a", Windows: plan, Cost: []int64{0, 1, 1, 1, 1, 2, 5, 30}[rng.IntN(8)], ReadOnly: rng.IntN(10) == 0}
					for range 1 + rng.IntN(10) {
						res, err := w.spend(l, spend, 0)
						if err != nil {
							rt.Fatal(err)
						}
						m.verify(rt, spend, res)
					}
				}
			})
		})
	}
}

// A cost that no limit has room for is refused, however large.
func TestLargestCost(t *testing.T) {
	w := newWorld(t, noon())
	l := w.replica(0, false)
	w.hold(l, one(1000, limits.Minute), 3)
	w.at = w.at.Add(idleAfter)
	for _, cost := range []int64{1 << 62, math.MaxInt64} {
		if res, err := l.Spend(t.Context(), spendOf(one(1000, limits.Minute), cost)); err != nil || res.Allowed {
			t.Errorf("%d: %+v, %v", cost, res, err)
		}
	}
}

// A day of uneven traffic at five replicas, and at a sixth that crashes every half minute: each
// limit that was asked for is used to 98 %, and to the unit in two hours of exact counting.
func TestDay(t *testing.T) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%v", exact), func(t *testing.T) {
			w := newWorld(t, time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC))
			rng := rand.New(rand.NewPCG(1, 2))
			w.fault = func() fault {
				return fault{before: time.Duration(rng.IntN(1000)) * time.Microsecond, after: time.Duration(rng.IntN(1000)) * time.Microsecond}
			}
			plan, slack, hours := three(300, 5_000, 50_000), int64(50), 24
			switch {
			case exact:
				slack, hours = 0, 2
			case underRace():
				hours = 3
			}
			replicas := make([]*Leases, 6)
			crash := func() {
				replicas[5] = w.replica(time.Duration(rng.Int64N(int64(4*time.Second)))-2*time.Second, exact)
			}
			for i := range replicas[:5] {
				replicas[i] = w.replica(time.Duration(i-2)*time.Second, exact)
			}
			crash()
			begin, swept, crashed := w.at, w.at, w.at
			spend := spendOf(plan, 1)
			for w.at.Sub(begin) < time.Duration(hours)*time.Hour {
				rate := 6.0
				if w.at.Sub(begin) > 11*time.Hour {
					rate = .2 // the day is spent
				}
				w.at = w.at.Add(time.Duration(rng.ExpFloat64() * float64(time.Second) / rate))
				if w.at.Sub(swept) >= 5*time.Second {
					swept = w.at
					for _, l := range replicas {
						l.sweep()
						l.batches.drain(t.Context())
					}
				}
				if w.at.Sub(crashed) > 30*time.Second {
					crashed = w.at
					crash()
				}
				i := [20]int{0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 4, 5}[rng.IntN(20)]
				if _, err := w.spend(replicas[i], spend, slack); err != nil {
					t.Fatal(err)
				}
			}
			w.used(t, begin, plan, slack, hours)
		})
	}
}

// used sees that the day was used, if it is over, and each hour until it was.
func (w *world) used(t *testing.T, begin time.Time, plan []limits.Window, slack int64, hours int) {
	least := func(limit int64) int64 {
		if slack > 0 {
			return limit - limit/slack
		}
		return limit
	}
	day := w.allowed[windowID("a", plan[2], begin.Unix())]
	if hours == 24 && day < least(plan[2].Limit) || day > plan[2].Limit {
		t.Errorf("%d allowed in the day", day)
	}
	for h := range min(9, hours) {
		if n := w.allowed[windowID("a", plan[1], begin.Add(time.Duration(h)*time.Hour).Unix())]; n < least(plan[1].Limit) || n > plan[1].Limit {
			t.Errorf("%d allowed in hour %d", n, h)
		}
	}
	lowest := plan[0].Limit
	for m := range 15 {
		lowest = min(lowest, w.allowed[windowID("a", plan[0], begin.Add(time.Duration(m)*time.Minute).Unix())])
	}
	if lowest < least(plan[0].Limit) {
		t.Errorf("%d allowed in a minute", lowest)
	}
	t.Logf("%d of %d allowed in the day, at least %d of %d in a minute; %d calls", day, plan[2].Limit, lowest, plan[0].Limit, w.calls)
}

// The same on the stores themselves, for a short while: what is counted is what was allowed, once
// all is given back.
func TestReplicasOnRealStores(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-01-15T12:00:00.05Z"))
		now := clock(t, "2026-01-15T12:00:00.05Z")
		windows := []limits.Window{{Name: "hour", Limit: 2000, Per: limits.Hour}, {Name: "month", Limit: 5000, Per: limits.Month, Anchor: 20}}
		replicas := []*Leases{b.leases(t, Options{}), b.leases(t, Options{}), b.leases(t, Options{})}
		rng := rand.New(rand.NewPCG(3, 4))
		allowed := map[time.Time]int64{}
		for range 4000 {
			if rng.IntN(60) == 0 {
				now = now.Add(time.Duration(rng.IntN(120)) * time.Second)
				b.at(t, now)
				for _, l := range replicas {
					l.sweep()
				}
			}
			s := spendOf(windows, int64(1+rng.IntN(3)))
			res := mustSpend(t, replicas[rng.IntN(2)+rng.IntN(2)], s)
			for _, state := range res.States {
				if res.Allowed {
					allowed[state.Reset] += s.Cost
				}
			}
			if n := allowed[res.States[0].Reset]; n > 2000 || !res.Allowed && n < 1950 && allowed[res.States[1].Reset] < 4880 {
				t.Fatalf("allowed is %v with %d spent in the hour", res.Allowed, n)
			}
		}
		for _, l := range replicas {
			l.returnAll()
		}
		fields, err := b.client.HGetAll(t.Context(), "tg:v1:count:{a}").Result()
		month := fmt.Sprint("1766188800:", allowed[time.Date(2026, 1, 20, 0, 0, 0, 0, time.UTC)])
		if err != nil || fields["month:month"] != month || strings.Count(fields["hour:hour"], ":") != 1 {
			t.Errorf("stored: %v, %v; want %s and nothing held", fields, err, month)
		}
	})
}
