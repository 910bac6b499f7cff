package rates

import (
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/usage"
)

// tally counts requests.
type tally struct {
	ended, failed uint64 // as the access log says
	denied        uint64
}

func (t *tally) add(o tally) {
	t.ended += o.ended
	t.failed += o.failed
	t.denied += o.denied
}

// tallyOf returns what a delta says that the rules ask for, and the most frequent reason of those
// that were refused.
func tallyOf(d *usage.Delta, rules *policy.Alerts) (t tally, reason string) {
	if rules.ErrorRate.Percent > 0 {
		for i := range d.Seen {
			t.ended += d.Seen[i].Observed()
			t.failed += d.Seen[i].Status[usage.Status5xx]
		}
	}
	if rules.DeniedSpike.Times == 0 {
		return t, ""
	}
	most := uint64(0)
	for _, r := range d.Reasons {
		parsed, ok := policy.ParseReason(r.Reason) // not of what shadow_mode let pass
		if !ok || !counts(parsed, d.Key != "") {
			continue
		}
		t.denied += r.N
		if r.N > most {
			most, reason = r.N, parsed.String()
		}
	}
	return t, reason
}

// counts reports whether a refusal counts: of a key those that it has brought about, of an API
// those without a valid key, which are no key's.
func counts(r policy.Reason, ofKey bool) bool {
	switch r {
	case policy.Allowed, policy.Undecided, policy.CorruptKey:
		return false
	case policy.MissingCredential, policy.MalformedCredential, policy.UnknownKey, policy.RevokedKey, policy.WrongEnvironment, policy.LookupRefused:
		return !ofKey
	}
	return ofKey
}

// recent is what a subject did in a window of ten minutes, by the clock, and in the one before.
type recent struct {
	key         string
	window      int64
	now, before tally
	reason      string // most frequent among the last refusals

	toldErrors, toldDenied int64 // the quarter of a day in which it was told of
}

func windowOf(at time.Time) int64 { return at.Unix() / int64(alerts.RateSpan/time.Second) }

// quarterOf numbers the times in which an alert is told once.
func quarterOf(at time.Time) int64 { return at.Truncate(alerts.Quiet).Unix() }

// roll begins another window.
func (r *recent) roll(window int64) {
	switch {
	case window == r.window+1:
		r.before, r.now = r.now, tally{}
	case window > r.window:
		r.before, r.now = tally{}, tally{}
	default:
		return // the same, or a clock that went back
	}
	r.window = window
}

// failing returns how many of the requests that have ended within the last ten minutes have failed,
// as if those of the window before had come evenly, and whether that is too much. One of so many
// servers sees its part of the requests.
func (r *recent) failing(rule policy.ErrorRate, servers int, now time.Time) (failed, ended uint64, bad bool) {
	if rule.Percent == 0 {
		return 0, 0, false
	}
	span := int64(alerts.RateSpan / time.Second)
	left := float64(span-now.Unix()%span) / float64(span)
	part := func(before, now uint64) uint64 { return now + uint64(left*float64(before)) }
	failed, ended = part(r.before.failed, r.now.failed), part(r.before.ended, r.now.ended)
	return failed, ended, ended >= share(rule.Requests, servers) && failed*100 >= ended*uint64(rule.Percent)
}

// fails is failing of one that may have done nothing.
func (r *recent) fails(rule policy.ErrorRate, servers int, now time.Time) bool {
	if r == nil {
		return false
	}
	r.roll(windowOf(now))
	_, _, bad := r.failing(rule, servers, now)
	return bad
}

// spiked reports whether many more requests were refused than in the window before, if all of that
// was seen: a server that has just started does not know what is usual.
func (r *recent) spiked(rule policy.DeniedSpike, servers int, began int64) bool {
	return rule.Times > 0 && r.window > began+1 && r.now.denied >= max(share(rule.Requests, servers), r.before.denied*uint64(rule.Times))
}

// share is one server's part of a number of requests, at least 1.
func share(requests, servers int) uint64 { return uint64((requests + servers - 1) / servers) }
