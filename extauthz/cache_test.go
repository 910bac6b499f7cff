package extauthz_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
)

// spends allows everything, and remembers whether it was asked.
func spends(context.Context) (limits.Result, error) {
	return limits.Result{Allowed: true, Now: time.Now(), States: make([]limits.State, 1)}, nil
}

// spender is a Spender made of a function.
type spender func(context.Context) (limits.Result, error)

func (s spender) Try(*limits.Spend, *limits.Result) bool { return false }

func (s spender) Spend(ctx context.Context, _ *limits.Spend) (limits.Result, error) { return s(ctx) }

type touches chan int

func (t touches) Touch(_ context.Context, uses []store.Use) error {
	t <- len(uses)
	return nil
}

func gatewayCode(resp *authv3.CheckResponse) int {
	if resp.GetStatus().GetCode() == 0 {
		return 200
	}
	return int(resp.GetDeniedResponse().GetStatus().GetCode())
}

// A key in memory needs no store, is counted as a hit, and its use is noted.
func TestCachedKey(t *testing.T) {
	client := extauthztest.NewRedis(t, "embedded")
	registry := prometheus.NewRegistry()
	metrics := extauthz.NewMetrics(registry)
	grants := cache.New(store.New(client), cache.Options{Timeout: extauthztest.Limit, Changed: metrics.KeyChanged})
	written := make(touches, 1)
	usage := cache.NewUsage(written, 10, time.Now)
	extauthz.RegisterCache(registry, grants, usage)
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		c.Keys, c.Limits, c.Usage = grants, spender(spends), usage
	}, extauthztest.SmallFile())
	secret, entries := extauthztest.SmallKey()
	if _, err := admin.Seed(extauthztest.Within(t), store.New(client), entries, s.Hasher); err != nil {
		t.Fatal(err)
	}
	envoy := authv3.NewAuthorizationClient(s.Dial(t))
	ask := func(want int) {
		t.Helper()
		resp, err := envoy.Check(extauthztest.Within(t), extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		if err != nil || gatewayCode(resp) != want {
			t.Errorf("%v, %v, want %d", resp, err, want)
		}
	}
	ask(200)
	client.Close()
	ask(200)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	usage.Run(ctx, nil)
	if len(written) != 1 {
		t.Error("the use is not written")
	}
	metrics.BreakerChanged(connect.BreakerChange{Operation: connect.Spend, Open: true})
	metrics.KeyChanged(20 * time.Millisecond)
	out := extauthztest.MetricsOf(registry)
	for _, line := range []string{
		`tollgate_key_lookups_total{outcome="hit"} 1`, `tollgate_key_lookups_total{outcome="miss"} 1`,
		`tollgate_key_lookups_total{outcome="stale"} 0`, `tollgate_key_cache_entries{kind="key"} 1`,
		"tollgate_key_stream_up 0", `tollgate_store_breaker_open{operation="spend"} 1`, `tollgate_store_breaker_open{operation="lookup"} 0`, "tollgate_key_change_delay_seconds_count 1",
		`tollgate_key_age_days_count{api="small"} 1`, `tollgate_key_age_days_bucket{api="small",le="90"} 0`,
	} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("no %s in\n%s", line, out)
		}
	}
	metrics.BreakerChanged(connect.BreakerChange{Operation: connect.Spend})
}

func TestStaleForFollowsThePolicy(t *testing.T) {
	p := extauthztest.FixedPolicies(t, extauthz.NewMetrics(prometheus.NewRegistry()), extauthztest.SmallFile("errors:", "stale_for: 7m\nerrors:"))
	if p.StaleFor("small") != 7*time.Minute || p.StaleFor("other") != 0 {
		t.Errorf("%v, %v", p.StaleFor("small"), p.StaleFor("other"))
	}
}

// A store that does not answer is asked ten times, not by every check.
func TestSpendsBehindTheBreaker(t *testing.T) {
	var asked atomic.Int64
	away := func(context.Context) (limits.Result, error) {
		asked.Add(1)
		return limits.Result{}, errors.New("connection refused")
	}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		c.Keys, c.Limits, c.Breaker = extauthztest.BrokenStore{OnLookup: extauthztest.Found}, spender(away), connect.NewBreaker(nil)
	}, extauthztest.SmallFile())
	envoy := authv3.NewAuthorizationClient(s.Dial(t))
	secret, _ := extauthztest.SmallKey()
	for range 30 {
		resp, err := envoy.Check(extauthztest.Within(t), extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		if err != nil || gatewayCode(resp) != 500 {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	// One more for each quarter of a second that the test takes.
	if n := asked.Load(); n < 10 || n > 20 {
		t.Errorf("asked %d times", n)
	}
	if lines := strings.Count(s.Log.String(), "limits not spent"); int64(lines) != asked.Load() {
		t.Errorf("%d lines for %d questions", lines, asked.Load())
	}
}

// What is refused because the store is not asked fills no log.
func TestBusyAndDownAreNotLogged(t *testing.T) {
	for _, err := range []error{keys.ErrBusy, connect.ErrStoreDown} {
		lookup := func(context.Context) (keys.Grant, error) { return keys.Grant{}, err }
		s, resp, rpc := extauthztest.AskBroken(t, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: lookup}, nil)
		if rpc != nil || gatewayCode(resp) != 500 || strings.Contains(s.Log.String(), "look-up failed") {
			t.Errorf("%v: %v, %v, log %s", err, resp, rpc, s.Log)
		}
	}
}

// A key that is found by an older method is handed on to be rehashed, once its
// request is allowed.
func TestKeysUnderAnOlderPepper(t *testing.T) {
	older := keys.Method{Pepper: []byte("older")}
	hasher := keys.NewHasher([]byte("newer"), older)
	secret, entries := extauthztest.SmallKey()
	client := extauthztest.NewRedis(t, "embedded")
	if _, err := admin.Seed(extauthztest.Within(t), store.New(client), entries, keys.NewHasher(older.Pepper)); err != nil {
		t.Fatal(err)
	}
	type call struct {
		id       string
		from, to keys.Digest
	}
	calls := make(chan call, 10)
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		c.Decider = policy.NewDecider(hasher, limits.NewLocal(1, time.Now, 10), time.Now)
		c.Keys = cache.New(store.New(client), cache.Options{Timeout: extauthztest.Limit})
		c.Limits = spender(spends)
		c.Rehash = func(id string, from, to keys.Digest) { calls <- call{id, from, to} }
	}, extauthztest.SmallFile())
	envoy := authv3.NewAuthorizationClient(s.Dial(t))
	for path, want := range map[string]int{"/items/1": 200, "/nothing": 403} {
		resp, err := envoy.Check(extauthztest.Within(t), extauthztest.Get(path, map[string]string{"authorization": "Bearer " + secret}))
		if err != nil || gatewayCode(resp) != want {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
	}
	if want := (call{"key_small", hasher.OlderDigest(0, secret), hasher.Digest(secret)}); len(calls) != 1 || <-calls != want {
		t.Error("not handed on, or the request that was refused too")
	}
}

// The change of a key reaches a running server by its stream.
func TestRevocationReachesTheServer(t *testing.T) {
	client := extauthztest.NewRedis(t, "redis")
	grants := cache.New(store.New(client), cache.Options{Timeout: extauthztest.Limit, TTL: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); grants.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	extauthztest.Eventually(t, "the stream is up", func() bool { return grants.Stream().Listening })
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Keys, c.Limits = grants, spender(spends) }, extauthztest.SmallFile())
	secret, entries := extauthztest.SmallKey()
	if _, err := admin.Seed(extauthztest.Within(t), store.New(client), entries, s.Hasher); err != nil {
		t.Fatal(err)
	}
	envoy := authv3.NewAuthorizationClient(s.Dial(t))
	code := func() int {
		resp, err := envoy.Check(extauthztest.Within(t), extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		if err != nil {
			t.Fatal(err)
		}
		return gatewayCode(resp)
	}
	for range 2 { // read, then cached
		if code() != 200 {
			t.Fatal("the key does not work")
		}
	}
	record, err := client.Get(extauthztest.Within(t), "tg:v1:key:{key_small}").Result()
	if err != nil {
		t.Fatal(err)
	}
	// Nobody knows a message of this form; every key is read again.
	script := redis.NewScript(`redis.call('SET', KEYS[1], ARGV[1]) return redis.call('PUBLISH', 'tg:v1:changes', 'all')`)
	revoked := strings.Replace(record, `"status":"active"`, `"status":"revoked"`, 1)
	if n, err := script.Run(extauthztest.Within(t), client, []string{"tg:v1:key:{key_small}"}, revoked).Int(); err != nil || n != 1 {
		t.Fatalf("%d subscribers, %v", n, err)
	}
	extauthztest.Eventually(t, "the key is refused", func() bool { return code() == 401 })
}
