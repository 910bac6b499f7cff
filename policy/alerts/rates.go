package alerts

import (
	"fmt"
	"time"
)

// RateSpan is the time within which requests are counted that fail or are refused.
const RateSpan = 10 * time.Minute

// Quiet is for how long nobody is told again that requests of the same key fail, or are refused: a
// quarter of a day, by the clock.
const Quiet = 6 * time.Hour

// Failing says that so many of the requests that have ended within RateSpan have failed: of a key,
// or of all of an API's. percent is the share from which on somebody is told.
func Failing(api, key string, failed, ended uint64, percent int, now time.Time) *Alert {
	return again(ErrorsExceeded, api, key, now,
		Detail{"failed", failed}, Detail{"requests", ended}, Detail{"percent", percent}, Detail{"minutes", int(RateSpan / time.Minute)})
}

// Spiked says that so many requests were refused within RateSpan, and so many in the one before: of
// a key, or without a valid one. reason is the most frequent one of the last.
func Spiked(api, key string, denied, before uint64, reason string, now time.Time) *Alert {
	return again(DeniedSpiked, api, key, now,
		Detail{"denied", denied}, Detail{"before", before}, Detail{"reason", reason}, Detail{"minutes", int(RateSpan / time.Minute)})
}

// LostReleases says that over 1 % of the places of requests under way end by themselves.
func LostReleases(api string, now time.Time) *Alert {
	return again(ReleasesLost, api, "", now)
}

// again is of what may be told of again when it was quiet for long enough.
func again(kind, api, key string, now time.Time, details ...Detail) *Alert {
	from := now.Truncate(Quiet)
	return &Alert{
		Type: kind, API: api, Key: key, Details: details, At: now,
		Marks: []string{fmt.Sprint(kind, "/", api, "/", key, "/", from.Unix())}, Until: from.Add(Quiet),
	}
}
