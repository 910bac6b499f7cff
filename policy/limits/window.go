package limits

import (
	"fmt"
	"time"
)

// MaxLimit is the largest limit of a window, 2^53-1: the script counts in IEEE doubles, which are
// exact up to it.
const MaxLimit = 1<<53 - 1

const secondsPerDay = 86400

// Window is one limit of a plan: at most Limit units in each clock-aligned window of one Per. Name
// is unique within its Per and is part of what is stored, so a renamed window starts empty. Limit
// is 0 (none allowed) to MaxLimit. Anchor is used by Month only: the day, 1 to 31, on which a month
// begins, clamped to the month's last day; 0 means 1. Quota is for the caller, who leaves such
// windows out where a key spends no quota; nothing here reads it. Shadow makes a window one that
// denies nothing and counts beyond its limit; WouldDeny says of what it would have.
type Window struct {
	Name   string
	Limit  int64
	Per    Unit
	Anchor int
	Quota  bool
	Shadow bool
}

// State is what is spent of one window and when that window ends. Spent counts units of cost.
type State struct {
	Spent int64
	Reset time.Time
}

// Bounds returns the window that holds now: start is in it, end is the start of the next one. Both
// are whole seconds in UTC. A window whose Per is no unit has no bounds: both are the zero time.
func (w Window) Bounds(now time.Time) (start, end time.Time) {
	if w.Per < Second || w.Per > Month {
		return time.Time{}, time.Time{}
	}
	from, to := w.bounds(now.Unix())
	return time.Unix(from, 0).UTC(), time.Unix(to, 0).UTC()
}

// bounds is Bounds in Unix seconds, for a valid unit.
func (w Window) bounds(now int64) (start, end int64) {
	if length := w.Per.Seconds(); length > 0 {
		start = floorDiv(now, length) * length
		return start, start + length
	}
	year, month, day := civil(floorDiv(now, secondsPerDay))
	if day < w.anchorDay(year, month) {
		year, month = previousMonth(year, month)
	}
	nextYear, next := nextMonth(year, month)
	return daysFrom(year, month, w.anchorDay(year, month)) * secondsPerDay,
		daysFrom(nextYear, next, w.anchorDay(nextYear, next)) * secondsPerDay
}

// leastMonth is the length of the shortest month. Of two that begin less than that apart, by
// different anchors, the second is a part of the first: a changed anchor must not hand out a second
// quota.
const leastMonth = 28 * secondsPerDay

// holds reports whether a window that began at start is the one in force now, and when it ends. A
// start of the future is none: it was seen by a clock that was wrong.
func (w Window) holds(start, now int64) (end int64, ok bool) {
	begin, end := w.bounds(now)
	if w.Per != Month {
		return end, start == begin
	}
	_, end = w.bounds(start + leastMonth - 1)
	return end, start <= now && begin-start < leastMonth && floorDiv(start, secondsPerDay)*secondsPerDay == start
}

// anchorDay is the day on which the window of this month begins.
func (w Window) anchorDay(year, month int64) int64 {
	return min(max(int64(w.Anchor), 1), daysIn(year, month))
}

// Denies says whether a request of this cost does not fit in what is left. A limit of 0 denies
// every request, one of cost 0 too; a negative cost is always denied. A shadow denies no other.
func (w Window) Denies(s State, cost int64) bool {
	if w.Shadow {
		return cost < 0
	}
	if w.Limit <= 0 || cost < 0 || cost > w.Limit {
		return true
	}
	// Not Spent+cost > Limit: that sum can overflow.
	return s.Spent > w.Limit-cost
}

// WouldDeny says whether a shadow would have denied a request of this cost, which has spent it: s
// is the state after.
func (w Window) WouldDeny(s State, cost int64) bool {
	shadow := w.Shadow
	w.Shadow, s.Spent = false, s.Spent-cost
	return shadow && w.Denies(s, cost)
}

// Fits says whether a request of this cost can be allowed at all: in a window of which nothing is
// spent.
func (w Window) Fits(cost int64) bool { return !w.Denies(State{}, cost) }

// Remaining returns how many units are left, 0 or more: a limit that was lowered below what is
// spent leaves 0.
func (w Window) Remaining(s State) int64 {
	if s.Spent < 0 || s.Spent >= w.Limit {
		return 0
	}
	return w.Limit - s.Spent
}

// Tightest returns the index of the window with the fewest units remaining, of those with as few
// the one with the later reset, and of those the first. ss[i] is the state of ws[i]. It returns -1
// where there is no window but shadows, which nobody is told of.
func Tightest(ws []Window, ss []State) int {
	best := -1
	var fewest int64
	for i := range min(len(ws), len(ss)) {
		if ws[i].Shadow {
			continue
		}
		left := ws[i].Remaining(ss[i])
		if best < 0 || left < fewest || left == fewest && ss[i].Reset.After(ss[best].Reset) {
			best, fewest = i, left
		}
	}
	return best
}

// RetryAfter returns the whole seconds, rounded up, from now until the latest reset of the windows
// that deny this cost. It is at least 1, also where none denies. ss[i] is the state of ws[i].
func RetryAfter(ws []Window, ss []State, cost int64, now time.Time) int64 {
	seconds := int64(1)
	for i := range min(len(ws), len(ss)) {
		if !ws[i].Denies(ss[i], cost) {
			continue
		}
		wait := ss[i].Reset.Unix() - now.Unix()
		if ss[i].Reset.Nanosecond() > now.Nanosecond() {
			wait++
		}
		seconds = max(seconds, wait)
	}
	return seconds
}

// floorDiv rounds towards minus infinity, so that times before 1970 fall in the right window.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// civil turns days since 1970-01-01 into a Gregorian date; the script holds the same arithmetic.
// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years
// begin in March, so that the leap day is the last of its year.
func civil(days int64) (year, month, day int64) {
	z := days + 719468
	era := floorDiv(z, 146097)
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day = doy - (153*mp+2)/5 + 1
	year = yoe + era*400
	if mp < 10 {
		return year, mp + 3, day
	}
	return year + 1, mp - 9, day
}

// daysFrom is the inverse of civil. Source: days_from_civil, in the same text.
func daysFrom(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	era := floorDiv(year, 400)
	yoe := year - era*400
	doy := (153*(month-3)+2)/5 + day - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return era*146097 + doe - 719468
}

func daysIn(year, month int64) int64 {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

func previousMonth(year, month int64) (int64, int64) {
	if month == 1 {
		return year - 1, 12
	}
	return year, month - 1
}

func nextMonth(year, month int64) (int64, int64) {
	if month == 12 {
		return year + 1, 1
	}
	return year, month + 1
}

// EndOf returns the end of the window that starts at start, which must be one that is in force at
// this clock.
func (w Window) EndOf(start, now int64) (int64, error) {
	end, ok := w.holds(start, now)
	if !ok {
		return 0, fmt.Errorf("window %q: start is %d at %d", w.Name, start, now)
	}
	return end, nil
}

// Unit is the length of a window: one clock unit in UTC. The zero value is no unit, so that a
// forgotten one is an error and not a second.
type Unit uint8

// The units a limit can be counted per.
const (
	Second Unit = iota + 1
	Minute
	Hour
	Day
	Month
)

// ParseUnit reads the word a policy file uses: second, minute, hour, day or month. ok is false for
// any other text.
func ParseUnit(s string) (u Unit, ok bool) {
	switch s {
	case "second":
		return Second, true
	case "minute":
		return Minute, true
	case "hour":
		return Hour, true
	case "day":
		return Day, true
	case "month":
		return Month, true
	}
	return 0, false
}

// String returns the word that ParseUnit reads, or "unknown" for a value that is no unit.
func (u Unit) String() string {
	switch u {
	case Second:
		return "second"
	case Minute:
		return "minute"
	case Hour:
		return "hour"
	case Day:
		return "day"
	case Month:
		return "month"
	}
	return "unknown"
}

// Seconds returns the fixed length of the unit, or 0 for a month, which has none, and for no unit.
func (u Unit) Seconds() int64 {
	switch u {
	case Second:
		return 1
	case Minute:
		return 60
	case Hour:
		return 3600
	case Day:
		return secondsPerDay
	}
	return 0
}
