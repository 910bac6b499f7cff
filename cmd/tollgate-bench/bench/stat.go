package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Stat is what several rounds have measured: their median, and the least and the
// greatest of them. Without a round, all are 0.
type Stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// newStat summarizes values; an even number of them has the mean of the middle two
// as its median.
func newStat(values []float64) Stat {
	if len(values) == 0 {
		return Stat{}
	}
	v := slices.Sorted(slices.Values(values))
	middle := len(v) / 2
	median := v[middle]
	if len(v)%2 == 0 {
		median = (v[middle-1] + v[middle]) / 2
	}
	return Stat{Median: median, Min: v[0], Max: v[len(v)-1]}
}

// MarshalJSON writes null for what is no number: JSON has neither NaN nor infinity.
func (s Stat) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Median *float64 `json:"median"`
		Min    *float64 `json:"min"`
		Max    *float64 `json:"max"`
	}{finite(s.Median), finite(s.Min), finite(s.Max)})
}

// finite returns nil for NaN and infinity.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// ratios divides each round's value by the value of the same round of another case.
func ratios(of, to []float64) []float64 {
	var list []float64
	for i := range min(len(of), len(to)) {
		if to[i] != 0 {
			list = append(list, of[i]/to[i])
		}
	}
	return list
}

// Line is a figure that the project wants to reach.
type Line struct {
	Case  string  `json:"case"`
	What  string  `json:"what"`
	Limit float64 `json:"limit"` // at most
	Got   float64 `json:"got"`
	// Guards says that missing it by more than 10 %, or having nothing to judge, fails
	// the run; the other lines are shown.
	Guards bool `json:"guards"`
	// Slack is by how much the figure itself may be off.
	Slack float64 `json:"slack,omitempty"`
	// ZeroCounts says that 0, or less, reaches the line: CPU time of a store that is not
	// asked, or a difference. In the other lines it says that nothing was compared.
	ZeroCounts bool `json:"zero_counts,omitempty"`
}

// MarshalJSON writes null for a figure that is no number.
func (l Line) MarshalJSON() ([]byte, error) {
	type plain Line
	return json.Marshal(struct {
		plain
		Got *float64 `json:"got"`
	}{plain(l), finite(l.Got)})
}

// tolerance is by how much a guarding line may be missed.
const tolerance = 1.10

// Measured reports whether there is a figure to judge.
func (l Line) Measured() bool { return finite(l.Got) != nil && (l.Got > 0 || l.ZeroCounts) }

// Met reports whether the line is reached.
func (l Line) Met() bool { return l.Measured() && l.Got <= l.Limit }

// Fails reports whether the line is missed by so much that the run fails, or could not
// be judged.
func (l Line) Fails() bool {
	return l.Guards && (!l.Measured() || l.Got > l.Limit*tolerance+l.Slack)
}

// verdict says how the line was met, in a word or two.
func (l Line) verdict() string {
	switch {
	case l.Met():
		return "reached"
	case !l.Measured() && l.Guards:
		return "MISSED, nothing to compare"
	case !l.Measured():
		return "missed, nothing to compare"
	case l.Fails():
		return "MISSED"
	case l.Guards && l.Slack > 0:
		return "missed, within what it may be off"
	case l.Guards:
		return "missed by less than 10 %"
	}
	return "missed"
}

// number prints a figure with three digits, or more before the point and less of what
// is small.
func number(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case v > 0 && v < .0995:
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
