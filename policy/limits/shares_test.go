package limits

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// newcomer has two replicas spend 50 units a second each for half a minute, and then a third one too, which may have done so
// before and stalled. spend carries out one, pass puts the clock forward.
func newcomer(t *testing.T, replicas [3]*Leases, stalls bool, spend func(*Leases, *Spend), pass func(time.Duration)) {
	t.Helper()
	s := spendOf(one(20_000, Day), 1)
	seconds := func(n int, busy ...*Leases) {
		for range n {
			for range 50 {
				for _, l := range busy {
					spend(l, s)
				}
				pass(20 * time.Millisecond)
			}
			for _, l := range replicas {
				l.sweep()
				l.batches.quiet(t.Context())
			}
		}
	}
	if stalls {
		seconds(10, replicas[:]...)
	}
	seconds(30, replicas[:2]...)
	seconds(10, replicas[:]...)
	var before [3]uint64
	for i, l := range replicas {
		before[i] = l.Stats().Lease
	}
	seconds(20, replicas[:]...)
	for i, l := range replicas {
		if part := float64(l.Stats().Lease-before[i]) / 1000; part < .9 {
			t.Errorf("stalls %v: of what replica %d spends %.3f come from leases", stalls, i, part)
		}
	}
}

// A replica that joins, or has stalled so long that it holds nothing any more, leases like those that were there, within
// half a minute.
func TestNewcomerLeases(t *testing.T) {
	for _, stalls := range []bool{false, true} {
		w := newWorld(t, time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC))
		replicas := [3]*Leases{w.replica(0, false), w.replica(time.Hour, false), w.replica(-time.Hour, false)}
		newcomer(t, replicas, stalls, func(l *Leases, s *Spend) {
			if _, err := w.spend(l, s, 50); err != nil {
				t.Fatal(err)
			}
		}, func(d time.Duration) { w.at = w.at.Add(d) })
	}
}

func TestNewcomerLeasesOnRealStores(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-01-15T09:00:00.05Z"))
		replicas := [3]*Leases{b.leases(t, Options{}), b.leases(t, Options{}), b.leases(t, Options{})}
		newcomer(t, replicas, false, func(l *Leases, s *Spend) { mustSpend(t, l, s) }, b.pass)
	})
}

// Replicas that come, go, crash and stall, each asked at another rate: all lease, no limit is exceeded, and what is refused
// early is 2 % of it at most (both held by world.spend).
func TestSharesOfManyReplicas(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10, 20, 50} {
		for _, limit := range []int64{1_000, 20_000, 500_000} {
			t.Run(fmt.Sprintf("%d replicas, %d a day", n, limit), func(t *testing.T) {
				w := newWorld(t, time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC))
				rng := rand.New(rand.NewPCG(uint64(n), uint64(limit)))
				plan := one(limit, Day)
				replicas := make([]*Leases, n)
				for i := range replicas {
					replicas[i] = w.replica(time.Duration(rng.Int64N(int64(time.Hour))), false)
				}
				stalled := make([]int, n) // until this second
				spends, asked := 0, w.calls
				for second := range 60 {
					if second > 5 {
						i := rng.IntN(n)
						switch rng.IntN(12) {
						case 0:
							replicas[i].giveBack()
							replicas[i] = w.replica(0, false)
						case 1:
							replicas[i] = w.replica(0, false) // crashed
						case 2, 3:
							stalled[i] = second + 1 + rng.IntN(15)
						}
					}
					for range 1 + 100/n {
						for i, l := range replicas {
							if second < stalled[i] || rng.IntN(n) > i+n/3 {
								continue
							}
							if _, err := w.spend(l, spendOf(plan, 1), 50); err != nil {
								t.Fatal(err)
							}
							spends++
						}
						w.at = w.at.Add(time.Second / time.Duration(1+100/n))
					}
					for _, l := range replicas {
						l.sweep()
						l.batches.quiet(t.Context())
					}
				}
				calls := float64(w.calls-asked) / float64(spends)
				if limit >= 20_000 && calls > .25 {
					t.Errorf("%d spends made %.3f calls each", spends, calls)
				}
				if limit == 1_000 { // all of it is used, but for what crashed ones held
					for range limit {
						for _, l := range replicas {
							if _, err := w.spend(l, spendOf(plan, 1), 50); err != nil {
								t.Fatal(err)
							}
						}
					}
					start, _ := plan[0].bounds(w.at.Unix())
					if used := w.allowed[windowID("a", plan[0], start)]; used < limit-limit/50 || used > limit {
						t.Errorf("%d of %d used", used, limit)
					}
				}
			})
		}
	}
}
