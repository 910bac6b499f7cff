package extauthz_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
)

// A decision is a line of JSON with what the metadata says, and nothing that is or holds a key.
func TestDecisionLines(t *testing.T) {
	var out bytes.Buffer
	var lines *extauthz.DecisionLines
	now := time.Date(2026, 11, 30, 12, 0, 0, 123456789, time.UTC)
	registry := prometheus.NewRegistry()
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		lines = extauthz.NewDecisionLines(&out, func() time.Time { return now }, registry)
		c.Lines, c.Decisions = lines, "denied,allowed=0.999999999"
	}, extauthztest.SmallFile("api: small", "client_address: {from: peer}\napi: small"))
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	ask := asker(t, s)
	ask("/items/1?api_key="+secret+"&q=hidden", secret)
	ask("/items/\"ä", "", func(r *authv3.CheckRequest) { r.Attributes.Request.Http.Host = "\"<forged>\x01\u2028.test" })
	ask("/items/"+secret, "")
	ended, end := context.WithCancel(t.Context())
	end()
	lines.Run(ended, func(err error) { t.Error(err) })

	if strings.Contains(out.String(), secret) || strings.Contains(out.String(), "hidden") || strings.Contains(s.Log.String(), "decision_id") {
		t.Errorf("a key or a query in the lines, or a decision in the log:\n%s%s", &out, s.Log)
	}
	var got []map[string]any
	for line := range strings.Lines(out.String()) {
		fields := map[string]any{}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if id, _ := fields["decision_id"].(string); len(id) != 16 {
			t.Errorf("no decision_id in %s", line)
		}
		if took, ok := fields["duration_ms"].(float64); !ok || took < 0 {
			t.Errorf("no duration in %s", line)
		}
		delete(fields, "decision_id")
		delete(fields, "duration_ms")
		got = append(got, fields)
	}
	const at = "2026-11-30T12:00:00.123456Z"
	want := []map[string]any{
		{"time": at, "allowed": true, "reason": "allowed", "api": "small", "route": "item", "key_id": "key_small", "team": "team_s", "plan": "basic",
			"method": "GET", "host": "small.test", "path": "/items/1", "address": "192.0.2.1", "share": 0.999999999},
		{"time": at, "allowed": false, "reason": "unknown_api", "status": 403.0, "method": "GET", "host": "\"<forged>\x01\u2028.test"},
		{"time": at, "allowed": false, "reason": "missing_credential", "api": "small", "route": "item", "status": 401.0,
			"method": "GET", "host": "small.test", "path": "/items/***", "address": "192.0.2.1"},
	}
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s\nwant %s", g, w)
	}
	mustTell(t, registry, `tollgate_decision_log_lines_total{outcome="written"} 3`, `tollgate_decision_log_lines_total{outcome="dropped"} 0`)
}

// gate is a writer that waits until it is opened, and then fails if it should.
type gate struct {
	opened chan struct{}
	fails  error

	mu    sync.Mutex
	wrote int // bytes
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.opened
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fails != nil {
		return 0, g.fails
	}
	g.wrote += bytes.Count(b, []byte("\n"))
	return len(b), nil
}

// Nobody waits for a standard output that takes nothing: what does not fit is dropped and counted,
// and every line is whole.
func TestDecisionLinesAreBounded(t *testing.T) {
	for _, fails := range []error{nil, errors.New("broken pipe")} {
		g := &gate{opened: make(chan struct{}), fails: fails}
		registry := prometheus.NewRegistry()
		lines := extauthz.NewDecisionLines(g, time.Now, registry)
		ctx, end := context.WithCancel(t.Context())
		var told error
		var work sync.WaitGroup
		work.Go(func() { lines.Run(ctx, func(err error) { told = err }) })
		s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Lines, c.Decisions = lines, extauthz.LogAll }, extauthztest.SmallFile())
		const callers, each = 4, 10_000
		var asking sync.WaitGroup
		for range callers {
			asking.Go(func() {
				check := &policy.Check{}
				for range each {
					set := s.Authorizer.Policy()
					s.Authorizer.Decide(t.Context(), time.Now(), set, &policy.Request{HTTP: true, Method: "GET", Host: "small.test", Target: "/open?" + strings.Repeat("x", 50)}, check)
				}
			})
		}
		asking.Wait() // no decision has waited
		close(g.opened)
		end()
		work.Wait()
		var written, dropped, failed int
		for outcome, n := range map[string]*int{"written": &written, "dropped": &dropped, "failed": &failed} {
			_, rest, _ := strings.Cut(extauthztest.MetricsOf(registry), `tollgate_decision_log_lines_total{outcome="`+outcome+`"} `)
			if _, err := fmt.Sscan(rest, n); err != nil {
				t.Fatal(err)
			}
		}
		if written+dropped+failed != callers*each || dropped == 0 || written != g.wrote || (fails == nil) != (failed == 0) || !errors.Is(told, fails) {
			t.Errorf("%d written (%d), %d dropped, %d failed of %d; told %v", written, g.wrote, dropped, failed, callers*each, told)
		}
	}
}
