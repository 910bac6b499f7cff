package decisionlines_test

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
	"tollgate/extauthz/decisionlines"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
)

// A decision is a line of JSON with what the metadata says, and nothing that is or holds a key.
func TestDecisionLines(t *testing.T) {
	var out bytes.Buffer
	var lines *decisionlines.Lines
	now := time.Date(2026, 11, 30, 12, 0, 0, 123456789, time.UTC)
	registry := prometheus.NewRegistry()
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		lines = decisionlines.New(decisionlines.Writer{Writer: &out}, decisionlines.Options{}, func() time.Time { return now }, registry)
		c.Lines, c.Decisions = lines, "denied,allowed=0.999999999"
	}, extauthztest.SmallFile("api: small", "client_address: {from: peer}\napi: small"))
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	client := authv3.NewAuthorizationClient(s.Dial(t))
	ask := func(target, secret, host string) {
		t.Helper()
		req := extauthztest.Get(target, nil)
		req.Attributes.Request.Http.Host = host
		if secret != "" {
			req.Attributes.Request.Http.Headers = map[string]string{"authorization": "Bearer " + secret}
		}
		if _, err := client.Check(extauthztest.Within(t), req); err != nil {
			t.Fatal(err)
		}
	}
	ask("/items/1?api_key="+secret+"&q=hidden", secret, "small.test")
	ask("/items/\"ä", "", "\"<forged>\x01\u2028.test")
	ask("/items/"+secret, "", "small.test")
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
	if n := counted(t, registry); n != (counts{written: 3}) {
		t.Errorf("%+v", n)
	}
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
		lines := decisionlines.New(decisionlines.Writer{Writer: g}, decisionlines.Options{}, time.Now, registry)
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
		n := counted(t, registry)
		if n.written+n.dropped+n.failed != callers*each || n.dropped == 0 || n.written != g.wrote || (fails == nil) != (n.failed == 0) || !errors.Is(told, fails) {
			t.Errorf("%+v (%d) of %d; told %v", n, g.wrote, callers*each, told)
		}
	}
}

// counts are the metric's.
type counts struct{ written, dropped, failed int }

func counted(t *testing.T, registry prometheus.Gatherer) (n counts) {
	t.Helper()
	for outcome, n := range map[string]*int{"written": &n.written, "dropped": &n.dropped, "failed": &n.failed} {
		_, rest, _ := strings.Cut(extauthztest.MetricsOf(registry), `tollgate_decision_log_lines_total{outcome="`+outcome+`"} `)
		if _, err := fmt.Sscan(rest, n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// repeats is a sink that is offered lines again until it takes them. It takes what takes says.
type repeats struct {
	takes   func(ctx context.Context, call int) error
	calls   int
	offered []string
	took    strings.Builder
}

func (r *repeats) Take(ctx context.Context, lines []byte) (int, error) {
	r.calls++
	r.offered = append(r.offered, string(lines))
	if err := r.takes(ctx, r.calls); err != nil {
		return 0, err
	}
	r.took.Write(lines)
	return bytes.Count(lines, []byte("\n")), nil
}

// decide has lines made of n decisions.
func decide(t *testing.T, lines *decisionlines.Lines, n int) {
	t.Helper()
	a, check := extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), extauthztest.Allowing()), &policy.Check{}
	a.Decide(t.Context(), time.Now(), a.Policy(), &policy.Request{HTTP: true, Method: "GET", Host: "small.test", Target: "/open"}, check)
	for range n {
		lines.Add(check, time.Millisecond, 1)
	}
}

// Lines that were not taken come again, the same bytes, after longer and longer pauses, and those
// that came meanwhile after them. Between two writes lines are gathered, unless there are many.
func TestLinesAreRepeated(t *testing.T) {
	away := errors.New("away")
	sink := &repeats{takes: func(_ context.Context, call int) error {
		if call <= 8 {
			return away
		}
		return nil
	}}
	registry := prometheus.NewRegistry()
	lines := decisionlines.New(sink, decisionlines.Options{Gather: 10 * time.Second, Repeat: true}, time.Now, registry)
	pauses, ticks := make(chan time.Duration), make(chan time.Time)
	lines.SetAfter(func(d time.Duration) <-chan time.Time { pauses <- d; return ticks })
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var work sync.WaitGroup
	work.Go(func() { lines.Run(ctx, func(err error) { must(t, errors.Is(err, away)) }) })
	about := func(want time.Duration) {
		t.Helper()
		if d := <-pauses; d < want*8/10 || d > want*12/10 {
			t.Fatalf("paused %s, want about %s", d, want)
		}
	}
	decide(t, lines, 3)
	if d := <-pauses; d != 10*time.Second {
		t.Errorf("gathered for %s", d)
	}
	decide(t, lines, 2)
	for _, seconds := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		ticks <- time.Time{}
		about(seconds * time.Second)
		decide(t, lines, 1)
	}
	ticks <- time.Time{} // taken
	if d := <-pauses; d != 10*time.Second {
		t.Errorf("gathered for %s", d)
	}
	decide(t, lines, 40_000) // half of the room and more: no tick is needed
	if d := <-pauses; d != 10*time.Second {
		t.Errorf("gathered for %s", d)
	}
	end()
	ended := make(chan struct{})
	go func() { defer close(ended); work.Wait() }()
	for ended != nil {
		select {
		case <-ended:
			ended = nil
		case <-pauses:
		}
	}
	for i, offered := range sink.offered[:9] {
		if strings.Count(offered, "\n") != 5 || offered != sink.offered[0] {
			t.Errorf("offer %d is %q, want what the first was", i, offered)
		}
	}
	if n := counted(t, registry); n.failed != 0 || n.written != strings.Count(sink.took.String(), "\n") || n.written+n.dropped != 5+8+40_000 || n.written < 10_000 {
		t.Errorf("%+v, %d taken", n, strings.Count(sink.took.String(), "\n"))
	}
}

func must(t *testing.T, ok bool) {
	t.Helper()
	if !ok {
		t.Error("an unexpected error was told")
	}
}

// At the end there is a moment for what waits, also if it is in the middle of being written; what a
// sink does not take then is counted and said.
func TestLinesAtTheEnd(t *testing.T) {
	for _, repeat := range []bool{true, false} {
		hung := make(chan struct{})
		sink := &repeats{takes: func(ctx context.Context, call int) error {
			if call == 1 {
				close(hung)
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		registry := prometheus.NewRegistry()
		lines := decisionlines.New(sink, decisionlines.Options{Repeat: repeat}, time.Now, registry)
		lines.SetLast(20 * time.Millisecond)
		ctx, end := context.WithCancel(t.Context())
		var told []error
		var work sync.WaitGroup
		work.Go(func() { lines.Run(ctx, func(err error) { told = append(told, err) }) })
		decide(t, lines, 1)
		<-hung
		decide(t, lines, 2)
		end()
		work.Wait()
		if n := counted(t, registry); n != (counts{failed: 3}) || len(told) < 2 {
			t.Errorf("repeat %v: %+v, told %v", repeat, n, told)
		}
	}
}
