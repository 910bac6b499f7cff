package extauthz_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
)

// asker sends check requests to a stack and ignores what is answered.
func asker(t *testing.T, s *extauthztest.Stack) func(target, secret string, change ...func(*authv3.CheckRequest)) {
	t.Helper()
	client := authv3.NewAuthorizationClient(s.Dial(t))
	return func(target, secret string, change ...func(*authv3.CheckRequest)) {
		t.Helper()
		headers := map[string]string{}
		if secret != "" {
			headers["authorization"] = "Bearer " + secret
		}
		req := extauthztest.Get(target, headers)
		for _, c := range change {
			c(req)
		}
		if _, err := client.Check(extauthztest.Within(t), req); err != nil {
			t.Fatal(err)
		}
	}
}

// Decisions are counted by API, route, plan and reason, and what the access log says of allowed
// requests by API and route; a name that a client or a forger chose is in no label.
func TestOutcomes(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	ask := asker(t, s)
	ask("/open", "")
	ask("/items/1", "")
	for range 7 {
		ask("/items/1", secret)
	}
	ask("/nowhere", secret)
	ask("/items/1", "", func(r *authv3.CheckRequest) { r.Attributes.Request.Http.Host = "forged.test" })
	for _, e := range []extauthz.AccessLogEntry{
		{Route: "item", Code: 200, Duration: 20 * time.Millisecond}, {Route: "item", Code: 503, Duration: 2 * time.Second}, {Route: "item"},
		{Route: "item", Code: 999}, {Route: "item", Code: -1}, {Route: "item", Code: 200, Periodic: true}, {Route: "forged", Code: 200},
	} {
		e.API, e.Reason = "small", "allowed"
		s.Authorizer.Observed(&e)
	}
	s.Authorizer.Observed(&extauthz.AccessLogEntry{API: "small", Route: "item", Reason: "rate_limited", Code: 429})

	if n := s.Authorizer.Metrics().Decisions(); n != 11 {
		t.Errorf("%d decisions", n)
	}
	mustTell(t, s.Registry,
		`tollgate_decisions_total{api="small",plan="",reason="allowed",route="open"} 1`,
		`tollgate_decisions_total{api="small",plan="",reason="missing_credential",route="item"} 1`,
		`tollgate_decisions_total{api="small",plan="basic",reason="allowed",route="item"} 5`,
		`tollgate_decisions_total{api="small",plan="basic",reason="rate_limited",route="item"} 2`,
		`tollgate_decisions_total{api="small",plan="basic",reason="route_denied",route=""} 1`,
		`tollgate_decisions_total{api="",plan="",reason="unknown_api",route=""} 1`,
		"tollgate_check_duration_seconds_count 11",
		`tollgate_requests_observed_total{api="small",code="2xx",route="item"} 1`, `tollgate_requests_observed_total{api="small",code="5xx",route="item"} 1`,
		`tollgate_requests_observed_total{api="small",code="none",route="item"} 3`,
		`tollgate_request_duration_seconds_count{api="small",route="item"} 5`, `tollgate_request_duration_seconds_bucket{api="small",route="item",le="0.03"} 4`)
	out := extauthztest.MetricsOf(s.Registry)
	if strings.Contains(out, "forged") || strings.Contains(out, "key_small") || strings.Contains(out, "team_s") {
		t.Errorf("a label that a client chose, or that names a key, in\n%s", out)
	}
	waits := `tollgate_store_wait_seconds_count{operation="lookup"} `
	if !strings.Contains(out, waits) || strings.Contains(out, waits+"0\n") {
		t.Errorf("no wait for the key in\n%s", out)
	}
}

// Counts go on over a reload. Those of a route that the policy has no more are in one set's time
// still, and then gone.
func TestOutcomesOverReloads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "small.yaml")
	write := func(changes ...string) {
		if err := os.WriteFile(file, extauthztest.SmallFile(changes...).Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	var policies *extauthz.Policies
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		var err error
		if policies, err = extauthz.LoadPolicies(file, slog.New(slog.DiscardHandler), c.Metrics, nil); err != nil {
			t.Fatal(err)
		}
		c.Policies = policies
	}, extauthztest.SmallFile())
	ask := asker(t, s)
	const opened, items = `tollgate_decisions_total{api="small",plan="",reason="allowed",route="open"} `, `tollgate_decisions_total{api="small",plan="",reason="missing_credential",route="item"} `
	reload := func(changes ...string) {
		write(changes...)
		policies.Refresh(s.Clock.Now())
		if _, err := policies.Status(); err != nil {
			t.Fatal(err)
		}
	}
	ask("/open", "")
	ask("/items/1", "")
	s.Authorizer.Observed(&extauthz.AccessLogEntry{API: "small", Route: "open", Reason: "allowed", Code: 200})
	reload("name: open", "name: opened")
	ask("/items/1", "")
	mustTell(t, s.Registry, opened+"1", items+"2", `tollgate_requests_observed_total{api="small",code="2xx",route="open"} 1`)
	reload("name: open", "name: opened", "No.", "Never.")
	ask("/items/1", "")
	mustTell(t, s.Registry, items+"3")
	if out := extauthztest.MetricsOf(s.Registry); strings.Contains(out, opened) || strings.Contains(out, `tollgate_requests_observed_total{api="small",code="2xx",route="open"}`) {
		t.Errorf("a route of two sets ago in\n%s", out)
	}
}
