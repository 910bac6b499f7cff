package policy_test

import (
	"testing"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// A whole decision about an allowed request, with the key and the limits at hand.
func BenchmarkDecide(b *testing.B) {
	set := shopSet(b)
	w := goodWorld()
	decider := policy.NewDecider(keys.NewHasher([]byte("pepper")), limits.NewLocal(1, clock, 10), clock)
	grant := keys.NewGrant(&w.key)
	var check policy.Check
	b.ReportAllocs()
	for b.Loop() {
		if wait := decider.Begin(&check, set, &w.request); wait != policy.WaitKey {
			b.Fatal(wait)
		}
		if wait := check.Found(*grant, nil); wait != policy.WaitLimits {
			b.Fatal(wait)
		}
		w.spend = check.Spend()
		res := check.Result()
		res.Allowed, res.Now = true, clock()
		for range w.spend.Windows {
			res.States = append(res.States, limits.State{Spent: 1, Reset: clock()})
		}
		if check.Spent(nil); !check.Decision().Allow {
			b.Fatal(check.Decision().Reason)
		}
	}
}
