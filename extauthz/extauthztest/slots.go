package extauthztest

import (
	"slices"
	"sync"
	"testing"

	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/testdata"
)

// slots are those that requests have taken since end was called last.
type slots struct {
	mu    sync.Mutex
	taken []takenSlot
}

type takenSlot struct{ limitID, slot string }

func (s *slots) took(sp *limits.Spend) {
	if sp.Slot.ID == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, takenSlot{sp.ID, sp.Slot.ID})
}

func (s *slots) end() []takenSlot {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := slices.Clone(s.taken)
	s.taken = s.taken[:0]
	return ended
}

// SlotStats are what became of slots since Use.
func (s *Stack) SlotStats() counters.SlotStats { return s.stores.limits.Load().Slots() }

// AwaitSlots waits until so many requests are under way.
func (s *Stack) AwaitSlots(t *testing.T, n int) {
	t.Helper()
	var counts counters.SlotStats
	reached := false
	defer func() {
		if !reached {
			t.Logf("%+v, want %d requests under way", counts, n)
		}
	}()
	Eventually(t, "as many slots as are expected", func() bool {
		counts = s.stores.limits.Load().Slots()
		reached = counts.Taken-counts.Released-counts.Gone == uint64(n)
		return reached
	})
}

// SettleSlots waits until the store was told of all slots that are released or held on.
func (s *Stack) SettleSlots(t *testing.T) {
	t.Helper()
	Eventually(t, "the store to be told of slots", func() bool {
		counts := s.stores.limits.Load().Slots()
		return counts.Released+counts.Held+counts.Gone+counts.Lost >= s.stores.holds.Load()
	})
}

// endRequests has all requests end that were answered, where no access log tells of their end.
func (s *Stack) endRequests(t *testing.T) {
	t.Helper()
	for _, taken := range s.stores.slots.end() {
		if !s.Logged {
			s.stores.Hold(taken.limitID, taken.slot, 0)
		}
	}
	s.AwaitSlots(t, 0)
}

// beside has as many requests like a block's under way as it says, by asking for them; end ends
// them.
func (s *Stack) beside(t *testing.T, b *testdata.Block, ask func(*testing.T, *testdata.Block) *Answer) (end func()) {
	t.Helper()
	if s.Beside != nil {
		return s.Beside(t, b)
	}
	for range b.Beside {
		if got := ask(t, b); got.Status != 200 {
			t.Fatalf("script.txt:%d: %s: status %d of one that is to be under way: %s", b.Line, b.Name, got.Status, got.Body)
		}
	}
	return func() {}
}
