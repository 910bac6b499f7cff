package usage

import "time"

// The status classes of answers, as Seen counts them.
const (
	StatusNone = iota // no HTTP status: the request ended before there was one; 1xx, too, such as 101 of a WebSocket
	Status2xx
	Status3xx
	Status4xx
	Status5xx
	statusClasses
)

// ClassOf returns the class of an HTTP status.
func ClassOf(status int) int {
	if status < 200 || status > 599 {
		return StatusNone
	}
	return status/100 - 1
}

// ClassName returns the class as people write it.
func ClassName(class int) string {
	return [statusClasses]string{"no status", "2xx", "3xx", "4xx", "5xx"}[class]
}

// Decided is what the decisions about some requests came to. It is exact.
type Decided struct {
	Allowed uint64
	Denied  uint64
	Cost    uint64 // units that the allowed ones spent of each limit
}

// Add adds what other requests came to.
func (d *Decided) Add(o Decided) {
	d.Allowed += o.Allowed
	d.Denied += o.Denied
	d.Cost += o.Cost
}

// Seen is what the proxy's access log said of allowed requests. Entries can be lost: Observed says
// of how many requests it speaks.
type Seen struct {
	Status    [statusClasses]uint64 // requests by the class of their status
	BytesIn   uint64                // bodies of the requests
	BytesOut  uint64                // bodies of the answers
	Millis    uint64                // the sum of their durations
	MaxMillis uint64                // the longest of them
	Slow      uint64                // requests that took longer than the API's slow_after
}

// Observed returns how many requests the log told of.
func (s *Seen) Observed() (n uint64) {
	for _, of := range s.Status {
		n += of
	}
	return n
}

// Mean returns how long a request took on average, 0 if none was seen.
func (s *Seen) Mean() time.Duration {
	n := s.Observed()
	if n == 0 {
		return 0
	}
	return time.Duration(s.Millis) * time.Millisecond / time.Duration(n)
}

// Add adds what was said of other requests.
func (s *Seen) Add(o *Seen) {
	for i := range s.Status {
		s.Status[i] += o.Status[i]
	}
	s.BytesIn += o.BytesIn
	s.BytesOut += o.BytesOut
	s.Millis += o.Millis
	s.MaxMillis = max(s.MaxMillis, o.MaxMillis)
	s.Slow += o.Slow
}

// Measures are both.
type Measures struct {
	Decided
	Seen
}

// Add adds those of other requests.
func (m *Measures) Add(o *Measures) {
	m.Decided.Add(o.Decided)
	m.Seen.Add(&o.Seen)
}
