package errorlog

import "tollgate/policy"

// WhileLocked runs f while nobody can add an entry to an API, or take its entries.
func (l *Log) WhileLocked(api string, f func()) {
	a := l.of(api)
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// ReasonCount is how many reasons there is room for, and Upstream's place among them.
const ReasonCount, UpstreamPlace = reasons, upstream

// CountLate counts a request that is told apart from no other, as one does that said since when to
// a period that was taken in between.
func (l *Log) CountLate(api string, reason policy.Reason) { l.of(api).others[reason].Add(1) }
