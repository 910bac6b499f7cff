package counters

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/limits"
)

func slotOf(id string, places int64) limits.Slot {
	return limits.Slot{ID: id, Places: places, Hold: time.Minute}
}

func takes(id string, places int64) *limits.Spend {
	return &limits.Spend{ID: "k", Windows: one(1000, limits.Hour), Cost: 1, Slot: slotOf(id, places)}
}

// inUse returns the slots in the store, also those that have ended.
func inUse(t testing.TB, b *backend, limitID string) int64 {
	t.Helper()
	n, err := b.client.ZCard(context.Background(), slotsKey(limitID)).Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func spentOf(t testing.TB, s spender) int64 {
	t.Helper()
	return mustSpend(t, s, &limits.Spend{ID: "k", Windows: one(1000, limits.Hour), ReadOnly: true, Exact: true}).States[0].Spent
}

// A slot is taken with the windows or not at all; a request that gets none is charged nothing.
func TestSlots(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 10, 0, 0, 50e6, time.UTC))
		s := b.store(t)
		for i := range int64(3) {
			res := mustSpend(t, s, takes(fmt.Sprint("s", i), 3))
			if !res.Allowed || res.Full || res.InUse != i+1 || res.States[0].Spent != i+1 {
				t.Fatalf("take %d: %+v", i, res)
			}
		}
		res := mustSpend(t, s, takes("s3", 3))
		if res.Allowed || !res.Full || res.InUse != 3 || res.States[0].Spent != 3 {
			t.Fatalf("beyond: %+v", res)
		}
		if res := mustSpend(t, s, takes("s3", 4)); !res.Allowed {
			t.Errorf("a key with more places: %+v", res)
		}

		full := takes("s4", 10)
		full.Windows = one(4, limits.Hour)
		if res := mustSpend(t, s, full); res.Allowed || res.Full || res.InUse != 4 {
			t.Errorf("a window that is spent: %+v", res)
		}
		if n := inUse(t, b, "k"); n != 4 {
			t.Errorf("%d slots in use, want 4", n)
		}
	})
}

// A plan may limit concurrent requests and nothing else; and a request of cost 0 takes one slot.
func TestSlotsWithoutWindows(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 10, 0, 0, 50e6, time.UTC))
		l := b.leases(t, Options{})
		alone := func(id string) *limits.Spend { return &limits.Spend{ID: "k", Slot: slotOf(id, 1)} }
		if res := mustSpend(t, l, alone("a")); !res.Allowed || res.InUse != 1 || len(res.States) != 0 {
			t.Fatalf("%+v", res)
		}
		if res := mustSpend(t, l, alone("b")); res.Allowed || !res.Full {
			t.Fatalf("%+v", res)
		}
		free := takes("c", 2)
		free.Cost = 0
		if res := mustSpend(t, l, free); !res.Allowed || res.InUse != 2 || res.States[0].Spent != 0 {
			t.Fatalf("%+v", res)
		}
	})
}

// What is not released ends by itself; held on it ends later, and what has ended stays so.
func TestSlotsEnd(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 10, 0, 0, 50e6, time.UTC))
		l := b.leases(t, Options{})
		mustSpend(t, l, takes("short", 2))
		mustSpend(t, l, takes("long", 2))
		b.pass(40 * time.Second)
		l.Hold("k", "long", time.Minute)
		settled(t, l)
		b.pass(30 * time.Second)
		if res := mustSpend(t, l, takes("next", 2)); !res.Allowed || res.InUse != 2 {
			t.Fatalf("after the end of one: %+v", res)
		}
		if res := mustSpend(t, l, takes("more", 2)); res.Allowed {
			t.Fatal("the one that was held on has ended")
		}
		l.Hold("k", "short", time.Minute)
		l.Release("k", "short")
		l.Release("unknown", "slot")
		l.Release("k", "long")
		settled(t, l)
		b.pass(time.Second)
		if res := mustSpend(t, l, takes("more", 2)); !res.Allowed {
			t.Fatal("a released slot is not free")
		}
		want := SlotStats{Taken: 4, Full: 1, Held: 1, Released: 1, Gone: 3, Ended: 1}
		if got := l.Slots(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if n, err := b.client.Exists(context.Background(), slotsKey("unknown")).Result(); n != 0 || err != nil {
			t.Errorf("a release has made a key: %d, %v", n, err)
		}
	})
}

// A clock of the store that jumps neither locks out nor lets a slot stay for longer than its time.
func TestSlotsAfterAClockJump(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		noon := time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC)
		b.at(t, noon.Add(3*time.Hour))
		s := b.store(t)
		mustSpend(t, s, takes("ahead", 1))
		b.at(t, noon)
		if res := mustSpend(t, s, takes("b", 1)); res.Allowed {
			t.Fatal("the slot was lost with the jump")
		}
		b.at(t, noon.Add(time.Minute+time.Second))
		if res := mustSpend(t, s, takes("c", 1)); !res.Allowed {
			t.Fatal("locked out for longer than a slot is held")
		}
	})
}

// A request that is checked again takes the place of its first try: by the slot, which the replica
// knows, or by its name, on another replica; and only where there is no other place.
func TestSlotOfTheSameRequest(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
		s := b.store(t)
		mustSpend(t, s, takes("r1:a", 1))
		again := takes("r1:b", 1)
		again.Slot.Earlier = "r1:a"
		if res := mustSpend(t, s, again); !res.Allowed || res.InUse != 1 {
			t.Fatalf("by its slot: %+v", res)
		}
		if res := mustSpend(t, s, takes("r1:c", 1)); !res.Allowed || res.InUse != 1 {
			t.Fatalf("by its request: %+v", res)
		}
		for _, other := range []string{"r2:d", "r1", "r1x:e", "e"} {
			if res := mustSpend(t, s, takes(other, 1)); res.Allowed {
				t.Errorf("%s took the slot of r1", other)
			}
		}
	})
}

// A key of another type, and a counter that is broken, take no slot and stay as they are.
func TestBrokenSlots(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		ctx := context.Background()
		b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
		b.client.Set(ctx, slotsKey("k"), "text", 0)
		l := b.leases(t, Options{})
		var broken *limits.BrokenError
		if _, err := l.Spend(ctx, takes("a", 1)); !errors.As(err, &broken) {
			t.Fatalf("%v", err)
		}
		l.Release("k", "a")
		settled(t, l)
		if got := b.client.Get(ctx, slotsKey("k")).Val(); got != "text" {
			t.Errorf("%q", got)
		}
		if got := spentOf(t, l); got != 0 {
			t.Errorf("%d spent", got)
		}
		if got := l.Slots(); got != (SlotStats{Lost: 1}) {
			t.Errorf("%+v", got)
		}
		b.client.Del(ctx, slotsKey("k"))
		b.client.HSet(ctx, countKey("k"), "hour:w", "nonsense")
		if _, err := l.Spend(ctx, takes("a", 1)); !errors.As(err, &broken) {
			t.Fatalf("%v", err)
		}
		if n := inUse(t, b, "k"); n != 0 {
			t.Errorf("%d slots", n)
		}
	})
}

// Spends with and without slots share pipelines and scripts.
func TestSlotsBesideOtherSpends(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
		s := b.store(t)
		var ops []*operation
		add := func(sp *limits.Spend) *operation {
			l, err := s.layouts.of(sp)
			if err != nil {
				t.Fatal(err)
			}
			c := &operation{id: sp.ID, layout: l, cost: sp.Cost, readOnly: sp.ReadOnly, slot: sp.Slot}
			ops = append(ops, c)
			return c
		}
		plain := add(&limits.Spend{ID: "k", Windows: one(1000, limits.Hour), Cost: 2})
		first, second := add(takes("a", 2)), add(takes("b", 2))
		alone := add(&limits.Spend{ID: "other", Slot: slotOf("x", 1)})
		third := add(takes("c", 2))
		free := &operation{id: "k", layout: newLayout(nil), holds: true, slot: limits.Slot{ID: "a"}}
		ops = append(ops, free)
		fourth := add(takes("d", 2))
		last := add(&limits.Spend{ID: "k", Windows: one(1000, limits.Hour), ReadOnly: true})
		s.send(t.Context(), ops)
		for i, c := range ops {
			if c.err != nil {
				t.Fatalf("%d: %v", i, c.err)
			}
		}
		for i, c := range []*operation{plain, first, second, alone, fourth, last} {
			if !c.allowed {
				t.Errorf("%d is refused", i)
			}
		}
		if third.allowed || !third.full || !free.found || fourth.inUse != 2 || last.counts[0].Spent != 5 {
			t.Errorf("third %+v, free %+v, fourth %+v, last %+v", third, free, fourth, last)
		}
	})
}

// Over replicas that take and release at once there are never more requests under way than places.
func TestRaceForSlots(t *testing.T) {
	const places, rounds = 5, 60
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
		var under, most, served, refused atomic.Int64
		var wait sync.WaitGroup
		for r := range 3 {
			l := b.leases(t, Options{})
			for w := range 6 {
				wait.Go(func() {
					for i := range rounds {
						s := takes(fmt.Sprintf("%d-%d-%d", r, w, i), places)
						s.Windows = one(1_000_000, limits.Hour)
						res, err := l.Spend(context.Background(), s)
						if err != nil {
							t.Error(err)
							return
						}
						if !res.Allowed {
							refused.Add(1)
							continue
						}
						served.Add(1)
						n := under.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						under.Add(-1)
						l.Release("k", s.Slot.ID)
					}
				})
			}
		}
		wait.Wait()
		if most.Load() > places || served.Load() == 0 || refused.Load() == 0 {
			t.Errorf("%d under way at once, %d served, %d refused", most.Load(), served.Load(), refused.Load())
		}
	})
}

// A flood beyond the places does not go to the store one by one, and a place that is free again is
// found soon.
func TestFullIsRemembered(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
		l := b.leases(t, Options{})
		l.options.Clock = func() time.Duration { return b.now() } // stands
		l.batches.now = l.options.Clock
		mustSpend(t, l, takes("a", 1))
		mustSpend(t, l, takes("b", 1))
		calls := l.Stats().Calls
		for i := range 100 {
			var res limits.Result
			s := takes(fmt.Sprint("c", i), 1)
			if !l.Try(s, &res) || res.Allowed || !res.Full || res.InUse != 1 || len(res.States) != 1 || res.States[0].Spent != 1 {
				t.Fatalf("%d: %+v", i, res)
			}
		}
		if n := l.Stats().Calls - calls; n != 0 {
			t.Errorf("%d calls for 100 refusals", n)
		}
		var res limits.Result
		if l.Try(takes("d", 2), &res) {
			t.Error("a key with more places is refused unasked")
		}
		again := takes("e", 1)
		again.Slot.Earlier = "a"
		if l.Try(again, &res) {
			t.Error("a request that has the slot is refused unasked")
		}
		l.Release("k", "a")
		settled(t, l)
		b.pass(recheckSlots)
		if res := mustSpend(t, l, takes("f", 1)); !res.Allowed {
			t.Errorf("%+v", res)
		}
	})
}

// Where a round trip takes longer than a refusal is believed, those who waited for it are answered
// by it.
func TestFullIsRememberedOfASlowStore(t *testing.T) {
	b := startEmbedded(t)
	b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
	l := b.leases(t, Options{})
	send := l.batches.send
	l.batches.send = func(ctx context.Context, ops []*operation) {
		send(ctx, ops)
		b.pass(2 * recheckSlots)
	}
	mustSpend(t, l, takes("a", 1))
	mustSpend(t, l, takes("b", 1))
	var res limits.Result
	if !l.Try(takes("c", 1), &res) || !res.Full {
		t.Error("the store is asked again at once")
	}
	b.pass(recheckSlots)
	if l.Try(takes("d", 1), &res) {
		t.Error("believed for longer than recheckSlots from the answer")
	}
}

// A plan that gets a limit of concurrent requests leaves leases behind, which go back.
func TestSlotsAfterALease(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
		l := b.leases(t, Options{})
		windows := one(100_000, limits.Hour)
		for range 20 {
			mustSpend(t, l, &limits.Spend{ID: "k", Windows: windows, Cost: 1})
		}
		if l.Stats().Held == 0 {
			t.Fatal("nothing is leased")
		}
		s := takes("a", 1)
		s.Windows = windows
		if res := mustSpend(t, l, s); !res.Allowed || res.InUse != 1 || res.States[0].Spent != 21 {
			t.Fatalf("%+v", res)
		}
		if held := l.Stats().Held; held != 0 {
			t.Errorf("%d units held", held)
		}
	})
}

// lostReplies runs every script and then says that the answer was lost.
type lostReplies struct{ on atomic.Bool }

func (h *lostReplies) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *lostReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h *lostReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && h.on.Swap(false) {
			err = errors.New("the reply is lost")
			cmd.SetErr(err)
		}
		return err
	}
}

// An answer that nobody got may have taken a slot, which is released at once.
func TestLostReplyReleasesItsSlot(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
		l := b.leases(t, Options{})
		mustSpend(t, l, takes("a", 2)) // brings the script
		lost := &lostReplies{}
		l.store.client.AddHook(lost)
		lost.on.Store(true)
		if _, err := l.Spend(t.Context(), takes("b", 2)); err == nil {
			t.Fatal("want the reply lost")
		}
		settled(t, l)
		if n := inUse(t, b, "k"); n != 1 {
			t.Errorf("%d slots in use, want that of a", n)
		}
	})
}

// A caller who leaves while his spend is under way holds nothing.
func TestSlotOfACallerWhoLeft(t *testing.T) {
	b := startRedis(t)
	b.at(t, time.Date(2031, 5, 5, 12, 0, 0, 50e6, time.UTC))
	l := b.leases(t, Options{})
	mustSpend(t, l, takes("a", 2))
	ctx, cancel := context.WithCancel(t.Context())
	l.batches.begin = func(c *operation, add func(*operation)) action {
		a := l.begin(c, add)
		cancel() // it is claimed: it will be sent
		return a
	}
	for range 1000 {
		_, err := l.Spend(ctx, takes("b", 2))
		if err != nil {
			break
		}
		t.Fatal("want the caller to have left")
	}
	settled(t, l)
	if n := inUse(t, b, "k"); n != 1 {
		t.Errorf("%d slots in use, want that of a", n)
	}
}

// settled waits until all that is queued was answered.
func settled(t testing.TB, l *Leases) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l.batches.drain(ctx)
	if ctx.Err() != nil {
		t.Fatal("operations are still queued")
	}
}
