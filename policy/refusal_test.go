package policy_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// A refusal shows the window that refuses, of several the one that Retry-After speaks of; one that
// refuses for ever is shown before all others, and no time to retry is told then.
func TestRefusalShowsWhatRefuses(t *testing.T) {
	set := shopSet(t)
	minute, month := clock().Truncate(time.Minute).Add(time.Minute), time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	override := func(name string, requests int64) []keys.Override {
		return []keys.Override{{Name: name, Requests: requests}}
	}
	for _, c := range []struct {
		name             string
		limits           []keys.Override // of minute (10) and month (100, a quota)
		cost             int64           // 0, 1 or 2
		spent            int64           // of both
		reason           policy.Reason
		limit, remaining string
		reset            time.Time
		retry            string // of Retry-After; empty: none
		ietf             string
	}{
		{"one refuses", nil, 1, 10, policy.RateLimited, "10", "0", minute, "30", `"minute";r=0;t=30`},
		{"two refuse, and the one with more left for longer", override("month", 11), 2, 10, policy.QuotaExceeded, "11", "1", month, "1425570", `"month";r=1;t=1425570`},
		{"one refuses that has as little left as another", override("minute", 5), 0, 100, policy.RateLimited, "5", "0", minute, "30", `"minute";r=0;t=30`},
		{"one below the cost", override("minute", 1), 2, 0, policy.RateLimited, "1", "1", minute, "", `"minute";r=1;t=30`},
		{"a quota below the cost", override("month", 1), 2, 0, policy.QuotaExceeded, "1", "1", month, "", `"month";r=1;t=1425570`},
		{"a limit of none", override("minute", 0), 1, 0, policy.RateLimited, "0", "0", minute, "", `"minute";r=0;t=30`},
		{"a limit of none and no cost", override("minute", 0), 0, 0, policy.RateLimited, "0", "0", minute, "", `"minute";r=0;t=30`},
		{"one below the cost, and another for longer", override("minute", 1), 2, 100, policy.RateLimited, "1", "0", minute, "", `"minute";r=0;t=30`},
		{"one for longer that is below the cost", override("month", 1), 2, 10, policy.QuotaExceeded, "1", "0", month, "", `"month";r=0;t=1425570`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := goodWorld()
			w.key.Limits, w.key.Scopes, w.spent = c.limits, []string{"write"}, c.spent
			switch c.cost {
			case 0:
				w.request.Target = "/me"
			case 2:
				w.request.Method = "POST"
			}
			d := w.decide(t, set)
			if d.Reason != c.reason || d.Status != 429 {
				t.Fatalf("%s, %d", d.Reason, d.Status)
			}
			got := []string{header(d.Response, "x-ratelimit-limit"), header(d.Response, "x-ratelimit-remaining"), header(d.Response, "x-ratelimit-reset"),
				header(d.Response, "retry-after"), header(d.Response, "ratelimit")}
			want := []string{c.limit, c.remaining, strconv.FormatInt(c.reset.Unix(), 10), c.retry, c.ietf}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("limit, remaining, reset, retry after, RateLimit:\n got %q\nwant %q", got, want)
			}
		})
	}
}

// Where no retry can succeed no body has a member that says when to.
func TestHopelessBodies(t *testing.T) {
	for _, c := range []struct{ name, errors, body string }{
		{"envelope", envelopeErrors, `{"success":false,"error":{"code":"SLOW","message":"minute: wait 30 s","details":{"text":"30 s"}},"requestId":"r-1"}`},
		{"envelope with nothing else", strings.Replace(envelopeErrors, `, text: "{retry_after} s"`, "", 1), `{"success":false,"error":{"code":"SLOW","message":"minute: wait 30 s"},"requestId":"r-1"}`},
		{"nested", nestedErrors, `{"error":{"code":"slow","message":"Wait 30 s"}}`},
		{"problem", problemErrors, `{"type":"https://e/slow","title":"Slow","status":429,"detail":"Wait 30 s","instance":"/items"}`},
		{"problem with extensions", extended(), `{"type":"https://e/slow","title":"Slow","status":429,"detail":"Wait 30 s","instance":"/items","text":"30 of minute"}`},
	} {
		w := goodWorld()
		w.key.Limits = []keys.Override{{Name: "minute", Requests: 0}}
		d := w.decide(t, speaking(t, c.errors))
		if string(d.Body) != c.body || !json.Valid(d.Body) || header(d.Response, "retry-after") != "" {
			t.Errorf("%s: %s, Retry-After %q\nwant %s", c.name, d.Body, header(d.Response, "retry-after"), c.body)
		}
	}
}

// With failure_mode local, too, a limit that lets nothing through is one that no retry helps
// against.
func TestHopelessLocally(t *testing.T) {
	w := goodWorld()
	w.key.Plan, w.key.Limits, w.spendErr = "local", []keys.Override{{Name: "minute", Requests: 0}}, errors.New("away")
	d := w.decide(t, shopSet(t))
	if d.Reason != policy.RateLimited || header(d.Response, "retry-after") != "" || header(d.Response, "x-ratelimit-limit") != "0" {
		t.Errorf("%s: %v", d.Reason, d.Response)
	}
}

func TestFits(t *testing.T) {
	for _, c := range []struct {
		limit, cost int64
		fits        bool
	}{{0, 0, false}, {0, 1, false}, {1, 0, true}, {1, 1, true}, {1, 2, false}, {5, 1 << 62, false}, {5, -1, false}} {
		if got := (limits.Window{Limit: c.limit}).Fits(c.cost); got != c.fits {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
