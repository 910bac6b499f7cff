package ledger

import (
	"strconv"
	"strings"

	"tollgate/policy/usage"
)

// parseDay reads the hash of a day, as add.lua writes it. What cannot be read counts nothing.
func parseDay(fields map[string]string) *usage.DayUsage {
	d := &usage.DayUsage{}
	routes := map[string]*usage.RouteUsage{}
	of := func(place string) *usage.RouteUsage {
		if r := routes[place]; r != nil {
			return r
		}
		name := fields[place]
		switch {
		case place == "-":
			name = usage.NoRoute
		case place == "0" || name == "":
			name = usage.OtherRoutes
		}
		r := d.Route(name)
		routes[place] = r
		return r
	}
	for field, value := range fields {
		if len(field) < 2 {
			continue
		}
		kind, place := field[0], field[1:]
		switch {
		case strings.HasPrefix(field, "R:"):
			d.AddReason(field[2:], number(value))
		case kind >= 'a' && kind <= 'x':
			of(place).AddHour(int(kind-'a'), parseDecided(value))
		case kind == 'S':
			if n, ok := numbers(value); ok {
				of(place).Seen.Add(&usage.Seen{Status: n})
			}
		case kind == 'T':
			if n, ok := numbers(value); ok {
				of(place).Seen.Add(&usage.Seen{BytesIn: n[0], BytesOut: n[1], Millis: n[2], MaxMillis: n[3], Slow: n[4]})
			}
		}
	}
	return d
}

func parseDecided(value string) usage.Decided {
	allowed, rest, more := strings.Cut(value, ":")
	d := usage.Decided{Allowed: number(allowed)}
	d.Cost = d.Allowed
	if more {
		denied, cost, _ := strings.Cut(rest, ":")
		d.Denied, d.Cost = number(denied), number(cost)
	}
	return d
}

func numbers(value string) (n [5]uint64, ok bool) {
	parts := strings.Split(value, ":")
	if len(parts) != len(n) {
		return n, false
	}
	for i, part := range parts {
		n[i] = number(part)
	}
	return n, true
}

func number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 53)
	if err != nil {
		return 0
	}
	return n
}
