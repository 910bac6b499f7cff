package policy

import (
	"strings"

	"tollgate/policy/router"
)

// Shown is what a log may say of a request beside its Decision: no query, and no header but the
// request's id. Method, Host and RequestID are as the client sent them, cut to a length that such
// texts have.
type Shown struct {
	Method, Host string
	// Path has *** in the place of a segment that may be a key. It is "" where it is long, or none
	// that every parser reads alike.
	Path string
	// Address is the client's in the form that the API's policy wants, "" where that is not known.
	Address   string
	RequestID string
}

const (
	maxShownMethod    = 32
	maxShownPath      = 1024
	maxShownRequestID = 128
	// shortestKey is how long a segment of a path is, at least, that is taken for a key because it
	// begins as one.
	shortestKey = 20
)

// Shown returns that of a decision which is Done.
func (c *Check) Shown() (s Shown) {
	shown := func(text string, most int) string { return text[:min(len(text), most)] }
	s.Method, s.Host = shown(c.request.Method, maxShownMethod), shown(c.request.Host, maxShown)
	id, _ := c.request.header(headerRequestID)
	s.RequestID = shown(id, maxShownRequestID)
	if c.api == nil {
		return s
	}
	s.Address = c.api.spec.ErrorLog.Addresses.Text(c.api.spec.Address.of(c.request))
	if len(c.path) <= maxShownPath && c.request.verbatim(c.path) {
		s.Path = c.pathWithoutKeys()
	}
	return s
}

func (c *Check) pathWithoutKeys() string {
	var buf [16]string
	segs, ok := router.Segments(c.path, buf[:0])
	if !ok {
		return ""
	}
	hidden := false
	for _, seg := range segs {
		hidden = hidden || c.mayBeKey(seg)
	}
	if !hidden {
		return c.path
	}
	parts := strings.Split(c.path[1:], "/")
	if len(parts) != len(segs) {
		return ""
	}
	for i, seg := range segs {
		if c.mayBeKey(seg) {
			parts[i] = "***"
		}
	}
	return "/" + strings.Join(parts, "/")
}

func (c *Check) mayBeKey(seg string) bool {
	return len(seg) >= shortestKey && c.api.begins(seg) || c.set.HoldsSecret(c.api.spec.Name, seg) ||
		c.cred.secret != "" && strings.Contains(seg, c.cred.secret)
}
