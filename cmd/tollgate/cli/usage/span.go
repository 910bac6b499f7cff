package usage

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"tollgate/policy/usage"
)

// span is how far back a report goes.
type span struct {
	n    int
	unit string // h, d or mo
}

func parseSpan(text string) (span, error) {
	for _, unit := range []string{"mo", "d", "h"} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			if n, err := strconv.Atoi(digits); err == nil && n >= 1 && n <= 1000 {
				return span{n, unit}, nil
			}
		}
	}
	return span{}, fmt.Errorf("--since: %q is not a number of hours, days or months such as 24h, 7d or 3mo", text)
}

// until returns the first hour and the last day of the span that ends now: whole hours, days or
// months, the current one included.
func (s span) until(now time.Time) (usage.Hour, usage.Day) {
	today := usage.DayOf(now)
	switch s.unit {
	case "h":
		return usage.HourOf(now) - usage.Hour(s.n-1), today
	case "mo":
		return (usage.MonthOf(now) - usage.Month(s.n-1)).First().Hour(0), today
	}
	return (today - usage.Day(s.n-1)).Hour(0), today
}
