package extauthz_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
)

// Refusals, and failures that the access log tells of, are sampled; the metrics say how many are
// kept.
func TestErrorLog(t *testing.T) {
	var policies *extauthz.Policies
	var log *errorlog.Log
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		policies, log = c.Policies, errorlog.New(c.Policies.FindRoute, time.Now)
		c.Errors = log
	}, extauthztest.SmallFile("api: small", "error_log: {days: 9, addresses: network}\napi: small"))
	if got := policies.ErrorDays("small"); got != 9 {
		t.Errorf("%d days", got)
	}
	if got := policies.ErrorDays("none"); got != policy.DefaultErrorLog().Days {
		t.Errorf("%d days of no API", got)
	}
	secret, entries := extauthztest.SmallKey()
	redis := extauthztest.NewRedis(t, "embedded")
	s.Use(t, redis, entries)
	registry := prometheus.NewRegistry()
	apisOf := func(_ context.Context, ids []string) ([]string, error) {
		apis := make([]string, len(ids))
		for i, id := range ids {
			if id == "key_small" {
				apis[i] = "small"
			}
		}
		return apis, nil
	}
	writer := journal.NewWriter(redis, log, apisOf, journal.Options{})
	extauthz.RegisterErrorLog(registry, log, writer)

	client := authv3.NewAuthorizationClient(s.Dial(t))
	ask := func(target, key string) map[string]string {
		t.Helper()
		headers := map[string]string{"x-request-id": "r-1"}
		if key != "" {
			headers["authorization"] = "Bearer " + key
		}
		resp, err := client.Check(extauthztest.Within(t), extauthztest.Get(target, headers))
		if err != nil {
			t.Fatal(err)
		}
		return metadata(resp)
	}
	for range 3 {
		ask("/items/1?q=SECRET", "")
	}
	denied := ask("/nowhere?x=SECRET", secret)
	allowed := ask("/items/1", secret)
	for _, e := range []extauthz.AccessLogEntry{
		{Reason: "allowed", API: "small", Route: "items", KeyID: "key_small", DecisionID: allowed["decision_id"], RequestID: "r-2", Code: 503, Client: netip.MustParseAddr("198.51.100.9")},
		{Reason: "allowed", API: "small", Route: "items", KeyID: "key_small", DecisionID: "1", Code: 200},
		{Reason: "allowed", API: "small", Route: "items", KeyID: "key_small", DecisionID: "2", Code: 503, Periodic: true},
		{Reason: "undecided", API: "small", Route: "items", KeyID: "key_small", DecisionID: "3", Code: 500},
		{Reason: "allowed", API: "small", Route: "items", KeyID: "key_none1", DecisionID: "4", Code: 500},
		{Reason: "allowed", API: "small", Route: "none", KeyID: "key_small", DecisionID: "5", Code: 500},
		{RequestID: "r-3", Code: 503},
	} {
		s.Authorizer.Observed(&e)
	}
	mustTell(t, registry, "tollgate_error_log_ignored_total 1", `tollgate_error_log_more_total{why="alike"} 2`, `tollgate_error_log_more_total{why="others"} 0`, "tollgate_error_log_waiting 0")
	ended, end := context.WithCancel(t.Context())
	end()
	writer.Run(ended, func(err error) { t.Error(err) })
	mustTell(t, registry, `tollgate_error_log_entries_total{outcome="written"} 3`, `tollgate_error_log_entries_total{outcome="unknown"} 1`,
		`tollgate_error_log_entries_total{outcome="failed"} 0`, `tollgate_error_log_entries_total{outcome="dropped"} 0`, "tollgate_error_log_lists_removed_total 0")

	answer, err := journal.NewReader(redis).Ask(t.Context(), journal.Question{API: "small"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]errorlog.Entry{
		"missing_credential": {Route: "item", Code: 401, Address: "192.0.2.0/24", Request: "r-1", More: 2},
		"route_denied":       {Key: "key_small", Code: 403, Address: "192.0.2.0/24", Request: "r-1", Decision: denied["decision_id"]},
		errorlog.Upstream:    {Key: "key_small", Route: "items", Code: 503, Address: "198.51.100.0/24", Request: "r-2", Decision: allowed["decision_id"]},
	}
	if len(answer.Entries) != len(want) {
		t.Errorf("%v", answer.Entries)
	}
	for _, got := range answer.Entries {
		want := want[got.Reason]
		want.API, want.Reason, want.Time, want.Until = "small", got.Reason, got.Time, got.Until
		if got.Reason == "missing_credential" {
			want.Decision = got.Decision // of the first of three
		}
		if got != want {
			t.Errorf("%s, want %s", &got, &want)
		}
	}
}
