package server_test

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/cmd/tollgate/server"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/connect"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/standing"
)

// well is a store with which nothing is wrong.
func well() standing.State {
	return standing.State{Reached: true, Fits: true, Answered: time.Now()}
}

// What /readyz says of the store, and that /livez says nothing of it.
func TestReadyzTellsOfTheStore(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	away := errors.New("connection refused")
	for what, c := range map[string]struct {
		state   standing.State
		policy  string
		code    int
		says    []string
		problem string
	}{
		"well":                       {standing.State{Reached: true, Fits: true, Answered: now}, "closed", 200, []string{"ok\n"}, ""},
		"never reached":              {standing.State{Silent: away}, "closed", 503, []string{"not ready: the store has not been reached since the start\n", "store: not reachable: connection refused\n"}, "unreached"},
		"wrong pepper":               {standing.State{Reached: true, Answered: now, Pepper: standing.ErrPepper}, "closed", 503, []string{"not ready: the pepper", "\nkeys: the keys in the store are hashed with another pepper"}, "pepper"},
		"wrong pepper later":         {standing.State{Reached: true, Fits: true, Answered: now, Pepper: standing.ErrPepper}, "closed", 200, []string{"ok\n", "\nkeys: the keys", "what it does not find is undecided"}, "pepper"},
		"emptied":                    {standing.State{Reached: true, Fits: true, Answered: now, Emptied: true}, "closed", 503, []string{"not ready: the store was emptied\n", "tollgate store accept-empty"}, "emptied"},
		"an outage":                  {standing.State{Reached: true, Fits: true, Answered: now.Add(-7*time.Minute - time.Second), Silent: away}, "closed", 200, []string{"ok\n", "store: not reachable, last heard 421.0 s ago: connection refused\n"}, "silent"},
		"an outage beyond stale_for": {standing.State{Reached: true, Fits: true, Answered: now.Add(-7*time.Minute - 2*time.Second), Silent: away}, "closed", 503, []string{"not ready: the store has been away for longer than"}, "silent"},
		"no writes for a moment":     {standing.State{Reached: true, Fits: true, Answered: now, Writes: errors.New("OOM x")}, "closed", 200, []string{"ok\n", "store: takes no writes: OOM x\n"}, "writes"},
		"no writes":                  {standing.State{Reached: true, Fits: true, Answered: now, Writes: errors.New("OOM x"), Refuses: true}, "closed", 503, []string{"not ready: the store takes no writes, and by every plan"}, "writes"},
		"no writes, a plan is open":  {standing.State{Reached: true, Fits: true, Answered: now, Writes: errors.New("OOM x"), Refuses: true}, "open", 200, []string{"ok\n", "store: takes no writes: OOM x\n"}, "writes"},
		"eviction":                   {standing.State{Reached: true, Fits: true, Answered: now, Evicts: "allkeys-lru"}, "closed", 200, []string{"ok\n", "store: drops keys and counters", "(maxmemory-policy allkeys-lru)"}, "evicts"},
		"not to be seen":             {standing.State{Reached: true, Fits: true, Answered: now, Unseen: errors.New("NOPERM x")}, "closed", 200, []string{"ok\n", "store: its user may not see", "NOPERM x\n"}, "unseen"},
	} {
		file := extauthztest.SmallFile("errors:", "stale_for: 7m\nerrors:")
		if c.policy == "open" {
			file = extauthztest.SmallFile("errors:", "stale_for: 7m\nerrors:", "{name: basic, ", "{name: basic, failure_mode: open, ")
		}
		registry := prometheus.NewRegistry()
		st := &server.Status{
			Policies: extauthztest.FixedPolicies(t, extauthz.NewMetrics(registry), file), Gatherer: registry, Store: "redis",
			Standing: func() standing.State { return c.state }, Now: func() time.Time { return now },
		}
		server.RegisterStanding(registry, st)
		page := func(path string) (int, string) {
			out := httptest.NewRecorder()
			st.Handler().ServeHTTP(out, httptest.NewRequest("GET", path, nil))
			return out.Code, out.Body.String()
		}
		code, body := page("/readyz")
		if code != c.code {
			t.Errorf("%s: %d %s", what, code, body)
		}
		for _, says := range c.says {
			if !strings.Contains(body, says) {
				t.Errorf("%s: %s\nwant %s", what, body, says)
			}
		}
		if code, body := page("/livez"); code != 200 || body != "ok\n" {
			t.Errorf("%s: /livez %d %s", what, code, body)
		}
		_, metrics := page("/metrics")
		for _, problem := range []string{"unreached", "silent", "pepper", "emptied", "writes", "evicts", "unseen"} {
			want := " 0"
			if problem == c.problem {
				want = " 1"
			}
			if line := `tollgate_store_problem{problem="` + problem + `"}`; !strings.Contains(metrics, line+want) && problem != "silent" {
				t.Errorf("%s: not %s%s", what, line, want)
			}
		}
		if ready := strings.Contains(metrics, "\ntollgate_ready 1\n"); ready != (c.code == 200) {
			t.Errorf("%s: tollgate_ready 1: %t", what, ready)
		}
	}
}

// A policy file that is refused is named, and takes nothing out of service; a server that
// leaves says so.
func TestReadyzTellsOfThePolicy(t *testing.T) {
	dir, registry := t.TempDir(), prometheus.NewRegistry()
	file := extauthztest.WriteFile(t, filepath.Join(dir, "small.yaml"), extauthztest.SmallFile().Data)
	policies, err := extauthz.LoadPolicies(dir, slog.New(slog.DiscardHandler), extauthz.NewMetrics(registry), nil)
	if err != nil {
		t.Fatal(err)
	}
	st := &server.Status{Policies: policies, Gatherer: registry, Store: "embedded", Standing: func() standing.State {
		return standing.State{Reached: true, Fits: true, Answered: time.Now(), Silent: errors.New("away")}
	}}
	has := func(path string, code int, texts ...string) {
		t.Helper()
		out := httptest.NewRecorder()
		st.Handler().ServeHTTP(out, httptest.NewRequest("GET", path, nil))
		if out.Code != code {
			t.Errorf("%s: %d", path, out.Code)
		}
		for _, text := range texts {
			if !strings.Contains(out.Body.String(), text) {
				t.Errorf("%s does not say %q:\n%s", path, text, out.Body)
			}
		}
	}
	extauthztest.WriteFile(t, file, extauthztest.SmallFile("per: minute", "per: fortnight").Data)
	policies.Refresh(time.Now())
	has("/readyz", 200, "ok\n", "small.yaml:11:59", `unknown unit "fortnight"`, "store: embedded", "store: not reachable, last heard 0.0 s ago: away")
	has("/metrics", 200, "tollgate_policy_rejected 1")
	extauthztest.WriteFile(t, file, extauthztest.SmallFile().Data)
	policies.Refresh(time.Now())
	has("/metrics", 200, "tollgate_policy_rejected 0", "tollgate_policy_apis 1")
	has("/livez", 200, "ok")
	st.Drain()
	has("/readyz", 503, "draining")
	has("/livez", 200, "ok")
}

// What the store is not asked for the moment is named, with why.
func TestReadyzTellsOfTheBreaker(t *testing.T) {
	breaker := connect.NewBreaker(func(connect.BreakerChange) {})
	for range 10 {
		_ = breaker.Do(connect.Spend, "node 1", func() error { return errors.New("no answer") })
	}
	st := &server.Status{
		Policies: extauthztest.FixedPolicies(t, extauthz.NewMetrics(prometheus.NewRegistry()), extauthztest.SmallFile()), Breaker: breaker, Standing: well,
	}
	out := httptest.NewRecorder()
	st.Handler().ServeHTTP(out, httptest.NewRequest("GET", "/readyz", nil))
	if want := "\nstore: spend fails and is tried four times a second: node 1: no answer\n"; out.Code != 200 || !strings.Contains(out.Body.String(), want) {
		t.Errorf("%d %s", out.Code, out.Body)
	}
}

func TestReadyzTellsOfTheStream(t *testing.T) {
	registry := prometheus.NewRegistry()
	st := &server.Status{
		Policies: extauthztest.FixedPolicies(t, extauthz.NewMetrics(registry), extauthztest.SmallFile()), Gatherer: registry,
		Standing: well,
	}
	for want, s := range map[string]cache.StreamStatus{
		"key changes: listening, last heard 0.5 s ago\n":                                         {Listening: true, Silent: time.Second / 2},
		"key changes: not listening, changes are seen after the cache's TTL: connection refused": {Problem: "connection refused"},
		"key changes: connecting\n":                                                              {},
	} {
		st.Stream = func() cache.StreamStatus { return s }
		out := httptest.NewRecorder()
		st.Handler().ServeHTTP(out, httptest.NewRequest("GET", "/readyz", nil))
		if out.Code != 200 || !strings.Contains(out.Body.String(), want) {
			t.Errorf("%d %s, want %s", out.Code, out.Body, want)
		}
	}
}
