package policy

import (
	"strings"
	"time"

	"tollgate/policy/limits"
)

// RateHeaders says which rate-limit headers an API sends.
type RateHeaders struct {
	XRateLimit bool // X-RateLimit-Limit, -Remaining, -Reset
	Epoch      bool // Reset is Unix time, else seconds to wait
	IETF       bool // RateLimit and RateLimit-Policy
	Usable     bool // not for a key that is inactive or expired
}

// refused reports whether the refusal of a known key for r has any.
func (h *RateHeaders) refused(r Reason) bool {
	return (h.XRateLimit || h.IETF) && !(h.Usable && (r == InactiveKey || r == ExpiredKey))
}

// append adds the headers of one look at the windows, of which they show the one with number i, if
// there is one; the texts that it makes are put into text. The RateLimit fields follow
// draft-ietf-httpapi-ratelimit-headers-10.
func (h *RateHeaders) append(dst []Header, text *strings.Builder, ws []limits.Window, res *limits.Result, i int) []Header {
	if i < 0 {
		return dst
	}
	w, state := ws[i], res.States[i]
	remaining := putInt(text, w.Remaining(state))
	reset := wholeSeconds(state.Reset.Sub(res.Now))
	if h.XRateLimit {
		shown := reset
		if h.Epoch {
			shown = state.Reset.Unix()
		}
		dst = append(dst,
			Header{"x-ratelimit-limit", putInt(text, w.Limit)},
			Header{"x-ratelimit-remaining", remaining},
			Header{"x-ratelimit-reset", putInt(text, shown)})
	}
	if h.IETF {
		dst = append(dst,
			Header{"ratelimit-policy", putPolicy(text, ws, res.Now)},
			Header{"ratelimit", putLimit(text, w.Name, remaining, reset)})
	}
	return dst
}

// putPolicy writes a RateLimit-Policy: each window's name, limit and seconds.
func putPolicy(text *strings.Builder, ws []limits.Window, now time.Time) string {
	from := text.Len()
	for i, w := range ws {
		if i > 0 {
			text.WriteString(", ")
		}
		start, end := w.Bounds(now)
		text.WriteByte('"')
		text.WriteString(w.Name)
		text.WriteString(`";q=`)
		putInt(text, w.Limit)
		text.WriteString(`;w=`)
		putInt(text, int64(end.Sub(start)/time.Second))
	}
	return text.String()[from:]
}

// putLimit writes a RateLimit: the window's name, what remains, and for how long.
func putLimit(text *strings.Builder, name, remaining string, seconds int64) string {
	from := text.Len()
	text.WriteByte('"')
	text.WriteString(name)
	text.WriteString(`";r=`)
	text.WriteString(remaining)
	text.WriteString(`;t=`)
	putInt(text, seconds)
	return text.String()[from:]
}

// wholeSeconds rounds up, so that who waits them is never early.
func wholeSeconds(d time.Duration) int64 {
	return max(int64((d+time.Second-1)/time.Second), 0)
}
