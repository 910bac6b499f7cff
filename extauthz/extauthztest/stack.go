package extauthz_test

import (
	"context"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"

	"tollgate/extauthz"
	"tollgate/policy"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/policy/policyfile"
	"tollgate/testdata"
)

// limit bounds every wait of a test.
const limit = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// require skips a test whose real part is missing, loudly, or fails it where CI
// says that the part must be there.
func require(t *testing.T, part, problem string) {
	t.Helper()
	if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), part) {
		t.Fatal(problem)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s", problem)
}

// clock is the injected time: the machine's own, moved by an offset.
type clock struct{ offset atomic.Int64 }

func (c *clock) Offset() time.Duration { return time.Duration(c.offset.Load()) }
func (c *clock) Now() time.Time        { return time.Now().Add(c.Offset()) }
func (c *clock) Set(t time.Time)       { c.offset.Store(int64(time.Until(t))) }

// backends are the stores that every script runs on.
func backends() []string { return []string{"embedded", "redis"} }

func newRedis(t *testing.T, backend string) *redis.Client {
	t.Helper()
	options := &redis.Options{MaxRetries: -1, ContextTimeoutEnabled: true}
	switch backend {
	case "embedded":
		// Not its connection in memory: that has no buffer, and a long pipeline waits for itself.
		options.Addr = miniredis.RunT(t).Addr()
	case "redis":
		options.Network, options.Addr = "unix", redistest.Start(t, redistest.SocketOnly).Socket
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return client
}

func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	end := time.After(limit)
	for !ready() {
		select {
		case <-ticker.C:
		case <-end:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// stack is a whole Tollgate: policies, store, gRPC server.
type stack struct {
	clock      *clock
	hasher     *keys.Hasher
	metrics    *extauthz.Metrics
	registry   *prometheus.Registry
	log        *logs
	addr       string
	authorizer *extauthz.Authorizer
	server     *extauthz.Server
	exact      bool           // limits are counted exactly
	lane       *extauthz.Lane // the latest of serveLane
	stores     *stores
}

// stores lets one server change its store between scripts.
type stores struct {
	keys   atomic.Pointer[keys.Cache]
	limits atomic.Pointer[counters.Leases]
}

var _ extauthz.KeyCache = (*stores)(nil)

func (s *stores) Lookup(ctx context.Context, d keys.Digest) (keys.Grant, error) {
	return s.keys.Load().Lookup(ctx, d)
}

func (s *stores) LookupFor(ctx context.Context, d keys.Digest, from keys.Caller) (keys.Grant, error) {
	return s.keys.Load().LookupFor(ctx, d, from)
}

func (s *stores) Find(d keys.Digest) (keys.Grant, error) { return s.keys.Load().Find(d) }

func (s *stores) Try(sp *limits.Spend, into *limits.Result) bool {
	return s.limits.Load().Try(sp, into)
}

func (s *stores) Spend(ctx context.Context, sp *limits.Spend) (limits.Result, error) {
	return s.limits.Load().Spend(ctx, sp)
}

// newStack serves policy files on a free port of the loopback.
func newStack(t *testing.T, change func(*extauthz.AuthorizerConfig), files ...policyfile.File) *stack {
	t.Helper()
	s := &stack{
		clock: &clock{}, hasher: keys.NewHasher([]byte("a pepper of the tests")),
		registry: prometheus.NewRegistry(), log: &logs{}, stores: &stores{},
	}
	s.metrics = extauthz.NewMetrics(s.registry)
	config := extauthz.AuthorizerConfig{
		Policies: extauthz.FixedPolicies(t, s.metrics, files...),
		Decider:  policy.NewDecider(s.hasher, limits.NewLocal(1, s.clock.Now, 100), s.clock.Now),
		Keys:     s.stores, Limits: s.stores, Metrics: s.metrics,
		Log: slog.New(slog.NewJSONHandler(s.log, nil)), Decisions: extauthz.LogAll,
		// Loaded test machines must not turn answers into undecided ones.
		Deadline: limit,
	}
	if change != nil {
		change(&config)
	}
	s.authorizer = extauthz.NewAuthorizer(config)
	s.serveGRPC(t, extauthz.Config{})
	return s
}

// serveGRPC serves the stack on another port than before.
func (s *stack) serveGRPC(t *testing.T, config extauthz.Config) {
	t.Helper()
	s.server = extauthz.New(s.authorizer, config)
	s.addr = serve(t, s.server)
}

func serve(t *testing.T, s *extauthz.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// metricsOf is what Prometheus gets.
func metricsOf(g prometheus.Gatherer) string {
	out := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(out, httptest.NewRequest("GET", "/metrics", nil))
	return out.Body.String()
}

// httpRefused is how often the HTTP server has counted a refusal for this reason.
func (s *stack) httpRefused(t *testing.T, why string) (n float64) {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "tollgate_http_lane_refused_total" && m.GetLabel()[0].GetValue() == why {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// use empties the store and seeds the keys.
func (s *stack) use(t *testing.T, client *redis.Client, entries []keys.Entry) {
	t.Helper()
	if err := client.FlushAll(within(t)).Err(); err != nil {
		t.Fatal(err)
	}
	store := keys.NewStore(client)
	s.stores.keys.Store(keys.NewCache(store, keys.CacheOptions{Timeout: limit}))
	began := time.Now()
	s.stores.limits.Store(counters.NewLeases(counters.NewStore(client, s.clock.Offset), counters.Options{
		Exact: s.exact, Timeout: limit, Clock: func() time.Duration { return time.Since(began) + s.clock.Offset() },
	}))
	// Seed forgets the secrets of what it is given.
	if _, err := store.Seed(within(t), slices.Clone(entries), s.hasher); err != nil {
		t.Fatal(err)
	}
}

func (s *stack) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	strict := grpc.ForceCodecV2(strictCodec{encoding.GetCodecV2("proto"), t})
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(strict))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// apiFiles reads one of the four APIs.
func apiFiles(t testing.TB, api string) (policyfile.File, []keys.Entry, []testdata.Block) {
	t.Helper()
	text, err := testdata.File(api, "policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := testdata.Keys(api)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := testdata.Script(api)
	if err != nil {
		t.Fatal(err)
	}
	return policyfile.File{Name: api + "/policy.yaml", Data: text}, entries, blocks
}
