package extauthz_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"tollgate/extauthz"
	"tollgate/policy"
)

// A flood of denials costs a hundred lines a second, hides no denial of another kind,
// and is counted in the next line.
func TestFloodOfDenials(t *testing.T) {
	out := &logs{}
	now := time.Unix(1_800_000_000, 0)
	log := extauthz.DecisionLog(slog.New(slog.NewTextHandler(out, nil)), extauthz.LogDenied, func() time.Time { return now })
	deny := func(r policy.Reason, times int) {
		for range times {
			log(t.Context(), &policy.Decision{Reason: r, Status: 401, Metadata: []policy.Header{{Name: "reason", Value: r.String()}}})
		}
	}
	lines := func(part string) int { return strings.Count(out.String(), part) }

	deny(policy.UnknownKey, 1000)
	if n := lines("reason=unknown_key"); n != 100 {
		t.Errorf("%d lines", n)
	}
	deny(policy.RateLimited, 1)
	if n := lines("reason=rate_limited"); n != 1 {
		t.Errorf("another reason: %d lines", n)
	}
	now = now.Add(10 * time.Millisecond)
	deny(policy.UnknownKey, 2)
	if n := lines("reason=unknown_key"); n != 101 || lines("not_logged=900") != 1 {
		t.Errorf("%d lines in\n%s", n, out)
	}
	log(t.Context(), &policy.Decision{Allow: true})
	if lines("allowed") != 0 {
		t.Error("an allowed request is logged")
	}
}

func TestAllDecisionsAreLogged(t *testing.T) {
	out := &logs{}
	log := extauthz.DecisionLog(slog.New(slog.NewTextHandler(out, nil)), extauthz.LogAll, time.Now)
	for range 1000 {
		log(t.Context(), &policy.Decision{Reason: policy.UnknownKey})
	}
	if n := strings.Count(out.String(), "denied"); n != 1000 {
		t.Errorf("%d lines", n)
	}
}
