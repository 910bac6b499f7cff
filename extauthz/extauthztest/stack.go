// Package extauthztest puts the servers on a store for tests, and runs the scripts of the
// APIs against them. Only tests import it.
package extauthztest

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
	"tollgate/extauthz/grpcserver"
	"tollgate/extauthz/httpserver"
	"tollgate/policy"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/policy/policyfile"
	"tollgate/testdata"
)

// Limit bounds every wait of a test.
const Limit = 20 * time.Second

// Within returns a context that ends in time.
func Within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	t.Cleanup(cancel)
	return ctx
}

// Require skips a test whose real part is missing, loudly, or fails it where CI
// says that the part must be there.
func Require(t *testing.T, part, problem string) {
	t.Helper()
	if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), part) {
		t.Fatal(problem)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s", problem)
}

// Clock is the injected time: the machine's own, moved by an offset.
type Clock struct{ offset atomic.Int64 }

// Offset is how far the clock is ahead of the machine's.
func (c *Clock) Offset() time.Duration { return time.Duration(c.offset.Load()) }

// Now returns the injected time.
func (c *Clock) Now() time.Time { return time.Now().Add(c.Offset()) }

// Set moves the clock.
func (c *Clock) Set(t time.Time) { c.offset.Store(int64(time.Until(t))) }

// Backends are the stores that every script runs on.
func Backends() []string { return []string{"embedded", "redis"} }

// NewRedis returns a client of an empty store, embedded or redis.
func NewRedis(t *testing.T, backend string) *redis.Client {
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

// Eventually waits until ready says so.
func Eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	redistest.Await(t, what, func(context.Context) bool { return ready() })
}

// Stack is a whole Tollgate: policies, store, gRPC server.
type Stack struct {
	Clock      *Clock
	Hasher     *keys.Hasher
	Metrics    *extauthz.Metrics
	Registry   *prometheus.Registry
	Log        *Logs
	Addr       string
	Authorizer *extauthz.Authorizer
	GRPC       *grpcserver.Server
	Exact      bool               // limits are counted exactly
	Logged     bool               // an access log tells when requests end; else each ends with its answer
	HTTP       *httpserver.Server // the latest of ServeHTTP
	// Beside has as many requests like a block's under way as that says, until end is called; nil
	// asks as many times before it ends any.
	Beside func(t *testing.T, b *testdata.Block) (end func())
	stores *stores
	tokens *tokenMaker // nil where no policy takes tokens
}

// stores lets one server change its store between scripts.
type stores struct {
	keys   atomic.Pointer[cache.Cache]
	limits atomic.Pointer[counters.Leases]
	slots  slots
	holds  atomic.Uint64 // since Use
}

var _ extauthz.KeyCache = (*stores)(nil)

// Lookup implements extauthz.KeyFinder.
func (s *stores) Lookup(ctx context.Context, d keys.Digest) (keys.Grant, error) {
	return s.keys.Load().Lookup(ctx, d)
}

// LookupFor implements extauthz.KeyCache.
func (s *stores) LookupFor(ctx context.Context, d keys.Digest, from keys.Caller) (keys.Grant, error) {
	return s.keys.Load().LookupFor(ctx, d, from)
}

// Find implements extauthz.KeyCache.
func (s *stores) Find(d keys.Digest) (keys.Grant, error) { return s.keys.Load().Find(d) }

// Try implements extauthz.Spender.
func (s *stores) Try(sp *limits.Spend, into *limits.Result) bool {
	return s.limits.Load().Try(sp, into)
}

// Spend implements extauthz.Spender.
func (s *stores) Spend(ctx context.Context, sp *limits.Spend) (limits.Result, error) {
	res, err := s.limits.Load().Spend(ctx, sp)
	if err == nil && res.Allowed {
		s.slots.took(sp)
	}
	return res, err
}

// Hold is what an access log is followed by.
func (s *stores) Hold(limitID, slot string, hold time.Duration) {
	if l := s.limits.Load(); l != nil { // else no store was ever used
		s.holds.Add(1)
		l.Hold(limitID, slot, hold)
	}
}

// NewStack serves policy files on a free port of the loopback.
func NewStack(t *testing.T, change func(*extauthz.Config), files ...policyfile.File) *Stack {
	t.Helper()
	s := &Stack{
		Clock: &Clock{}, Hasher: keys.NewHasher([]byte("a pepper of the tests")),
		Registry: prometheus.NewRegistry(), Log: &Logs{}, stores: &stores{},
	}
	s.Metrics = extauthz.NewMetrics(s.Registry)
	config := extauthz.Config{
		Policies: FixedPolicies(t, s.Metrics, files...),
		Decider:  policy.NewDecider(s.Hasher, limits.NewLocal(1, s.Clock.Now, 100), s.Clock.Now),
		Keys:     s.stores, Limits: s.stores, Metrics: s.Metrics,
		Log: slog.New(slog.NewJSONHandler(s.Log, nil)), Decisions: extauthz.LogAll,
		// Loaded test machines must not turn answers into undecided ones.
		Deadline: Limit,
	}
	if change != nil {
		change(&config)
	}
	s.takeTokens(t, &config)
	s.Authorizer = extauthz.New(config)
	s.ServeGRPC(t, grpcserver.Config{})
	return s
}

// ServeGRPC serves the stack on another port than before.
func (s *Stack) ServeGRPC(t *testing.T, config grpcserver.Config) {
	t.Helper()
	s.GRPC = grpcserver.New(s.Authorizer, config)
	s.Addr = serve(t, s.GRPC)
}

func serve(t *testing.T, s *grpcserver.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// MetricsOf is what Prometheus gets.
func MetricsOf(g prometheus.Gatherer) string {
	out := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(out, httptest.NewRequest("GET", "/metrics", nil))
	return out.Body.String()
}

// HTTPRefused is how often the HTTP server has counted a refusal for this reason.
func (s *Stack) HTTPRefused(t *testing.T, why string) (n float64) {
	t.Helper()
	families, err := s.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "tollgate_http_refused_total" && m.GetLabel()[0].GetValue() == why {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// Use seeds the keys into a store, which is empty, and has the servers ask it from now on.
func (s *Stack) Use(t *testing.T, client *redis.Client, entries []keyfile.Entry) {
	t.Helper()
	store := s.Join(t, client)
	// Seed forgets the secrets of what it is given.
	if _, err := admin.Seed(Within(t), store, slices.Clone(entries), s.Hasher); err != nil {
		t.Fatal(err)
	}
}

// Join uses a store as it is.
func (s *Stack) Join(t *testing.T, client *redis.Client) *store.Store {
	t.Helper()
	s.stores.slots.end()
	s.stores.holds.Store(0)
	store := store.New(client)
	s.stores.keys.Store(cache.New(store, cache.Options{Timeout: Limit}))
	began := time.Now()
	s.stores.limits.Store(counters.NewLeases(counters.NewStore(client, s.Clock.Offset), counters.Options{
		Exact: s.Exact, Timeout: Limit, Clock: func() time.Duration { return time.Since(began) + s.Clock.Offset() },
	}))
	return store
}

// Dial connects to the gRPC server, and checks each of its replies.
func (s *Stack) Dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	strict := grpc.ForceCodecV2(strictCodec{encoding.GetCodecV2("proto"), t})
	conn, err := grpc.NewClient(s.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(strict))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// APIFiles reads one of the four APIs.
func APIFiles(t testing.TB, api string) (policyfile.File, []keyfile.Entry, []testdata.Block) {
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
