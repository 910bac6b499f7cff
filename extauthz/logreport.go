package extauthz

import (
	"encoding/json"
	"fmt"
	"time"
)

// LogReport is what a server knows of the access logs that arrive here, as its health port gives it
// in JSON. Nothing in it is secret.
type LogReport struct {
	// Time is when the report was made, by the server's clock.
	Time time.Time `json:"time"`
	// LogName is the log_name of the access logs that are read.
	LogName string `json:"log_name"`
	// Decisions counts the requests that were decided since the server started.
	Decisions uint64 `json:"decisions"`
	// APIs are those of the policy, in its order.
	APIs []LoggedAPI `json:"apis"`
	// Logs are in the order of node, name and address.
	Logs []AccessLog `json:"logs"`
	// Slots is what keeps the places of requests under way from being free again.
	Slots []SlotTrouble `json:"slots,omitempty"`
}

// LoggedAPI is what an API wants of access logs.
type LoggedAPI struct {
	Name string `json:"name"`
	// MaxDurationSeconds is how long a request counts as under way if no log tells of it; 0 where
	// no plan of the API limits how many are, or where none is told of by a log (without_log).
	MaxDurationSeconds float64 `json:"max_duration_seconds,omitempty"`
}

// LoggedAPIs returns what the APIs in force want of access logs.
func (a *Authorizer) LoggedAPIs() (all []LoggedAPI) {
	for _, api := range a.Policy().APIs() {
		l := LoggedAPI{Name: api.Name()}
		if rules := api.Slots(); api.LimitsConcurrency() && !rules.WithoutLog {
			l.MaxDurationSeconds = rules.MaxDuration.Seconds()
		}
		all = append(all, l)
	}
	return all
}

// AccessLog is what a server knows of an access log that an Envoy sends. All that it says of the
// Envoy is what that says of itself, but for the address.
type AccessLog struct {
	// Node is the id of the Envoy (--service-node), Name the log_name of its configuration.
	Node string `json:"node"`
	Name string `json:"log_name"`
	// Address is the peer's, without its port.
	Address string `json:"address"`
	// Streams are open now. There may be none for a moment: they end all the time, and the next
	// message opens another one.
	Streams int `json:"streams"`
	// Opened counts them all.
	Opened int `json:"opened"`
	// First and Latest are when the first and the latest message arrived.
	First  time.Time `json:"first"`
	Latest time.Time `json:"latest"`
	// Decided is when an entry with our metadata last arrived; zero for never.
	Decided time.Time `json:"decided,omitzero"`
	// LagSeconds is from the end of a request to the arrival of its entry, by both clocks, of
	// the latest that was known; less than 0 for none.
	LagSeconds float64 `json:"lag_seconds"`
	// Intervals are, by API, the longest times in seconds for which the log was silent about a
	// request that held a place: from its begin, an entry to the next, or to its end. They are
	// those of the last IntervalsKept or more.
	Intervals map[string]float64 `json:"intervals,omitempty"`
	// Entries counts the entries of this server's time.
	Entries LogCounts `json:"entries"`
}

// IntervalsKept is how long an interval is known at least; twice that at most.
const IntervalsKept = 10 * time.Minute

// UnmarshalJSON reads what MarshalJSON writes. Kinds that it does not know are those of a newer
// server, and are passed over.
func (c *LogCounts) UnmarshalJSON(text []byte) error {
	named := map[string]uint64{}
	if err := json.Unmarshal(text, &named); err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	for kind := range c {
		c[kind] = named[LogKind(kind).String()]
	}
	return nil
}

// LongestIntervals keeps the longest intervals by API, see AccessLog. The zero value is empty. It
// is not safe for concurrent use.
type LongestIntervals struct {
	spans [2]map[string]time.Duration // the running span and the one before
	began time.Time                   // of the running one
}

// Add takes one in. The API must be one of the policy's, which bounds how many there are.
func (l *LongestIntervals) Add(api string, interval time.Duration, now time.Time) {
	l.turn(now)
	if interval > l.spans[0][api] {
		if l.spans[0] == nil {
			l.spans[0] = map[string]time.Duration{}
		}
		l.spans[0][api] = interval
	}
}

// Seconds returns them, nil for none.
func (l *LongestIntervals) Seconds(now time.Time) map[string]float64 {
	l.turn(now)
	var all map[string]float64
	for _, span := range l.spans {
		for api, interval := range span {
			if all == nil {
				all = map[string]float64{}
			}
			all[api] = max(all[api], interval.Seconds())
		}
	}
	return all
}

// turn begins another span when the running one is over.
func (l *LongestIntervals) turn(now time.Time) {
	switch past := now.Sub(l.began); {
	case past >= 2*IntervalsKept:
		l.spans, l.began = [2]map[string]time.Duration{}, now
	case past >= IntervalsKept:
		l.spans, l.began = [2]map[string]time.Duration{nil, l.spans[0]}, now
	}
}
