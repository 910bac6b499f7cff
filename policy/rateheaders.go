package policy

import (
	"strconv"
	"strings"
	"time"

	"tollgate/policy/limits"
)

// rateHeaders says which rate-limit headers an API sends.
type rateHeaders struct {
	trio  bool // X-RateLimit-Limit, -Remaining, -Reset
	epoch bool // Reset is Unix time, else seconds to wait
	ietf  bool // RateLimit and RateLimit-Policy
}

func (h *rateHeaders) any() bool { return h.trio || h.ietf }

// append adds the headers of one look at the windows. The trio shows the limit
// with the fewest requests remaining. The RateLimit fields follow
// draft-ietf-httpapi-ratelimit-headers-10.
func (h *rateHeaders) append(dst []Header, ws []limits.Window, res *limits.Result) []Header {
	i := limits.Tightest(ws, res.States)
	if i < 0 {
		return dst
	}
	w, state := ws[i], res.States[i]
	remaining := strconv.FormatInt(w.Remaining(state), 10)
	seconds := strconv.FormatInt(wholeSeconds(state.Reset.Sub(res.Now)), 10)
	if h.trio {
		reset := seconds
		if h.epoch {
			reset = strconv.FormatInt(state.Reset.Unix(), 10)
		}
		dst = append(dst,
			Header{"x-ratelimit-limit", strconv.FormatInt(w.Limit, 10)},
			Header{"x-ratelimit-remaining", remaining},
			Header{"x-ratelimit-reset", reset})
	}
	if h.ietf {
		dst = append(dst,
			Header{"ratelimit-policy", policyField(ws, res.Now)},
			Header{"ratelimit", `"` + w.Name + `";r=` + remaining + `;t=` + seconds})
	}
	return dst
}

func policyField(ws []limits.Window, now time.Time) string {
	var b strings.Builder
	for i, w := range ws {
		if i > 0 {
			b.WriteString(", ")
		}
		start, end := w.Bounds(now)
		b.WriteString(`"` + w.Name + `";q=` + strconv.FormatInt(w.Limit, 10))
		b.WriteString(`;w=` + strconv.FormatInt(int64(end.Sub(start)/time.Second), 10))
	}
	return b.String()
}

// wholeSeconds rounds up, so that who waits them is never early.
func wholeSeconds(d time.Duration) int64 {
	return max(int64((d+time.Second-1)/time.Second), 0)
}
