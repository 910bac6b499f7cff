package limits

import (
	"strings"
	"testing"
	"time"
)

// A clock that jumps and returns finds the window that it left, and what was spent meanwhile counts
// there too.
func TestCounterFollowsTheClock(t *testing.T) {
	w := Window{Name: "m", Limit: 10, Per: Minute}
	minute := func(n, spent int64) Count { return Count{Start: 60 * n, End: 60*n + 60, Spent: spent} }
	for name, c := range map[string]struct {
		kept  Counter
		known bool
		now   int64 // minute
		want  Counter
	}{
		"nothing is kept":               {Counter{}, false, 7, Counter{Last: minute(7, 0)}},
		"the same minute":               {Counter{Last: minute(7, 3)}, true, 7, Counter{Last: minute(7, 3)}},
		"the next one":                  {Counter{Last: minute(7, 3)}, true, 8, Counter{minute(8, 0), minute(7, 3)}},
		"the one after":                 {Counter{minute(8, 2), minute(7, 3)}, true, 9, Counter{minute(9, 0), minute(8, 2)}},
		"back by one":                   {Counter{minute(8, 2), minute(7, 3)}, true, 7, Counter{minute(7, 5), minute(7, 3)}},
		"back from a jump":              {Counter{Last: minute(99, 3)}, true, 7, Counter{minute(7, 3), minute(99, 3)}},
		"back from a jump, later":       {Counter{minute(99, 3), minute(7, 2)}, true, 8, Counter{minute(8, 3), minute(7, 2)}},
		"there again":                   {Counter{minute(7, 4), minute(99, 3)}, true, 99, Counter{minute(99, 4), minute(7, 4)}},
		"there again, and spent less":   {Counter{minute(7, 1), minute(99, 3)}, true, 99, Counter{minute(99, 3), minute(7, 1)}},
		"more than a counter can count": {Counter{minute(8, MaxLimit), minute(7, 1)}, true, 7, Counter{minute(7, MaxLimit), minute(7, 1)}},
	} {
		if got := w.Advance(c.kept, c.known, 60*c.now+5); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// A replica's own counters are such ones: a clock that comes back finds what was spent.
func TestLocalAfterAJump(t *testing.T) {
	now := moment(t, "2026-01-15T12:00:30Z")
	l := NewLocal(1, func() time.Time { return now }, 10)
	sp := &Spend{ID: "a", Windows: []Window{{Name: "m", Limit: 2, Per: Minute}}, Cost: 1}
	l.Spend(sp)
	now = now.Add(time.Hour)
	l.Spend(sp)
	now = now.Add(-time.Hour)
	if res := l.Spend(sp); res.Allowed {
		t.Errorf("back: %+v", res)
	}
}

func TestEndOf(t *testing.T) {
	minute, month := Window{Name: "m", Limit: 10, Per: Minute}, Window{Name: "q", Limit: 10, Per: Month, Anchor: 15}
	if end, err := minute.EndOf(120, 125); end != 180 || err != nil {
		t.Errorf("%d, %v", end, err)
	}
	if _, err := minute.EndOf(120, 181); err == nil || !strings.Contains(err.Error(), `window "m"`) {
		t.Error(err)
	}
	// A month that began by another anchor goes on until the next one that is at least 28 days
	// after it.
	began := moment(t, "2026-01-10T00:00:00Z").Unix()
	if end, err := month.EndOf(began, moment(t, "2026-01-20T00:00:00Z").Unix()); end != moment(t, "2026-02-15T00:00:00Z").Unix() || err != nil {
		t.Errorf("%v, %v", time.Unix(end, 0).UTC(), err)
	}
}

func TestValidate(t *testing.T) {
	good := Window{Name: "m", Limit: 10, Per: Minute}
	for want, s := range map[string]Spend{
		"empty limit id": {Windows: []Window{good}},
		"negative":       {ID: "a", Cost: -1},
		"without a name": {ID: "a", Windows: []Window{{Per: Minute}}},
		"unit 0":         {ID: "a", Windows: []Window{{Name: "m"}}},
		"unit 9":         {ID: "a", Windows: []Window{{Name: "m", Per: 9}}},
		"limit -1":       {ID: "a", Windows: []Window{{Name: "m", Per: Minute, Limit: -1}}},
		"limit 9":        {ID: "a", Windows: []Window{{Name: "m", Per: Minute, Limit: MaxLimit + 1}}},
		"anchor 32":      {ID: "a", Windows: []Window{{Name: "m", Per: Month, Anchor: 32}}},
		"two windows":    {ID: "a", Windows: []Window{good, good}},
	} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := (&Spend{ID: "a", Windows: []Window{good, {Name: "m", Per: Day}}}).Validate(); err != nil {
		t.Error(err)
	}
	for unit, want := range map[Unit]int64{Second: 1, Minute: 60, Hour: 3600, Day: 86400, Month: 0, 0: 0} {
		if got := unit.Seconds(); got != want {
			t.Errorf("%s: %d", unit, got)
		}
	}
}
