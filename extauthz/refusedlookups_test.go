package extauthz_test

import (
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
)

// Look-ups that are refused come by the ten thousand: they are counted, a line a second, whatever
// is logged.
func TestRefusedLookUpsAreNotLoggedSingly(t *testing.T) {
	for which, told := range map[extauthz.Decisions]int{extauthz.LogDenied: 10_000, extauthz.LogAll: 10_000, extauthz.LogNone: 0} {
		out := &extauthztest.Logs{}
		now := time.Unix(1_800_000_000, 0)
		log, end := extauthz.DecisionLog(slog.New(slog.NewTextHandler(out, nil)), which, func() time.Time { return now })
		for range 10_000 {
			now = now.Add(time.Millisecond)
			log(t.Context(), &policy.Decision{Reason: policy.LookupRefused, Status: 503, Metadata: []policy.Header{{Name: "key_id", Value: "key_x"}}})
		}
		end()
		lines, sum := 0, 0
		for line := range strings.Lines(out.String()) {
			lines++
			_, n, _ := strings.Cut(strings.TrimSpace(line), "not_logged=")
			left, _ := strconv.Atoi(n)
			sum += left
			if strings.Contains(line, "key_x") || !strings.Contains(line, "reason=lookup_refused") {
				t.Errorf("%s: %s", which, line)
			}
		}
		if sum != told || lines > 11 {
			t.Errorf("%s: %d lines tell of %d", which, lines, sum)
		}
	}
}
