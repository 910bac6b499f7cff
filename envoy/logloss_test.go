package envoy_test

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
)

// tally counts the decisions that access logs tell of.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *tally) Observed(e *extauthz.AccessLogEntry) {
	if e.Periodic || e.Reason != "allowed" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[strings.Clone(e.DecisionID)]++
}

func (c *tally) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

// send makes requests at a rate until ctx ends, and returns how many were allowed.
func send(ctx context.Context, t *testing.T, addr, secret string, rate int) int64 {
	t.Helper()
	var ok, bad atomic.Int64
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	const workers = 16
	for range workers {
		wg.Go(func() {
			tick := time.NewTicker(time.Second * workers / time.Duration(rate))
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				req, _ := http.NewRequest("GET", "http://"+addr+"/items/1", nil)
				req.Host = "small.test"
				req.Header.Set("Authorization", "Bearer "+secret)
				resp, err := client.Do(req)
				if err != nil {
					bad.Add(1)
					continue
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == 200 {
					ok.Add(1)
				} else {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if bad.Load() > 0 {
		t.Logf("%d requests were not answered with 200", bad.Load())
	}
	return ok.Load()
}

func env(name string, d int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return d
}

func TestExplore(t *testing.T) {
	file := extauthztest.SmallFile("requests: 5", "requests: 100000000")
	log := &tally{seen: map[string]int{}}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = log; c.Decisions = extauthz.LogNone }, file)
	age := time.Duration(env("AGE", 1000)) * time.Millisecond
	s.ServeGRPC(t, grpcserver.Config{ConnectionAge: age, LogStreamAge: time.Duration(env("LOGAGE", 0)) * time.Millisecond})
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	boot := string(bootstrap(t))
	if v := os.Getenv("SIZE"); v != "" {
		boot = strings.Replace(boot, "buffer_size_bytes: 1048576", "buffer_size_bytes: "+v, 1)
	}
	if v := os.Getenv("FLUSH"); v != "" {
		boot = strings.Replace(boot, "buffer_flush_interval: 0.05s", "buffer_flush_interval: "+v, 1)
	}
	if os.Getenv("RETRY") == "0" {
		boot = strings.Replace(boot, "grpc_stream_retry_policy: {num_retries: 3}", "", 1)
	}
	bin, err := findEnvoy(envoyVersions()[0])
	if err != nil {
		t.Fatal(err)
	}
	upstream, _ := envoytest.Serve("127.0.0.1:0")
	defer upstream.Close()
	e, err := envoytest.Start(t.Context(), envoytest.Settings{Binary: bin, Bootstrap: []byte(boot), Tollgate: s.Addr, Upstream: upstream.Addr(), CheckTimeout: extauthztest.Limit, AccessLog: "/dev/null"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*age)
	defer cancel()
	sent := send(ctx, t, e.Addr(), secret, env("RATE", 500))
	defer func() { t.Log("LOG", e.Log()) }()
	time.Sleep(1500 * time.Millisecond)
	t.Logf("allowed %d, observed %d, lost %d = %.3f %%", sent, log.count(), int(sent)-log.count(), 100*float64(int(sent)-log.count())/float64(sent))
	stats, _ := http.Get("http://" + e.Admin() + "/stats?filter=access_logs|cluster.tollgate.upstream_cx_total|upstream_rq_total|cluster.tollgate.*reset|remote_close|cx_destroy")
	b, _ := io.ReadAll(stats.Body)
	t.Logf("%s", b)
	m := extauthztest.MetricsOf(s.Registry)
	for l := range strings.Lines(m) {
		if strings.Contains(l, "access_log_entries") && !strings.Contains(l, " 0\n") || strings.Contains(l, "lag_seconds_") {
			t.Log(strings.TrimSpace(l))
		}
	}
}

// replica is a server of a stack that is restarted.
type replica struct {
	server *grpcserver.Server
	ended  chan error
	addr   string
}

func (r *replica) start(t *testing.T, s *extauthztest.Stack) {
	t.Helper()
	l, err := net.Listen("tcp", cmp.Or(r.addr, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	r.server, r.ended = grpcserver.New(s.Authorizer, grpcserver.Config{}), make(chan error, 1)
	go func() { r.ended <- r.server.Serve(l) }()
}

func stat(t *testing.T, e *envoytest.Envoy, name string) int {
	resp, err := http.Get("http://" + e.Admin() + "/stats?filter=^" + name + "$")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	_, v, _ := strings.Cut(strings.TrimSpace(string(b)), ": ")
	n, _ := strconv.Atoi(v)
	return n
}

func TestExploreRestarts(t *testing.T) {
	file := extauthztest.SmallFile("requests: 5", "requests: 100000000")
	log := &tally{seen: map[string]int{}}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = log; c.Decisions = extauthz.LogNone }, file)
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	replicas := []*replica{{}, {}}
	var addrs []string
	for _, r := range replicas {
		r.start(t, s)
		addrs = append(addrs, r.addr)
	}
	boot := string(bootstrap(t))
	if v := os.Getenv("SIZE"); v != "" {
		boot = strings.Replace(boot, "buffer_size_bytes: 1048576", "buffer_size_bytes: "+v, 1)
	}
	if v := os.Getenv("FLUSH"); v != "" {
		boot = strings.Replace(boot, "buffer_flush_interval: 0.05s", "buffer_flush_interval: "+v, 1)
	}
	if os.Getenv("RETRY") == "0" {
		boot = strings.Replace(boot, "grpc_stream_retry_policy: {num_retries: 3}", "", 1)
	}
	bin, err := findEnvoy(envoyVersions()[0])
	if err != nil {
		t.Fatal(err)
	}
	upstream, _ := envoytest.Serve("127.0.0.1:0")
	defer upstream.Close()
	e, err := envoytest.Start(t.Context(), envoytest.Settings{Binary: bin, Bootstrap: []byte(boot), Tollgate: strings.Join(addrs, ","), Upstream: upstream.Addr(), CheckTimeout: extauthztest.Limit, AccessLog: "/dev/null"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	var sent int64
	var wg sync.WaitGroup
	wg.Go(func() { sent = send(ctx, t, e.Addr(), secret, env("RATE", 500)) })
	healthy := func(n int) {
		extauthztest.Eventually(t, "healthy replicas", func() bool { return stat(t, e, "cluster.tollgate.membership_healthy") == n })
	}
	healthy(2)
	for range 3 {
		for _, r := range replicas {
			began := time.Now()
			if os.Getenv("KILL") != "" {
				gone, stop := context.WithCancel(ctx)
				stop()
				r.server.Shutdown(gone)
				healthy(1)
			} else {
				r.server.Drain()
				healthy(1)
				began = time.Now()
				r.server.Shutdown(ctx)
			}
			t.Logf("shut down in %v; %d requests unanswered", time.Since(began), stat(t, e, "http.ingress.downstream_rq_5xx"))
			if err := <-r.ended; err != nil {
				t.Fatal(err)
			}
			r.start(t, s)
			healthy(2)
		}
	}
	cancel()
	wg.Wait()
	time.Sleep(1500 * time.Millisecond)
	t.Logf("allowed %d, observed %d, lost %d = %.3f %%", sent, log.count(), int(sent)-log.count(), 100*float64(int(sent)-log.count())/float64(sent))
	for _, r := range replicas {
		r.server.Shutdown(t.Context())
	}
}
