package limits

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
