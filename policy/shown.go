package policy

import (
	"strings"

	"tollgate/policy/router"
)

// Shown is what a log may say of a request beside its Decision: no query, and no header but the
// request's id. Method, Host and RequestID are as the client sent them, cut to a length that such
// texts have; one that may hold a key is *** as a whole.
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
	// shortestKey is how long a text is, at least, that is taken for a key because it begins as
	// one.
	shortestKey = 20
)

// Hidden stands in the place of what may be a key.
const Hidden = "***"

// Shown returns that of a decision which is Done.
func (c *Check) Shown() (s Shown) {
	s.Method, s.Host = c.shown(c.request.Method, maxShownMethod), c.shown(c.request.Host, maxShown)
	id, _ := c.request.header(headerRequestID)
	s.RequestID = c.shown(id, maxShownRequestID)
	if c.api == nil {
		return s
	}
	s.Address = c.api.spec.ErrorLog.Addresses.Text(c.api.spec.Address.of(c.request))
	if len(c.path) <= maxShownPath && c.request.verbatim(c.path) {
		s.Path = c.pathWithoutKeys()
	}
	return s
}

// shown returns so much of a text that a client chose, or what stands in its place if it may hold a
// key.
func (c *Check) shown(text string, most int) string {
	if c.mayHoldKey(text) {
		return Hidden
	}
	return text[:min(len(text), most)]
}

func (c *Check) pathWithoutKeys() string {
	var buf [16]string
	segs, ok := router.Segments(c.path, buf[:0])
	if !ok {
		return ""
	}
	any := false
	for _, seg := range segs {
		any = any || c.mayBeKey(seg)
	}
	if !any {
		return c.path
	}
	parts := strings.Split(c.path[1:], "/")
	if len(parts) != len(segs) {
		return ""
	}
	for i, seg := range segs {
		if c.mayBeKey(seg) {
			parts[i] = Hidden
		}
	}
	return "/" + strings.Join(parts, "/")
}

// mayBeKey reports whether a segment of a path may be or hold a key. Where keys have no prefix,
// whatever is long enough may be one.
func (c *Check) mayBeKey(seg string) bool {
	return len(c.api.spec.Prefixes) == 0 && len(seg) >= shortestKey || c.mayHoldKey(seg)
}

// mayHoldKey reports whether a text that a client chose holds what the request presents as its key,
// or may hold another key of its API.
func (c *Check) mayHoldKey(text string) bool {
	return c.cred.secret != "" && strings.Contains(text, c.cred.secret) || c.api != nil && c.api.MayHoldKey(text)
}

// MayHoldKey reports whether a text holds something that has the form of a key of the API, or that
// begins as one does and is as long.
func (a *API) MayHoldKey(text string) bool {
	if len(text) < shortestKey {
		return false
	}
	for _, prefix := range a.spec.Prefixes {
		if at := strings.Index(text, prefix); at >= 0 && len(text)-at >= shortestKey {
			return true
		}
	}
	return len(a.spec.Issuers) > 0 && holdsToken(text) || a.holdsSecret(text)
}
