package errorlog

// WhileLocked runs f while nobody can add an entry to an API, or take its entries.
func (l *Log) WhileLocked(api string, f func()) {
	a := l.of(api)
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// ReasonCount is how many reasons there is room for, and Upstream's place among them.
const ReasonCount, UpstreamPlace = reasons, upstream
