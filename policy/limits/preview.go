package limits

import "time"

// Preview returns the outcome that the spend would have, without carrying it out: states are what
// the counters of its windows are at now, and inUse is how many slots are taken.
func (s *Spend) Preview(now time.Time, states []State, inUse int64) Result {
	res := Result{Allowed: true, Now: now, States: append([]State(nil), states...)}
	for i, w := range s.Windows {
		res.Allowed = res.Allowed && !w.Denies(states[i], s.Cost)
	}
	if s.Slot.ID != "" {
		res.InUse = min(inUse, s.Slot.Places)
		res.Full = res.Allowed && inUse >= s.Slot.Places
		res.Allowed = res.Allowed && !res.Full
	}
	if !res.Allowed || s.ReadOnly {
		return res
	}
	for i := range res.States {
		res.States[i].Spent += s.Cost
	}
	if s.Slot.ID != "" {
		res.InUse++
	}
	return res
}
