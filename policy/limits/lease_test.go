package limits

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func noon() time.Time { return time.Date(2026, 1, 15, 12, 0, 0, 50_000_000, time.UTC) }

func three(minute, hour, day int64) []Window {
	return []Window{{Name: "minute", Limit: minute, Per: Minute}, {Name: "hour", Limit: hour, Per: Hour}, {Name: "day", Limit: day, Per: Day}}
}

// simulation draws faults, replicas and steps.
type simulation struct {
	exact   bool
	faults  bool
	changes bool // of plans
}

// No interleaving of replicas, crashes, skewed clocks, window edges, slow and lost trips and changed plans exceeds a
// limit; what is refused early is at most 2 % of a limit, and nothing in exact mode.
func TestNeverOverAdmits(t *testing.T) {
	for name, s := range map[string]simulation{
		"auto":                {},
		"auto, faults":        {faults: true},
		"auto, plans change":  {faults: true, changes: true},
		"exact":               {exact: true},
		"exact, faults":       {exact: true, faults: true},
		"exact, plans change": {exact: true, faults: true, changes: true},
	} {
		t.Run(name, func(t *testing.T) { rapid.Check(t, s.run) })
	}
}

func (s simulation) run(rt *rapid.T) {
	w := newWorld(rt, noon().Add(-5*time.Second))
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
	plans := [][]Window{
		three(250, 1100, 4000), three(250, 1100, 4000), three(500, 900, 4000), three(110, 2000, 2000),
		{{Name: "second", Limit: 150, Per: Second}, {Name: "day", Limit: 4000, Per: Day}},
		{{Name: "month", Limit: 1500, Per: Month}},
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
			replicas[i].giveBack() // ended
			replicas[i] = w.replica(skew(), s.exact)
		case n < 6:
			replicas[i].sweep()
			replicas[i].batches.quiet(rt.Context())
		case n < 12:
			w.at = w.at.Add(time.Duration(rng.IntN(70)) * time.Second)
		case n < 20:
			w.at = w.at.Truncate(time.Minute).Add(time.Minute - time.Duration(rng.IntN(2000))*time.Microsecond) // just before an edge
		case n < 14 && s.changes:
			plan = plans[rng.IntN(len(plans))]
		case n < 100:
			w.at = w.at.Add(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
		spend := &Spend{ID: "a", Windows: plan, Cost: []int64{0, 1, 1, 1, 1, 2, 5, 30}[rng.IntN(8)], ReadOnly: rng.IntN(20) == 0}
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
				l := w.replica(0, exact)
				rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
				plans := [][]Window{three(250, 1100, 4000), three(120, 130, 1000), {{Name: "minute", Limit: 150, Per: Minute}, {Name: "day", Limit: 4000, Per: Day}}}
				plan := plans[0]
				for range rapid.IntRange(20, 300).Draw(rt, "steps") {
					switch n := rng.IntN(40); {
					case n == 0:
						w.at = w.at.Add(time.Duration(rng.IntN(100)) * time.Second)
					case n == 1:
						plan = plans[rng.IntN(len(plans))]
					case n == 2:
						l.sweep()
						l.batches.quiet(rt.Context())
					case n < 20:
						w.at = w.at.Add(time.Duration(rng.IntN(200)) * time.Millisecond)
					}
					spend := &Spend{ID: "a", Windows: plan, Cost: []int64{0, 1, 1, 1, 1, 2, 5, 30}[rng.IntN(8)], ReadOnly: rng.IntN(10) == 0}
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
