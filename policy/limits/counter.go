package limits

// Count is what a window holds; start and end are Unix seconds.
type Count struct {
	Start, End int64
	Spent      int64
}

// Counter is the window that was in force last, and the one before it: none if that has no end.
type Counter struct {
	Last     Count
	Previous Count
}

// Advance returns the window in force now, and what is to be remembered of the one before:
// spend.lua says why.
func (w Window) Advance(t Counter, known bool, now int64) Counter {
	start, end := w.bounds(now)
	next := Count{Start: start, End: end}
	if !known {
		return Counter{Last: next}
	}
	last := t.Last
	if end, ok := w.holds(last.Start, now); ok {
		last.End = end
		return Counter{Last: last, Previous: t.Previous}
	}
	remembered := t.Previous.End != 0
	end, found := w.holds(t.Previous.Start, now)
	if found = found && remembered; found {
		next = Count{Start: t.Previous.Start, End: end}
	}
	keeps := true
	switch {
	case last.Start > now:
		next.Spent = last.Spent
		if found {
			next.Spent += t.Previous.Spent
		}
		keeps = !remembered || t.Previous.Start > now
	case found:
		next.Spent = max(last.Spent, t.Previous.Spent)
	}
	next.Spent = min(next.Spent, MaxLimit)
	if keeps {
		return Counter{Last: next, Previous: last}
	}
	return Counter{Last: next, Previous: t.Previous}
}
