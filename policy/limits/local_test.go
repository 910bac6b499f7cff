package limits

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestLocalShares(t *testing.T) {
	now := moment(t, "2026-01-15T12:00:30Z")
	for _, c := range []struct {
		limit    int64
		replicas int
		passes   int
	}{
		{10, 1, 10}, {10, 2, 5}, {10, 3, 3}, {10, 0, 10}, {10, -1, 10},
		{2, 3, 1}, // less than one each: still not none
		{0, 3, 0},
	} {
		l := NewLocal(c.replicas, func() time.Time { return now }, 10)
		windows := []Window{{Name: "m", Limit: c.limit, Per: Minute}}
		sp := &Spend{ID: "a", Windows: windows, Cost: 1}
		for i := range c.passes {
			res := l.Spend(sp)
			if want := int64(c.passes - i - 1); !res.Allowed || windows[0].Remaining(res.States[0]) != want {
				t.Fatalf("%+v: request %d: %+v, want %d left", c, i, res, want)
			}
		}
		res := l.Spend(sp)
		if res.Allowed || !windows[0].Denies(res.States[0], 1) || RetryAfter(windows, res.States, 1, res.Now) != 30 {
			t.Errorf("%+v: after %d: %+v", c, c.passes, res)
		}
		if !res.Now.Equal(now) || !res.States[0].Reset.Equal(moment(t, "2026-01-15T12:01:00Z")) {
			t.Errorf("%+v: %+v", c, res)
		}
	}
}

func TestLocalUnlimited(t *testing.T) {
	l := NewLocal(2, nil, 0)
	if res := l.Spend(&Spend{ID: "a", Cost: 5}); !res.Allowed || len(res.States) != 0 || time.Since(res.Now) > time.Minute {
		t.Errorf("%+v", res)
	}
}

// The table never outgrows maxKeys, and never forgets a window in force to make room.
func TestLocalIsBounded(t *testing.T) {
	now := moment(t, "2026-01-15T12:00:30Z")
	l := NewLocal(1, func() time.Time { return now }, 3)
	minute, day := Window{Name: "m", Limit: 1, Per: Minute}, Window{Name: "d", Limit: 1, Per: Day}
	spend := func(id string, w Window) Result {
		return l.Spend(&Spend{ID: id, Windows: []Window{w}, Cost: 1})
	}
	for id, w := range map[string]Window{"a": minute, "b": minute, "c": day} {
		if !spend(id, w).Allowed {
			t.Fatalf("%s: denied with room left", id)
		}
	}
	for i := range 10 {
		res := spend(fmt.Sprint("more", i), minute)
		if res.Allowed || !minute.Denies(res.States[0], 1) {
			t.Fatalf("a full table: %+v, want denied", res)
		}
		if spend("a", minute).Allowed || spend("c", day).Allowed {
			t.Fatal("a full table forgot what was spent")
		}
	}
	// The two minutes end and make room; the day does not.
	now = now.Add(time.Minute)
	if !spend("e", minute).Allowed || !spend("f", minute).Allowed || spend("g", minute).Allowed || spend("c", day).Allowed {
		t.Fatal("after the minute: want room for two")
	}
	if len(l.keys) != 3 {
		t.Fatalf("%d ids kept, want 3", len(l.keys))
	}
	// Windows that no plan has any more go with their end.
	for i := range 5 {
		now = now.Add(time.Minute)
		spend("e", Window{Name: fmt.Sprint("renamed", i), Limit: 1, Per: Minute})
	}
	if n := len(l.keys["e"]); n != 1 {
		t.Fatalf("%d windows kept, want 1", n)
	}
}

// A full table is searched at most once a second, not for each request.
func TestLocalSweepsSeldom(t *testing.T) {
	now := moment(t, "2026-01-15T12:00:00Z")
	l := NewLocal(1, func() time.Time { return now }, 1)
	second := []Window{{Name: "s", Limit: 1, Per: Second}}
	l.Spend(&Spend{ID: "a", Windows: second, Cost: 1})
	l.Spend(&Spend{ID: "b", Windows: second, Cost: 1})
	l.keys["a"][localKey{"s", Second}] = Counter{} // ended, but not looked at again in this second
	if l.Spend(&Spend{ID: "b", Windows: second, Cost: 1}).Allowed {
		t.Error("searched twice in one second")
	}
	now = now.Add(time.Second)
	if !l.Spend(&Spend{ID: "b", Windows: second, Cost: 1}).Allowed {
		t.Error("not searched in the next second")
	}
}

func TestLocalRace(t *testing.T) {
	now := moment(t, "2026-01-15T12:00:00Z")
	l := NewLocal(4, func() time.Time { return now }, 10)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if l.Spend(&Spend{ID: "a", Windows: []Window{{Name: "q", Limit: 1000, Per: Month}}, Cost: 1}).Allowed {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != 250 {
		t.Errorf("%d passed, want 250", passed.Load())
	}
}

func BenchmarkLocal(b *testing.B) {
	l := NewLocal(1, nil, 10)
	sp := &Spend{ID: "a", Windows: []Window{{Name: "minute", Limit: 60, Per: Minute}, {Name: "day", Limit: 1000, Per: Day}, {Name: "quota", Limit: 10000, Per: Month, Anchor: 31}}, Cost: 1}
	b.ReportAllocs()
	for b.Loop() {
		l.Spend(sp)
	}
}

func moment(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// A replica gives out its share of the slots, at least one, charges nothing where none is free, and
// takes back what is released or has ended.
func TestLocalSlots(t *testing.T) {
	now := moment(t, "2026-01-15T12:00:30Z")
	l := NewLocal(2, func() time.Time { return now }, 10)
	spend := func(id, slot string, places int64) Result {
		return l.Spend(&Spend{ID: id, Windows: []Window{{Name: "m", Limit: 100, Per: Minute}}, Cost: 1,
			Slot: Slot{ID: slot, Places: places, Hold: 10 * time.Second}})
	}
	if res := spend("k", "a", 4); !res.Allowed || res.InUse != 3 {
		t.Fatalf("%+v", res)
	}
	if res := spend("k", "b", 4); !res.Allowed || res.InUse != 4 {
		t.Fatalf("%+v", res)
	}
	if res := spend("k", "c", 4); res.Allowed || !res.Full || res.InUse != 4 || res.States[0].Spent != 52 {
		t.Fatalf("%+v", res)
	}
	if res := spend("one", "a", 1); !res.Allowed || res.InUse != 1 {
		t.Fatalf("a share of less than one: %+v", res)
	}
	l.Hold("k", "a", 0)
	l.Hold("k", "unknown", time.Second)
	l.Hold("unknown", "a", 0)
	if res := spend("k", "c", 4); !res.Allowed {
		t.Fatalf("after a release: %+v", res)
	}
	now = now.Add(9 * time.Second)
	l.Hold("k", "b", 10*time.Second)
	now = now.Add(time.Second)
	if res := spend("k", "d", 4); !res.Allowed {
		t.Fatalf("c has ended: %+v", res)
	}
	if res := spend("k", "e", 4); res.Allowed {
		t.Fatalf("b was held on: %+v", res)
	}
	again := &Spend{ID: "k", Cost: 1, Slot: Slot{ID: "f", Places: 4, Hold: 10 * time.Second, Earlier: "d"}}
	if res := l.Spend(again); !res.Allowed || res.InUse != 4 {
		t.Fatalf("the same request once more: %+v", res)
	}
	now = now.Add(-time.Hour)
	if res := spend("k", "g", 4); !res.Allowed {
		t.Fatalf("the clock has come back: %+v", res)
	}
}

// As many limit ids have slots as the table may have, and none of them loses one to another.
func TestLocalSlotsAreBounded(t *testing.T) {
	now := moment(t, "2026-01-15T12:00:30Z")
	l := NewLocal(1, func() time.Time { return now }, 2)
	spend := func(id string) bool {
		return l.Spend(&Spend{ID: id, Slot: Slot{ID: "s" + id, Places: 1, Hold: 10 * time.Second}}).Allowed
	}
	if !spend("a") || !spend("b") || spend("c") || spend("a") {
		t.Fatal("two of three limit ids have a slot each, and no more")
	}
	l.Hold("a", "sa", 0)
	if !spend("c") || spend("a") {
		t.Fatal("the room of a is c's now")
	}
	now = now.Add(10 * time.Second)
	if !spend("d") {
		t.Error("the slots have ended")
	}
}
