package extauthz

import "time"

// RequestEnd is what an access log says of a request that has ended, or with Periodic goes on.
type RequestEnd struct {
	// From the metadata of our decision; all empty where that did not reach the proxy.
	API, Route, KeyID, LimitID, Team, Plan, Reason, DecisionID, SlotID string

	RequestID         string // x-request-id
	Periodic          bool
	Code              int // HTTP status
	BytesIn, BytesOut uint64
	Start             time.Time
	Duration          time.Duration
}
