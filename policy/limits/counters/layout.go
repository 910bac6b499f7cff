package counters

import (
	"strconv"
	"sync/atomic"

	"tollgate/policy/limits"
)

// layout is a set of windows in the form in which the script is told of them. It never changes, so
// that all Spends with equal windows can share one.
type layout struct {
	windows []limits.Window
	args    []any // as spend.lua reads them: the fields, then length and limit of each window
}

// newLayout copies the windows, which must be valid. A limit of 0 is -1 to the script, which so has
// one rule for all.
func newLayout(windows []limits.Window) *layout {
	n := len(windows)
	l := &layout{windows: append([]limits.Window(nil), windows...), args: make([]any, 3*n)}
	for i, w := range windows {
		length, limit := w.Per.Seconds(), w.Limit
		if w.Per == limits.Month {
			length = -int64(max(w.Anchor, 1))
		}
		if limit == 0 {
			limit = -1
		}
		l.args[i] = field(w)
		l.args[n+2*i] = strconv.FormatInt(length, 10)
		l.args[n+2*i+1] = strconv.FormatInt(limit, 10)
	}
	return l
}

// is reports whether the layout is that of the windows, by their values: a caller may use one slice
// again for others.
func (l *layout) is(windows []limits.Window) bool {
	if len(l.windows) != len(windows) {
		return false
	}
	for i := range windows {
		if l.windows[i] != windows[i] {
			return false
		}
	}
	return true
}

// layouts remembers the layouts of recent Spends. Two sets of windows that fall on one place take
// turns, which costs time and nothing else.
type layouts struct {
	places [256]atomic.Pointer[layout]
}

// of returns the layout of a Spend, or what is wrong with the Spend.
func (l *layouts) of(s *limits.Spend) (*layout, error) {
	place := &l.places[windowsHash(s.Windows)%uint64(len(l.places))]
	known := place.Load()
	if known != nil && s.ID != "" && s.Cost >= 0 && known.is(s.Windows) {
		return known, nil
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	made := newLayout(s.Windows)
	place.Store(made)
	return made, nil
}

func windowsHash(windows []limits.Window) uint64 {
	h := uint64(len(windows))
	for i := range windows {
		w := &windows[i]
		h = (h ^ uint64(w.Limit)<<16 ^ uint64(w.Anchor)<<8 ^ uint64(w.Per)<<4 ^ uint64(len(w.Name))) * 0x9e3779b97f4a7c15
	}
	return h >> 32
}

// field names the counter of a window. The unit is part of it, because the counts of two units
// cannot be compared. The anchor is not: a changed anchor goes on with what the month has counted.
func field(w limits.Window) string { return w.Per.String() + ":" + w.Name }
