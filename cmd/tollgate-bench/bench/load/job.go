package load

import (
	"errors"
	"fmt"
	"time"
)

// The protocols of a Job.
const (
	GRPC = "grpc" // one CheckRequest a call
	HTTP = "http" // one HTTP/1.1 request a call, on connections that stay open
)

// Job says what to send, to whom and for how long.
type Job struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"` // host:port, or unix:PATH
	// Template is the file with one request; every Placeholder in it is replaced by
	// a secret of the same length.
	Template    string `json:"template"`
	Placeholder string `json:"placeholder"`
	// Secrets is the file with one secret a line, the hottest first. Keys is how
	// many of them are used; 0 means all.
	Secrets string `json:"secrets"`
	Keys    int    `json:"keys"`
	// Zipf is the exponent by which secrets are chosen, more than 1; 0 chooses each
	// equally often.
	Zipf float64 `json:"zipf"`
	// Seed makes the choice repeatable.
	Seed uint64 `json:"seed"`

	// LogEntry is the file with an entry of an access log, which is sent about each call that
	// was allowed, with the metadata of its answer; "" sends none.
	LogEntry string `json:"log_entry"`

	Callers     int `json:"callers"`     // that wait for their answer before they send again
	Connections int `json:"connections"` // that the callers share; HTTP has one for each caller

	// Duration is how long new calls are made.
	Duration time.Duration `json:"duration"`
	// Rate is how many calls are sent each second, whatever the answers do; their
	// latency counts from when they should have been sent. 0 sends as fast as
	// Callers can.
	Rate float64 `json:"rate"`
	// Once sends each secret once and ends; a call that fails is repeated.
	Once bool `json:"once"`
}

// Result is what came of a Job.
type Result struct {
	Calls   uint64 `json:"calls"`
	Allowed uint64 `json:"allowed"`
	Denied  uint64 `json:"denied"`
	Failed  uint64 `json:"failed"` // no answer
	Failure string `json:"failure,omitempty"`
	// Statuses counts the HTTP statuses of denials, or of all HTTP answers.
	Statuses map[int]uint64 `json:"statuses,omitempty"`
	// KeySeconds is in how many seconds each secret was used, added up: what a
	// server may ask its store that asks once a second about each key.
	KeySeconds uint64        `json:"key_seconds"`
	Took       time.Duration `json:"took"`
	P50        time.Duration `json:"p50"`
	P99        time.Duration `json:"p99"`
	P999       time.Duration `json:"p999"`
	// Reply is the last answer, for a Job with Once and one key.
	Reply []byte `json:"reply,omitempty"`
}

// PerSecond returns the calls per second.
func (r Result) PerSecond() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Calls) / r.Took.Seconds()
}

func (j *Job) check() error {
	switch {
	case j.Protocol != GRPC && j.Protocol != HTTP:
		return fmt.Errorf("unknown protocol %q", j.Protocol)
	case j.Callers < 1 || j.Connections < 1:
		return errors.New("no callers or no connections")
	case j.LogEntry != "" && j.Protocol != GRPC:
		return errors.New("an access log tells of checks over gRPC alone")
	case j.Zipf != 0 && j.Zipf <= 1:
		return fmt.Errorf("zipf %v is not more than 1", j.Zipf)
	case !j.Once && j.Duration <= 0:
		return errors.New("no duration")
	case j.Rate < 0 || j.Keys < 0:
		return errors.New("a negative rate or number of keys")
	}
	return nil
}
