package envoy_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
)

// tally counts the allowed requests of which access logs tell the end.
type tally struct{ ended atomic.Int64 }

// Observed implements extauthz.Observer.
func (c *tally) Observed(e *extauthz.AccessLogEntry) {
	if e.Reason == "allowed" && !e.Periodic {
		c.ended.Add(1)
	}
}

// lossForm is how hard it is tried to lose entries: some hundred requests a second, for a few
// seconds; with TOLLGATE_LOSS=full (make test-log-loss) for minutes, at 2.5 times the rate.
type lossForm struct {
	clients, each int           // requests of one in a second
	age           time.Duration // of connections and streams
}

func lossFormOf() lossForm {
	if os.Getenv("TOLLGATE_LOSS") == "full" {
		return lossForm{25, 40, 5 * time.Second}
	}
	return lossForm{10, 40, time.Second / 2}
}

// load is an Envoy under load, in front of servers that share a stack.
type load struct {
	envoy   *envoytest.Envoy
	tally   *tally
	store   *redis.Client
	stop    func()
	stopped sync.WaitGroup
	allowed atomic.Int64
	failed  atomic.Int64
}

// putLoad makes requests through an Envoy, until stop. Each takes a slot, which is to be released.
func putLoad(t *testing.T, s *extauthztest.Stack, log *tally, tollgate string) *load {
	t.Helper()
	secret, entries := extauthztest.SmallKey()
	store := extauthztest.NewRedis(t, "redis")
	s.Use(t, store, entries)
	binary, err := findEnvoy(envoyVersions()[0])
	if err != nil {
		extauthztest.Require(t, "envoy", err.Error())
	}
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() })
	l := &load{tally: log, store: store}
	l.envoy, err = envoytest.Start(extauthztest.Within(t), envoytest.Settings{
		Binary: binary, Bootstrap: bootstrap(t), Tollgate: tollgate, Upstream: upstream.Addr(), CheckTimeout: extauthztest.Limit, AccessLog: "/dev/null",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.envoy.Stop() })
	form := lossFormOf()
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: form.clients}}
	t.Cleanup(client.CloseIdleConnections)
	for range form.clients {
		l.stopped.Go(func() {
			tick := time.NewTicker(time.Second / time.Duration(form.each))
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					l.send(client, secret)
				}
			}
		})
	}
	return l
}

func (l *load) send(client *http.Client, secret string) {
	req, err := http.NewRequest("GET", "http://"+l.envoy.Addr()+"/items/1", nil)
	if err != nil {
		panic(err)
	}
	req.Host = "small.test"
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := client.Do(req)
	if err != nil {
		l.failed.Add(1)
		return
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		l.failed.Add(1)
		return
	}
	l.allowed.Add(1)
}

// stat is a counter or a gauge of Envoy.
func (l *load) stat(t *testing.T, name string) (n int) {
	t.Helper()
	resp, err := http.Get("http://" + l.envoy.Admin() + "/stats?filter=^" + name + "$")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := fmt.Fscanf(resp.Body, name+": %d", &n); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// held is how many slots are not released.
func (l *load) held(t *testing.T) int64 {
	t.Helper()
	n, err := l.store.ZCard(t.Context(), "tg:v1:slots:{key_small}").Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// end ends the load, and fails if over 0.1 % of the entries were lost, or of the releases.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.stopped.Wait()
	allowed := l.allowed.Load()
	// The last ones come after buffer_flush_interval.
	tick, over := time.NewTicker(2*time.Millisecond), time.After(3*time.Second)
	defer tick.Stop()
	for waiting := true; waiting && (l.tally.ended.Load() < allowed || l.held(t) > 0); {
		select {
		case <-tick.C:
		case <-over:
			waiting = false
		}
	}
	lost, held := allowed-l.tally.ended.Load(), l.held(t)
	t.Logf("%d allowed requests, the end of %d is not known, %d slots are not released; %d requests failed", allowed, lost, held, l.failed.Load())
	if max(lost, held)*1000 > allowed || allowed < 1000 {
		t.Errorf("%d of %d lost, %d not released", lost, allowed, held)
	}
}

// logStack is a stack whose key has no limit to speak of, and counts requests under way.
func logStack(t *testing.T) (*extauthztest.Stack, *tally) {
	t.Helper()
	log := &tally{}
	return extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer, c.Decisions = log, extauthz.LogNone },
		extauthztest.SmallFile("requests: 5", "requests: 100000000", "{name: basic,", "{name: basic, concurrent: 1000,",
			"plans:\n", "concurrency: {max_duration: 10m}\nplans:\n", "quota_exceeded]", "quota_exceeded, concurrency_exceeded]")), log
}

// Connections and streams end all the time, so that Envoys spread over new replicas.
func TestAgesLoseNoEntries(t *testing.T) {
	age := lossFormOf().age
	for _, c := range []struct {
		name                   string
		config                 grpcserver.Config
		connections, logStream int // at least, and at most 10 more
	}{
		{"connections", grpcserver.Config{ConnectionAge: age}, 20, 1},
		{"connections and streams", grpcserver.Config{ConnectionAge: age, LogStreamAge: age}, 20, 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, log := logStack(t)
			s.ServeGRPC(t, c.config)
			l := putLoad(t, s, log, s.Addr)
			for n := range c.connections {
				extauthztest.Eventually(t, "the next of 20 connections", func() bool { return l.stat(t, "cluster.tollgate.upstream_cx_total") > n+1 })
			}
			l.end(t)
			states := s.GRPC.AccessLogs()
			if len(states) != 1 || states[0].Opened < c.logStream || states[0].Opened > c.logStream+15 {
				t.Errorf("streams: %+v", states)
			}
		})
	}
}

// replica is a server of a stack that is restarted on its address.
type replica struct {
	server *grpcserver.Server
	addr   string
	ended  chan error
}

func (r *replica) start(t *testing.T, s *extauthztest.Stack) {
	t.Helper()
	l, err := net.Listen("tcp", cmp.Or(r.addr, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	r.addr, r.server, r.ended = l.Addr().String(), grpcserver.New(s.Authorizer, grpcserver.Config{}), make(chan error, 1)
	go func() { r.ended <- r.server.Serve(l) }()
}

func (r *replica) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), extauthztest.Limit)
	defer cancel()
	r.server.Shutdown(ctx)
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

func TestRollingRestartsLoseNoEntries(t *testing.T) {
	s, log := logStack(t)
	replicas := []*replica{{}, {}}
	for _, r := range replicas {
		r.start(t, s)
		defer func() { r.stop(t) }()
	}
	l := putLoad(t, s, log, replicas[0].addr+","+replicas[1].addr)
	healthy := func(n int) {
		t.Helper()
		extauthztest.Eventually(t, fmt.Sprintf("%d healthy replicas", n), func() bool { return l.stat(t, "cluster.tollgate.membership_healthy") == n })
	}
	for range 3 {
		for _, r := range replicas {
			healthy(2)
			before := l.allowed.Load()
			extauthztest.Eventually(t, "some requests", func() bool { return l.allowed.Load() > before+100 })
			r.server.Drain()
			healthy(1)
			r.stop(t)
			r.start(t, s)
		}
	}
	healthy(2)
	l.end(t)
	if !strings.Contains(extauthztest.MetricsOf(s.Registry), "tollgate_access_log_entries_total{kind=\"malformed\"} 0\n") {
		t.Error("a message was cut")
	}
}
