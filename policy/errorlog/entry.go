package errorlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"tollgate/policy"
)

// Upstream stands in the place of a reason for a request that was allowed, and that the application
// or the way to it answered with 5xx.
const Upstream = "upstream_5xx"

// Reasons returns the reasons that entries can have.
func Reasons() []string {
	var names []string
	for _, r := range policy.Reasons() {
		if r != policy.Allowed && r != policy.UnknownAPI {
			names = append(names, r.String())
		}
	}
	return append(names, Upstream)
}

// Entry is a request that was refused or that failed, and how many like it are not told of.
type Entry struct {
	API    string
	Key    string // id; "" where no key is known
	Time   time.Time
	Reason string // the policy's, or Upstream
	Route  string // "" if none matched
	Code   int    // HTTP status; 0 where the proxy's own failure policy has answered
	// Address is the client's, in the form that the API's policy wants; "" if it is not known.
	Address string
	// Decision and Request name the two; Request is "" where the proxy does not show it.
	Decision, Request string
	Handle            string // of a secret that is no known key's
	// More is how many others came until Until, with the same key and reason, which are not told
	// of.
	More  uint64
	Until time.Time // zero if there were none
	// Others is set where the entry is no request but says only how many more there were: of keys
	// that were too many to be told apart.
	Others bool
}

// packed is an entry as it is kept. What says whose it is stands elsewhere.
type packed struct {
	Time     int64  `json:"t"` // Unix ms; first, where the scripts of package journal read it
	Reason   string `json:"r"`
	Route    string `json:"o,omitempty"`
	Code     int    `json:"c,omitempty"`
	Address  string `json:"a,omitempty"`
	Decision string `json:"d,omitempty"`
	Request  string `json:"q,omitempty"`
	Handle   string `json:"h,omitempty"`
	More     uint64 `json:"n,omitempty"`
	Until    int64  `json:"u,omitempty"` // Unix ms
}

// Pack returns the entry as it is kept: JSON that begins with its time, without API, Key and
// Others.
func (e *Entry) Pack() string {
	p := packed{
		Time: e.Time.UnixMilli(), Reason: e.Reason, Route: e.Route, Code: e.Code, Address: e.Address,
		Decision: e.Decision, Request: e.Request, Handle: e.Handle, More: e.More,
	}
	if !e.Until.IsZero() {
		p.Until = e.Until.UnixMilli()
	}
	text, _ := json.Marshal(p) // it has only texts and numbers
	return string(text)
}

var errUnreadable = errors.New("not an entry of the error log")

// Unpack is the way back. Its error says nothing of what the text holds.
func Unpack(text string) (Entry, error) {
	var p packed
	if err := json.Unmarshal([]byte(text), &p); err != nil || p.Reason == "" {
		return Entry{}, errUnreadable
	}
	e := Entry{
		Time: time.UnixMilli(p.Time).UTC(), Reason: p.Reason, Route: p.Route, Code: p.Code, Address: p.Address,
		Decision: p.Decision, Request: p.Request, Handle: p.Handle, More: p.More,
	}
	if p.Until != 0 {
		e.Until = time.UnixMilli(p.Until).UTC()
	}
	return e, nil
}

// String says it in a line.
func (e *Entry) String() string {
	return fmt.Sprintf("%s/%s: %s", e.API, e.Key, e.Pack())
}

// maxID is how long an id may be that somebody else has chosen. A UUID has 36 characters.
const maxID = 64

// plainID returns a copy of an id that a client may have chosen, or "" for what does not look like
// one.
func plainID(id string) string {
	if !isPlain(id) {
		return ""
	}
	return strings.Clone(id)
}

// isPlain reports whether a text looks like an id. It can hold no path and no query.
func isPlain(id string) bool {
	for i := range len(id) {
		switch c := id[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.IndexByte("-_.:+", c) >= 0:
		default:
			return false
		}
	}
	return len(id) <= maxID
}
