package counters

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/limits"
)

// backend is one store under test. Its Stores share a clock that stands where at has put it; on a
// real Redis it runs on from there, so tests use fractions of .05 s and steps that a slow machine
// cannot carry over an edge.
type backend struct {
	network, addr string
	client        redis.UniversalClient // for the test's own commands: may do everything
	user          string                // that Stores act as on a real Redis: may do what a server may
	offset        atomic.Int64
	steps         atomic.Int64 // what the clock went forward by steps
	began         time.Time
	mini          *miniredis.Miniredis // nil on a real Redis
	stop          func()
	signal        func(os.Signal)
}

// eachBackend runs the same test body on the embedded store and on a real Redis.
func eachBackend(t *testing.T, body func(t *testing.T, b *backend)) {
	t.Run("embedded", func(t *testing.T) { body(t, startEmbedded(t)) })
	t.Run("redis", func(t *testing.T) { body(t, startRedis(t)) })
}

func startEmbedded(t testing.TB) *backend {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	// Its own clock is neither the wall's nor the tests': only TIME + offset may count.
	m.SetTime(embeddedClock())
	b := &backend{network: "tcp", addr: m.Addr(), mini: m, stop: m.Close}
	b.client = b.dial(t)
	return b
}

// embeddedClock is where the clock of the embedded store stands.
func embeddedClock() time.Time { return time.Date(2031, 5, 5, 5, 5, 5, 5000, time.UTC) }

// startRedis starts a Redis with these additions to its environment.
func startRedis(t testing.TB, environ ...string) *backend {
	t.Helper()
	server := redistest.Start(t, redistest.SocketOnly, environ...)
	server.AddUser(t, "server", connect.Join(connect.ConnectionACL(), ACL()).Rules())
	b := &backend{network: "unix", addr: server.Socket, stop: server.Stop, began: time.Now()}
	b.signal = func(s os.Signal) { _ = server.Process.Signal(s) }
	b.client = b.dial(t)
	b.user = "server"
	return b
}

func (b *backend) dial(t testing.TB) redis.UniversalClient {
	t.Helper()
	c := redis.NewClient(&redis.Options{
		Network: b.network, Addr: b.addr, MaxRetries: -1, ContextTimeoutEnabled: true, ReadTimeout: 20 * time.Second,
		Username: b.user, Password: b.user, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// empty takes all counters away, for the next example of a property: each begins without any, and
// looks at all there are at its end. The server is the test's own.
func (b *backend) empty(t fatal) {
	if err := b.client.FlushAll(context.Background()).Err(); err != nil {
		t.Fatalf("%v", err)
	}
}

// store returns a Store with its own connections: another replica.
func (b *backend) store(t testing.TB) *Store {
	t.Helper()
	return NewStore(b.dial(t), b.now)
}

func (b *backend) now() time.Duration { return time.Duration(b.offset.Load()) }

// leases returns Leases with their own connections: another replica. Their clock goes forward with
// that of the store, and never back.
func (b *backend) leases(t testing.TB, o Options) *Leases {
	t.Helper()
	o.Clock = b.monotonic
	o.Timeout = 20 * time.Second
	o.Wall = func() time.Time {
		if b.mini != nil {
			return embeddedClock().Add(b.now())
		}
		return time.Now().Add(b.now())
	}
	return NewLeases(b.store(t), o)
}

func (b *backend) monotonic() time.Duration {
	steps := time.Duration(b.steps.Load())
	if b.mini != nil {
		return steps // the clock stands
	}
	return steps + time.Since(b.began)
}

// at puts the clock to now.
func (b *backend) at(t testing.TB, now time.Time) {
	redisNow, err := b.client.Time(context.Background()).Result()
	if err != nil {
		t.Fatal(err)
	}
	if b.mini != nil {
		redisNow = embeddedClock()
	}
	offset := int64(now.Sub(redisNow))
	b.steps.Add(max(offset-b.offset.Swap(offset), 0))
}

// pass puts all clocks forward.
func (b *backend) pass(d time.Duration) {
	b.offset.Add(int64(d))
	b.steps.Add(int64(d))
}

// fatal is what *testing.T, *testing.B and *rapid.T share.
type fatal interface{ Fatalf(string, ...any) }

// spender is what Store and Leases share.
type spender interface {
	Spend(context.Context, *limits.Spend) (limits.Result, error)
}

// mustSpend spends as a server does.
func mustSpend(t fatal, s spender, sp *limits.Spend) limits.Result {
	var res limits.Result
	if l, ok := s.(*Leases); ok && l.Try(sp, &res) {
		return res
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := s.Spend(ctx, sp)
	if err != nil {
		t.Fatalf("Spend(%+v): %v", *sp, err)
	}
	return res
}

func clock(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// bounds is Window.Bounds in Unix seconds.
func bounds(w limits.Window, now int64) (start, end int64) {
	from, to := w.Bounds(time.Unix(now, 0))
	return from.Unix(), to.Unix()
}
