package extauthz_test

import (
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
)

func TestParseDecisions(t *testing.T) {
	for _, good := range []string{"none", "denied", "all", "allowed", "denied,allowed=1%", "all,rate_limited=0.5%,undecided=0", "denied=1", "all=100%"} {
		if got, err := extauthz.ParseDecisions(good); err != nil || string(got) != good {
			t.Errorf("%q: %v, %v", good, got, err)
		}
	}
	for bad, says := range map[string]string{
		"some": `unknown value "some", want none, denied, all, or reasons such as allowed=1%`, "": `unknown value ""`, "none,allowed": `unknown value "none"`,
		"denied,": `unknown value ""`, "denied, allowed": `unknown value " allowed"`, "denied,denied=1%": "denied is said twice",
		"allowed=2": `allowed: share "2": want 0 to 1, or 0% to 100%`, "allowed=101%": `share "101%"`, "allowed=": `share ""`, "allowed=NaN": `share "NaN"`, "allowed=-1%": `share "-1%"`,
	} {
		if _, err := extauthz.ParseDecisions(bad); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %s", bad, err, says)
		}
	}
}

// The term that says most about a reason counts.
func TestSharesOfReasons(t *testing.T) {
	for _, c := range []struct {
		decisions                        extauthz.Decisions
		allowed, unknownKey, rateLimited float64
	}{
		{"none", 0, 0, 0}, {"denied", 0, 1, 1}, {"all", 1, 1, 1}, {"allowed", 1, 0, 0}, {"denied,allowed=1%", .01, 1, 1},
		{"all,rate_limited=0.001", 1, 1, .001}, {"all=10%,denied=50%,rate_limited=0", .1, .5, 0}, {"rate_limited=0,denied,all=10%", .1, 1, 0},
	} {
		if a, u, r := c.decisions.Share(policy.Allowed), c.decisions.Share(policy.UnknownKey), c.decisions.Share(policy.RateLimited); a != c.allowed || u != c.unknownKey || r != c.rateLimited {
			t.Errorf("%s: %v, %v, %v", c.decisions, a, u, r)
		}
	}
	const n = 100_000
	for decisions, want := range map[extauthz.Decisions]int{"allowed=25%": n / 4, "allowed": n, "denied": 0, "allowed=0": 0} {
		if got := decisions.Drawn(policy.Allowed, n); got < want-n/50 || got > want+n/50 || (want == 0 || want == n) && got != want {
			t.Errorf("%s: %d of %d", decisions, got, n)
		}
	}
}

// A flood of denials costs a hundred lines a second, hides no denial of another kind,
// and is counted in the next line.
func TestFloodOfDenials(t *testing.T) {
	out := &extauthztest.Logs{}
	now := time.Unix(1_800_000_000, 0)
	log, _ := extauthz.DecisionLog(slog.New(slog.NewTextHandler(out, nil)), extauthz.LogDenied, func() time.Time { return now })
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
	out := &extauthztest.Logs{}
	log, _ := extauthz.DecisionLog(slog.New(slog.NewTextHandler(out, nil)), extauthz.LogAll, time.Now)
	for range 1000 {
		log(t.Context(), &policy.Decision{Reason: policy.UnknownKey})
	}
	if n := strings.Count(out.String(), "denied"); n != 1000 {
		t.Errorf("%d lines", n)
	}
}

// The count of a flood that is over comes with any next decision, or at the end; that of
// one that goes on stays with its own lines. Nothing is told twice.
func TestEndOfAFlood(t *testing.T) {
	out := &extauthztest.Logs{}
	now := time.Unix(1_800_000_000, 0)
	log, end := extauthz.DecisionLog(slog.New(slog.NewTextHandler(out, nil)), extauthz.LogDenied, func() time.Time { return now })
	deny := func(r policy.Reason, times int) {
		for range times {
			log(t.Context(), &policy.Decision{Reason: r, Status: 401, Metadata: []policy.Header{{Name: "reason", Value: r.String()}}})
		}
	}
	allow := func() { log(t.Context(), &policy.Decision{Allow: true}) }
	told := func(want ...string) {
		t.Helper()
		var got []string
		for line := range strings.Lines(out.String()) {
			if _, fields, ok := strings.Cut(strings.TrimSpace(line), "msg=\"more denied\" "); ok {
				got = append(got, fields)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	const first, other = "reason=unknown_key not_logged=900", "reason=rate_limited not_logged=1"

	deny(policy.UnknownKey, 1000)
	now = now.Add(900 * time.Millisecond)
	deny(policy.RateLimited, 101)
	allow()
	told() // the second is not over
	now = now.Add(100 * time.Millisecond)
	allow()
	told(first)
	now = now.Add(time.Second)
	allow()
	told(first, other)
	deny(policy.UnknownKey, 300) // 100 lines again
	end()
	end()
	allow()
	told(first, other, "reason=unknown_key not_logged=200")

	// A flood that goes on: its lines have the count.
	for range 300 {
		now = now.Add(5 * time.Millisecond)
		deny(policy.UnknownKey, 1)
		allow()
	}
	told(first, other, "reason=unknown_key not_logged=200")
	now = now.Add(time.Hour)
	allow()
	deny(policy.RateLimited, 1)
	lines, sum := strings.Count(out.String(), "msg=denied"), 0
	for line := range strings.Lines(out.String()) {
		if _, n, ok := strings.Cut(strings.TrimSpace(line), "not_logged="); ok {
			left, _ := strconv.Atoi(n)
			sum += left
		}
	}
	if lines+sum != 1000+101+300+300+1 {
		t.Errorf("%d lines and %d not logged", lines, sum)
	}
}

// What no line has told is told when the server stops.
func TestFloodAtTheEnd(t *testing.T) {
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Decisions = extauthz.LogDenied }, extauthztest.SmallFile())
	client := authv3.NewAuthorizationClient(s.Dial(t))
	for range 250 {
		if _, err := client.Check(extauthztest.Within(t), extauthztest.Get("/items/1", nil)); err != nil {
			t.Fatal(err)
		}
	}
	s.GRPC.Shutdown(extauthztest.Within(t))
	sum := strings.Count(s.Log.String(), `"msg":"denied"`)
	for _, field := range regexp.MustCompile(`"not_logged":(\d+)`).FindAllStringSubmatch(s.Log.String(), -1) {
		n, _ := strconv.Atoi(field[1])
		sum += n
	}
	if sum != 250 {
		t.Errorf("%d of 250 denials are told in\n%s", sum, s.Log)
	}
}

// What only shadow_mode let pass is logged as denials are, and bounded by itself.
func TestShadowsAreLogged(t *testing.T) {
	out := &extauthztest.Logs{}
	now := time.Unix(1_800_000_000, 0)
	log, end := extauthz.DecisionLog(slog.New(slog.NewTextHandler(out, nil)), extauthz.LogDenied, func() time.Time { return now })
	for range 150 {
		log(t.Context(), &policy.Decision{Reason: policy.RateLimited, Metadata: []policy.Header{{Name: "reason", Value: "rate_limited"}}})
		log(t.Context(), &policy.Decision{Allow: true, Shadow: policy.RateLimited, Metadata: []policy.Header{{Name: "reason", Value: "allowed"}, {Name: "shadow", Value: "rate_limited"}}})
	}
	end()
	for line, want := range map[string]int{
		"msg=allowed reason=allowed shadow=rate_limited\n": 100, "msg=denied reason=rate_limited\n": 100,
		"msg=\"more allowed by shadow_mode\" shadow=rate_limited not_logged=50\n": 1, "msg=\"more denied\" reason=rate_limited not_logged=50\n": 1,
	} {
		if n := strings.Count(out.String(), line); n != want {
			t.Errorf("%d lines %q, want %d", n, line, want)
		}
	}
}
