package extauthz

import "time"

// AccessLogEntry is what a proxy's access log says of one request that has ended, or of one that
// goes on.
type AccessLogEntry struct {
	DecisionID, Reason, API, Route, KeyID, LimitID, Team, Plan, SlotID string
	RequestID                                                          string
	Code                                                               int
	BytesIn, BytesOut                                                  uint64
	Start                                                              time.Time
	Duration                                                           time.Duration
	Periodic                                                           bool
}

// Observed takes in an entry of an access log.
func (a *Authorizer) Observed(e *AccessLogEntry) { a.followSlot(e) }
