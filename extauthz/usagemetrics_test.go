package extauthz_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/usage"
	"tollgate/policy/usage/clickhouse"
	"tollgate/policy/usage/ledger"
)

// What is counted, written and left out is in the metrics; the policies say how long it is kept.
func TestUsageMetrics(t *testing.T) {
	var policies *extauthz.Policies
	var counter *usage.Counter
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		policies, counter = c.Policies, usage.NewCounter(1, c.Policies.FindRoute)
		c.Counts = counter
	}, extauthztest.SmallFile("api: small", "usage: {slow_after: 2s, days: 40}\nstale_for: 90s\napi: small"))
	if got := policies.UsageOf("small"); got.Days != 40 || got.SlowAfter != 2*time.Second {
		t.Errorf("%+v", got)
	}
	if got := policies.UsageOf("none"); got != policy.DefaultUsage() {
		t.Errorf("%+v of no API", got)
	}
	if got := policies.LongestStale(); got != 90*time.Second {
		t.Errorf("%v", got)
	}
	redis := extauthztest.NewRedis(t, "embedded")
	registry := prometheus.NewRegistry()
	writer := ledger.NewWriter(redis, counter, s.Clock.Now)
	extauthz.RegisterUsage(registry, counter, writer, ledger.NewRoller(redis, policies.UsageOf, nil))

	api, route := policies.FindRoute("small", "item")
	decided := func(id string) {
		counter.Decided(api, keys.NewGrant(&keys.Key{ID: id, API: "small", Team: "red", LimitID: id}), route, policy.Allowed, s.Clock.Now())
	}
	decided("key_usage_metrics")
	s.Authorizer.Observed(&extauthz.AccessLogEntry{API: "small", Route: "none", Reason: "allowed", Start: s.Clock.Now(), Code: 200})
	s.Authorizer.Observed(&extauthz.AccessLogEntry{API: "small", Route: "none", Reason: "allowed", Start: s.Clock.Now(), Periodic: true}) // goes on
	mustTell(t, registry, "tollgate_usage_keys 1", "tollgate_usage_other_keys_requests_total 0", "tollgate_usage_log_entries_ignored_total 1",
		`tollgate_usage_writes_total{outcome="added"} 0`, "tollgate_usage_waiting 0")

	ended, end := context.WithCancel(t.Context())
	end()
	writer.Run(ended, func(err error) { t.Error(err) })                                              // writes what there is, and ends
	mustTell(t, registry, "tollgate_usage_keys 0", `tollgate_usage_writes_total{outcome="added"} 2`, // the key and the API
		`tollgate_usage_writes_total{outcome="failed"} 0`, `tollgate_usage_lost_total{why="broken"} 0`, "tollgate_usage_folded_total 0", "tollgate_usage_broken_months_total 0")

	for i := range 500 {
		decided(fmt.Sprint("key_usage_metrics_", i))
	}
	told := counter.Stats()
	if told.Keys == 0 || told.Others == 0 {
		t.Errorf("%+v of more keys than there may be", told)
	}
	mustTell(t, registry, fmt.Sprint("tollgate_usage_keys ", told.Keys), fmt.Sprint("tollgate_usage_other_keys_requests_total ", told.Others))
}

// What waits for ClickHouse, was taken or lost there is in the metrics.
func TestUsageHistoryMetrics(t *testing.T) {
	refuse := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if refuse {
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	client, err := clickhouse.Open(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	writer, registry := clickhouse.NewWriter(client, 2), prometheus.NewRegistry()
	extauthz.RegisterUsageHistory(registry, writer)
	for _, id := range []string{"key_first", "key_first", "key_no_room"} {
		writer.Add(&usage.Delta{Subject: usage.Subject{API: "small", Key: id}, Day: 1, Decided: []usage.RouteHour{{Hour: 24, Decided: usage.Decided{Allowed: 1}}}})
	}
	if err := writer.Send(t.Context()); err == nil {
		t.Error("it was refused")
	}
	mustTell(t, registry, "tollgate_usage_clickhouse_rows_total 0", "tollgate_usage_clickhouse_failures_total 1", "tollgate_usage_clickhouse_lost_total 1", "tollgate_usage_clickhouse_waiting_rows 2")
	refuse = false
	if err := writer.Send(t.Context()); err != nil {
		t.Error(err)
	}
	mustTell(t, registry, "tollgate_usage_clickhouse_rows_total 2", "tollgate_usage_clickhouse_failures_total 1", "tollgate_usage_clickhouse_waiting_rows 0")
}

// mustTell fails unless each line is in what is scraped.
func mustTell(t *testing.T, registry prometheus.Gatherer, lines ...string) {
	t.Helper()
	out := extauthztest.MetricsOf(registry)
	for _, line := range lines {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("no %s in\n%s", line, out)
		}
	}
}
