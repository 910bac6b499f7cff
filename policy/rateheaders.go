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

// append adds the headers of one look at the limits, of which they show the window with number i,
// if there is one, and the requests under way if slots says so; the texts that it makes are put
// into text. The RateLimit fields follow draft-ietf-httpapi-ratelimit-headers-10, where requests
// under way are a unit of their own.
func (h *RateHeaders) append(dst []Header, text *strings.Builder, s *limits.Spend, res *limits.Result, i int, slots bool) []Header {
	if i >= 0 && h.XRateLimit {
		dst = h.appendTrio(dst, text, s.Windows[i], res, i)
	}
	if h.IETF && (i >= 0 || slots) {
		dst = append(dst,
			Header{"ratelimit-policy", putPolicy(text, s, res.Now, slots)},
			Header{"ratelimit", putLimits(text, s, res, i, slots)})
	}
	return dst
}

// appendTrio adds the X-RateLimit headers of a window.
func (h *RateHeaders) appendTrio(dst []Header, text *strings.Builder, w limits.Window, res *limits.Result, i int) []Header {
	state := res.States[i]
	reset := wholeSeconds(state.Reset.Sub(res.Now))
	if h.Epoch {
		reset = state.Reset.Unix()
	}
	return append(dst,
		Header{"x-ratelimit-limit", putInt(text, w.Limit)},
		Header{"x-ratelimit-remaining", putInt(text, w.Remaining(state))},
		Header{"x-ratelimit-reset", putInt(text, reset)})
}

// putPolicy writes a RateLimit-Policy: each window's name, limit and seconds, and how many requests
// may be under way.
func putPolicy(text *strings.Builder, s *limits.Spend, now time.Time, slots bool) string {
	from := text.Len()
	for _, w := range s.Windows {
		if w.Shadow {
			continue
		}
		start, end := w.Bounds(now)
		putItem(text, text.Len() > from, w.Name, ";q=", w.Limit)
		text.WriteString(`;w=`)
		putInt(text, int64(end.Sub(start)/time.Second))
	}
	if slots {
		putItem(text, text.Len() > from, ConcurrentLimit, ";q=", s.Slot.Places)
		text.WriteString(`;qu="concurrent-requests"`)
	}
	return text.String()[from:]
}

// putLimits writes a RateLimit: of the window with number i, if there is one, and of the requests
// under way, the name and what remains; of the window for how long, too.
func putLimits(text *strings.Builder, s *limits.Spend, res *limits.Result, i int, slots bool) string {
	from := text.Len()
	if i >= 0 {
		w, state := s.Windows[i], res.States[i]
		putItem(text, false, w.Name, ";r=", w.Remaining(state))
		text.WriteString(`;t=`)
		putInt(text, wholeSeconds(state.Reset.Sub(res.Now)))
	}
	if slots {
		putItem(text, i >= 0, ConcurrentLimit, ";r=", max(s.Slot.Places-res.InUse, 0))
	}
	return text.String()[from:]
}

// putItem writes the beginning of an item: its name and its first parameter.
func putItem(text *strings.Builder, another bool, name, parameter string, n int64) {
	if another {
		text.WriteString(", ")
	}
	text.WriteByte('"')
	text.WriteString(name)
	text.WriteByte('"')
	text.WriteString(parameter)
	putInt(text, n)
}

// wholeSeconds rounds up, so that who waits them is never early.
func wholeSeconds(d time.Duration) int64 {
	return max(int64((d+time.Second-1)/time.Second), 0)
}
