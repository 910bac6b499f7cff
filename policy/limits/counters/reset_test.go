package counters

import (
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect/redistest"
	"tollgate/policy/limits"
)

// counted is what the store says of a window.
type counted struct{ Spent, Held int64 }

// mustCount reads one window.
func mustCount(t *testing.T, s *Store, w limits.Window) counted {
	t.Helper()
	res, held, err := s.Peek(t.Context(), &limits.Spend{ID: "a", Windows: []limits.Window{w}, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return counted{res.States[0].Spent, held[0]}
}

// administrator is a Store that may do what the commands about limits may.
func (b *backend) administrator() *Store { return NewStore(b.client, b.now) }

// What is no counter is named, and nothing is reset then.
func TestBrokenCountsAreNotReset(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		s := b.administrator()
		windows := []limits.Window{{Name: "good", Limit: 9, Per: limits.Day}, {Name: "bad", Limit: 9, Per: limits.Month}}
		for _, broken := range []string{"x", "1:2:3:4", "1:", "1:2:", "1:x", "1795996800:5:x", "1795996800:2:3", "1:99999999999999999999", "1795996800:-1"} {
			b.client.HSet(t.Context(), countKey("a"), "day:good", "1795996800:5:2", "month:bad", broken)
			before := b.client.HGetAll(t.Context(), countKey("a")).Val()
			var fault *limits.BrokenError
			if _, _, err := s.Reset(t.Context(), "a", windows); !errors.As(err, &fault) || err.Error() != `limits: reset: window "bad": the stored value is no counter` {
				t.Errorf("%q: %v", broken, err)
			}
			if fmt.Sprint(b.client.HGetAll(t.Context(), countKey("a")).Val()) != fmt.Sprint(before) {
				t.Errorf("%q: something was reset", broken)
			}
		}
		var fault *limits.BrokenError
		for id, list := range map[string][]limits.Window{"a": {{Name: "w", Per: 99}}, "": windows} {
			if _, _, err := s.Reset(t.Context(), id, list); !errors.As(err, &fault) {
				t.Errorf("%q, %v: %v", id, list, err)
			}
		}
		b.stop()
		if _, _, err := s.Reset(t.Context(), "a", windows); err == nil || errors.As(err, &fault) {
			t.Errorf("a store that is away: %v", err)
		}
	})
}

// exhaust spends until neither replica lets a unit through, and returns how many were.
func exhaust(t *testing.T, windows []limits.Window, replicas ...*Leases) (n int64) {
	t.Helper()
	for refused := 0; refused < len(replicas); {
		refused = 0
		for _, l := range replicas {
			if mustSpend(t, l, spendOf(windows, 1)).Allowed {
				n++
			} else {
				refused++
			}
		}
		if n > 1<<20 {
			t.Fatal("there is no end")
		}
	}
	return n
}

// toldAll has all that replicas hold told to the store.
func toldAll(t *testing.T, replicas ...*Leases) {
	t.Helper()
	for _, l := range replicas {
		l.batches.drain(t.Context())
	}
}

// A reset while two replicas hold leases: what they give back was counted, once, and what is spent
// in all from then on is what the limit says, to the unit.
func TestResetWithLeasesOut(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		for _, told := range []int{2, 1, 0} { // how many of the replicas hear of it
			b.empty(t)
			b.at(t, clock(t, "2026-11-12T12:00:00.05Z"))
			s, windows := b.administrator(), one(5000, limits.Month)
			replicas := []*Leases{b.leases(t, Options{}), b.leases(t, Options{})}
			for range 700 {
				for _, l := range replicas {
					mustSpend(t, l, spendOf(windows, 1))
				}
			}
			toldAll(t, replicas...)
			before := mustCount(t, s, windows[0])
			unspent := heldBy(replicas)
			if before.Held == 0 || unspent == 0 || before.Spent != 1400+unspent {
				t.Fatalf("%+v, %d units are not spent: no leases are out", before, unspent)
			}
			for _, l := range replicas[:told] {
				l.Drop("a")
			}
			toldAll(t, replicas...)
			was, held, err := s.Reset(t.Context(), "a", windows)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range replicas[:told] {
				l.Drop("a")
			}
			after := mustCount(t, s, windows[0])
			if after.Spent != held[0] || after.Held != held[0] || was[0].Spent < 1400 || told == 2 && after.Spent != 0 {
				t.Errorf("%d told: %+v and %d held were made %+v", told, was, held, after)
			}
			// Of what the others held, they have spent some before: that is the only part of
			// before that counts now.
			carried := after.Held - heldBy(replicas[told:])
			if got := exhaust(t, windows, replicas...); got != 5000-carried || carried > before.Held || told == 2 && carried != 0 {
				t.Errorf("%d told: %d were let through after the reset, want 5000 less %d", told, got, carried)
			}
			toldAll(t, replicas...)
			if got := mustCount(t, s, windows[0]); got.Spent != 5000 || got.Held != 0 {
				t.Errorf("%d told: %+v at the end", told, got)
			}
		}
	})
}

// heldBy is what replicas may still spend by themselves.
func heldBy(replicas []*Leases) (n int64) {
	for _, l := range replicas {
		n += l.Stats().Held
	}
	return n
}

// A refusal is believed no longer once its limit was reset, also where its answer was on the way
// then.
func TestDropForgetsRefusals(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		for _, exact := range []bool{false, true} {
			b.empty(t)
			b.at(t, clock(t, "2026-11-12T12:00:00.05Z"))
			s, windows := b.administrator(), one(3, limits.Minute)
			l := b.leases(t, Options{Exact: exact})
			if n := exhaust(t, windows, l); n != 3 {
				t.Fatalf("%d were let through", n)
			}
			calls := l.Stats().Calls
			if mustSpend(t, l, spendOf(windows, 1)).Allowed || l.Stats().Calls != calls {
				t.Fatal("the refusal is not remembered")
			}
			if _, _, err := s.Reset(t.Context(), "a", windows); err != nil {
				t.Fatal(err)
			}
			if mustSpend(t, l, spendOf(windows, 1)).Allowed {
				t.Fatal("nobody has told it of the reset")
			}
			l.Drop("a")
			l.Drop("of nobody")
			if n := exhaust(t, windows, l); n != 3 {
				t.Errorf("%d were let through after the reset", n)
			}
		}
	})
}

// In a cluster the node that counts resets.
func TestResetOnACluster(t *testing.T) {
	nodes := redistest.StartCluster(t, 2)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Address(), nodes[1].Address()}, MaxRetries: -1})
	defer c.Close()
	store, month := NewStore(c, nil), one(9, limits.Month)
	for i := range 10 {
		id := fmt.Sprint("key", i)
		for range 3 {
			mustSpend(t, store, &limits.Spend{ID: id, Windows: month, Cost: 1})
		}
		before, held, err := store.Reset(t.Context(), id, month)
		if err != nil || before[0].Spent != 3 || held[0] != 0 {
			t.Errorf("%s: %+v, %v, %v", id, before, held, err)
		}
		if res := mustSpend(t, store, &limits.Spend{ID: id, Windows: month, Cost: 1}); res.States[0].Spent != 1 {
			t.Errorf("%s after the reset: %+v", id, res)
		}
	}
}

// A window that is over, and one that has not begun, are nothing to reset, and one before is
// forgotten.
func TestResetOfWindowsThatAreOver(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2026-11-12T12:00:00.05Z"))
		s, windows := b.administrator(), []limits.Window{{Name: "over", Limit: 9, Per: limits.Day}, {Name: "new", Limit: 9, Per: limits.Day}}
		b.client.HSet(t.Context(), countKey("a"), "day:over", "1793750400:7:2", "previous:day:over", "1793664000:3")
		before, held, err := s.Reset(t.Context(), "a", windows)
		if err != nil || before[0].Spent != 0 || before[1].Spent != 0 || held[0] != 0 {
			t.Errorf("%+v, %v, %v", before, held, err)
		}
		if got := fmt.Sprint(b.client.HGetAll(t.Context(), countKey("a")).Val()); got != "map[day:over:1793750400:2:2]" {
			t.Errorf("%s is left", got)
		}
	})
}
