package bench

import (
	"math"
	"testing"
)

// Growth fails the run by its ratios of server CPU, where times are judged; that many
// keys cost less than one is shown.
func TestGrowthLines(t *testing.T) {
	grown := func(keys, held, windows float64) []Growth {
		return []Growth{{What: liveHeapPerKey, Value: Stat{Median: 500}}, {What: residentWithKeys, Value: Stat{Median: 900}},
			{What: cpuByKeys, Size: 1, Ratio: 1}, {What: cpuByKeys, Size: 10_000, Ratio: 1}, {What: cpuByKeys, Size: 1_000_000, Ratio: keys},
			{What: cpuByHeld, Size: 10_000, Ratio: 1}, {What: cpuByHeld, Size: 1_000_000, Ratio: held},
			{What: cpuByWindows, Size: 1, Ratio: 1}, {What: cpuByWindows, Size: 6, Ratio: windows}}
	}
	for _, c := range []struct {
		keys, held, windows float64
		judge               bool
		missed, failed      int // besides the lines of memory, which are missed and do not guard
	}{
		{1.15, 1.15, 1.3, true, 0, 0},
		{.86, .5, .5, true, 0, 0},
		{.84, 1, 1, true, 1, 0},
		{1.2, 1.2, 1.4, true, 3, 0},
		{1, 1.3, 1, true, 1, 1},
		{5, 1, 9, true, 2, 2},
		{5, 5, 9, false, 3, 0},
		{0, 0, 0, true, 4, 3},
		{math.NaN(), math.NaN(), math.NaN(), true, 4, 3},
	} {
		lines := growthLines(grown(c.keys, c.held, c.windows), c.judge)
		missed := 0
		for _, l := range lines {
			if !l.Met() {
				missed++
			}
		}
		if failed := len((&Report{Lines: lines}).Fails()); len(lines) != 6 || missed-2 != c.missed || failed != c.failed {
			t.Errorf("ratios %v, %v and %v, judged %v: %d lines missed and %d failed, want %d and %d", c.keys, c.held, c.windows, c.judge,
				missed-2, failed, c.missed, c.failed)
		}
	}
}

func TestResidentIsTheLargestReading(t *testing.T) {
	for _, readings := range [][]float64{{7e8, 9e8}, {9e8, 7e8}} {
		if g := resident(1_000, readings...); g.Value.Median != 900 || growthLines([]Growth{g}, false)[0].Met() {
			t.Errorf("%v: %+v", readings, g)
		}
	}
}

// p99 at a fixed rate guards like the cases do.
func TestLatencyGuardsWhereTimesAreJudged(t *testing.T) {
	for _, judge := range []bool{true, false} {
		r := &Report{Rows: make([]Row, len(cases())), OpenLoop: &OpenLoop{Ratio: Stat{Median: 2}}}
		(&bench{Options: Options{Judge: judge}}).judge(r, 1)
		guards := false
		for _, l := range r.Fails() {
			guards = guards || l.Got == 2
		}
		if guards != judge {
			t.Errorf("judged %v: a ratio of 2 fails the run: %v", judge, guards)
		}
	}
}
