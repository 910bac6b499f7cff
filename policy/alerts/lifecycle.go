package alerts

import (
	"fmt"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
)

const day = 24 * time.Hour

// OfKey returns what is to be told of a key by itself, whether it is used or not. Of one that is
// switched off, over, or replaced by another nothing is.
func OfKey(k *keys.Key, rules *policy.Alerts, now time.Time) (all []*Alert) {
	if k.Status != keys.Active || k.RotatedTo != "" || k.Expired(now) {
		return nil
	}
	add := func(kind, mark string, until time.Time, details ...Detail) {
		all = append(all, &Alert{
			Type: kind, API: k.API, Team: k.Team, Key: k.ID, Plan: k.Plan, Details: details, At: now,
			Marks: []string{k.ID + "/" + mark}, Until: until,
		})
	}
	if d := rules.ExpiringWithin; d > 0 && !k.ExpiresAt.IsZero() && !now.Add(d).Before(k.ExpiresAt) {
		add(KeyExpiring, fmt.Sprint("expiring/", k.ExpiresAt.Unix()), k.ExpiresAt, Detail{"expires", k.ExpiresAt.UTC()})
	}
	if n, until := times(k.CreatedAt, rules.RotateAfter, now); n > 0 {
		add(KeyRotationDue, fmt.Sprint("rotation/", int(rules.RotateAfter/day), "/", n), until, dated("created", k.CreatedAt,
			Detail{"days", int(rules.RotateAfter / day)})...)
	}
	since := k.CreatedAt
	if k.LastUsed.After(since) {
		since = k.LastUsed
	}
	if n, until := times(since, rules.UnusedFor, now); n > 0 {
		add(KeyUnused, fmt.Sprint("unused/", unix(since), "/", int(rules.UnusedFor/day), "/", n), until, dated("created", k.CreatedAt,
			dated("last_used", k.LastUsed, Detail{"days", int(rules.UnusedFor / day)})...)...)
	}
	return all
}

// times returns how often a span has passed since a time, and when it will once more: who is told
// of a key and does nothing is told again then. A time that is not known is long ago.
func times(since time.Time, span time.Duration, now time.Time) (n int64, until time.Time) {
	if span <= 0 {
		return 0, until
	}
	from, seconds := unix(since), int64(span/time.Second)
	if n = (now.Unix() - from) / seconds; n < 1 {
		return 0, until
	}
	return n, time.Unix(from+(n+1)*seconds, 0)
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// dated puts a time before other details, if it is known.
func dated(name string, t time.Time, others ...Detail) []Detail {
	if t.IsZero() {
		return others
	}
	return append([]Detail{{name, t.UTC()}}, others...)
}
