package limits

import (
	"slices"
	"testing"
	"time"
)

// A shadow denies nothing, and says after each spend whether it would have denied it.
func TestShadowCountsBeyondItsLimit(t *testing.T) {
	now := time.Date(2026, 1, 30, 12, 0, 0, 0, time.UTC)
	windows := []Window{{Name: "minute", Limit: 3, Per: Minute, Shadow: true}, {Name: "none", Limit: 0, Per: Hour, Shadow: true}, {Name: "day", Limit: 6, Per: Day}}
	l := NewLocal(1, func() time.Time { return now }, 10)
	var would []bool
	for i := range int64(6) {
		sp := &Spend{ID: "k", Windows: windows, Cost: 1}
		preview := sp.Preview(now, states(l, windows), 0)
		res := l.Spend(sp)
		if !res.Allowed || res.States[0].Spent != i+1 || !slices.Equal(preview.States, res.States) || preview.Allowed != res.Allowed {
			t.Fatalf("spend %d: %+v, previewed %+v", i, res, preview)
		}
		would = append(would, windows[0].WouldDeny(res.States[0], 1))
		if !windows[1].WouldDeny(res.States[1], 1) || windows[2].WouldDeny(res.States[2], 1) {
			t.Errorf("spend %d: a limit of 0, and one that is no shadow", i)
		}
		if Tightest(windows, res.States) != 2 || Tightest(windows[:2], res.States[:2]) != -1 {
			t.Errorf("spend %d: shadows are shown", i)
		}
	}
	if want := []bool{false, false, false, true, true, true}; !slices.Equal(would, want) {
		t.Errorf("would deny %v, want %v", would, want)
	}
	if res := l.Spend(&Spend{ID: "k", Windows: windows, Cost: 1}); res.Allowed || RetryAfter(windows, res.States, 1, now) != 12*3600 {
		t.Errorf("beyond the day: %+v", res)
	}
	if !windows[0].Denies(State{}, -1) || !windows[1].Fits(5) {
		t.Error("a negative cost, and any other")
	}
}

// states are what the windows are at.
func states(l *Local, windows []Window) []State {
	return l.Spend(&Spend{ID: "k", Windows: windows, ReadOnly: true}).States
}

// A preview of places counts those that are taken.
func TestPreviewOfPlaces(t *testing.T) {
	now := time.Date(2026, 1, 30, 12, 0, 0, 0, time.UTC)
	sp := &Spend{ID: "k", Windows: []Window{{Name: "day", Limit: 6, Per: Day}}, Cost: 2, Slot: Slot{ID: "s", Places: 3, Hold: time.Minute}}
	for _, c := range []struct {
		spent, inUse  int64
		allowed, full bool
		after, taken  int64
	}{
		{0, 0, true, false, 2, 1}, {4, 2, true, false, 6, 3}, {0, 3, false, true, 0, 3}, {0, 9, false, true, 0, 3}, {5, 1, false, false, 5, 1}, {5, 3, false, false, 5, 3},
	} {
		res := sp.Preview(now, []State{{Spent: c.spent}}, c.inUse)
		if res.Allowed != c.allowed || res.Full != c.full || res.States[0].Spent != c.after || res.InUse != c.taken {
			t.Errorf("%+v: %+v", c, res)
		}
	}
}
