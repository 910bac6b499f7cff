package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/cmd/tollgate/server"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
)

// outage is one setting in which replicas leave and come back under load.
type outage struct {
	overHTTP bool
	replicas int
	balance  string // of Envoy's cluster
	rate     int    // requests a second
	patient  bool   // checks may take long, because the machine is busy with other tests
}

func (o outage) String() string {
	return fmt.Sprintf("%s, %d replicas, %s", map[bool]string{false: "gRPC", true: "HTTP"}[o.overHTTP], o.replicas, o.balance)
}

// A replica that leaves, in a rolling restart or by SIGKILL, costs nobody a request but those that
// it had in hand. With -outage N (make test-outage) N times for each setting, at 2,000 requests a
// second and with the shipped timeouts.
func TestReplicasLeave(t *testing.T) {
	binary, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	redistest.Need(t)
	runs, err := strconv.Atoi(flag.Lookup("outage").Value.String())
	if err != nil {
		t.Fatal(err)
	}
	if runs == 0 {
		for _, o := range []outage{
			{replicas: 2, balance: "ROUND_ROBIN"}, {replicas: 3, balance: "LEAST_REQUEST"}, {overHTTP: true, replicas: 2, balance: "LEAST_REQUEST"},
		} {
			o.rate, o.patient = 200, true
			t.Run(o.String(), func(t *testing.T) {
				t.Parallel()
				o.run(t, binary)
			})
		}
		return
	}
	for _, overHTTP := range []bool{false, true} {
		for _, replicas := range []int{2, 3} {
			for _, balance := range []string{"ROUND_ROBIN", "LEAST_REQUEST"} {
				o := outage{overHTTP: overHTTP, replicas: replicas, balance: balance, rate: 2000}
				for i := range runs {
					t.Run(fmt.Sprintf("%s, run %d", o, i+1), func(t *testing.T) { o.run(t, binary) })
				}
			}
		}
	}
}

// run restarts one replica after the other and then kills one, under load.
func (o outage) run(t *testing.T, binary string) {
	edge, replicas := o.start(t, binary)
	load := fire(t, edge.Addr(), o.rate)
	for _, r := range replicas {
		r.terminate(t)
		r.start(t)
		eventually(t, "the replica is in use again", func() bool { return healthy(t, edge, r.authz) })
	}
	requests, failed := load.stop()
	t.Logf("%s: rolling restart: %d of %d requests failed", o, len(failed), requests)
	if len(failed) > 0 {
		t.Errorf("of %d requests in a rolling restart %d failed: %v", requests, len(failed), failed[:min(len(failed), 5)])
	}

	load = fire(t, edge.Addr(), o.rate)
	load.await(t, o.rate/4)
	gone := replicas[0].kill(t)
	load.await(t, 5*o.rate)
	_, failed = load.stop()
	inHand := len(failed)
	failed = slices.DeleteFunc(failed, func(s loss) bool { return s.sent.Before(gone) })
	inHand -= len(failed)
	t.Logf("%s: SIGKILL: %d requests in hand were lost, and %d of the next %d; it was gone at %s; %v", o, inHand, len(failed), 5*o.rate, gone.Format("05.000"), failed)
	if len(failed) > 5*o.rate/1000 {
		t.Errorf("after a SIGKILL %d of %d requests failed: %v", len(failed), 5*o.rate, failed[:min(len(failed), 5)])
	}
}

// In rolling restarts of servers in processes of their own, under load, at most one in a thousand
// of the slots that requests took is not released. With TOLLGATE_LOSS=full (make test-log-loss)
// three restarts of each replica at 1,000 requests a second.
func TestRestartsLoseNoReleases(t *testing.T) {
	binary, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	redistest.Need(t)
	all, restarts := []outage{{replicas: 2, balance: "ROUND_ROBIN", rate: 200, patient: true}}, 1
	if os.Getenv("TOLLGATE_LOSS") == "full" {
		all, restarts = []outage{{replicas: 2, balance: "ROUND_ROBIN", rate: 1000, patient: true}, {replicas: 3, balance: "LEAST_REQUEST", rate: 1000, patient: true}}, 3
	}
	for _, o := range all {
		t.Run(o.String(), func(t *testing.T) {
			if restarts == 1 {
				t.Parallel()
			}
			store := redistest.Start(t, redistest.SocketOnly)
			seedOutage(t, store.Admin)
			policy := bytes.Replace(jobsPolicy(t, 100_000_000, 1000, "10m"), []byte("api: jobs"), []byte("api: pixelmagic"), 1)
			edge, replicas := o.startOn(t, binary, store, bytes.Replace(policy, []byte("requests: 100000,"), []byte("requests: 100000000,"), 1))
			load := fire(t, edge.Addr(), o.rate)
			for range restarts {
				for _, r := range replicas {
					load.await(t, o.rate/2)
					r.terminate(t)
					r.start(t)
					eventually(t, "the replica is in use again", func() bool { return healthy(t, edge, r.authz) })
				}
			}
			load.await(t, o.rate)
			requests, failed := load.stop()
			held := int64(requests)
			tollgatetest.Within(t.Context(), 5*time.Second, func() bool {
				n, err := store.Admin.ZCard(t.Context(), "tg:v1:slots:{key_outage}").Result()
				if err != nil {
					t.Fatal(err)
				}
				held = n
				return held == 0
			})
			t.Logf("%s: of %d requests %d failed, and %d slots were not released", o, requests, len(failed), held)
			if held*1000 > int64(requests) || len(failed)*1000 > requests {
				t.Errorf("of %d requests %d failed, and %d slots were not released: %v", requests, len(failed), held, failed[:min(len(failed), 5)])
			}
		})
	}
}

// What a server waits for at its end is what the shipped Envoy files do.
func TestDrainDelayIsTwoHealthChecks(t *testing.T) {
	cluster := shipped[any](t, "$.static_resources.clusters[0]").(map[string]any)
	interval, err := time.ParseDuration(cluster["health_checks"].([]any)[0].(map[string]any)["interval"].(string))
	if err != nil || server.DefaultDrainDelay != 2*interval {
		t.Errorf("--drain-delay is %s by default, and health is checked every %s (%v)", server.DefaultDrainDelay, interval, err)
	}
}

// A single replica is in nobody's place, and what is there for several must not keep requests from
// it.
func TestOneReplicaRestarts(t *testing.T) {
	binary, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	redistest.Need(t)
	for _, overHTTP := range []bool{false, true} {
		o := outage{overHTTP: overHTTP, replicas: 1, balance: "ROUND_ROBIN", rate: 200, patient: true}
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			edge, replicas := o.start(t, binary)
			load := fire(t, edge.Addr(), o.rate)
			load.await(t, o.rate/4)
			gone := replicas[0].kill(t)
			load.await(t, o.rate) // so many that it is taken for an outlier
			replicas[0].start(t)
			back := time.Now()
			load.await(t, o.rate)
			requests, failed := load.stop()
			late := slices.DeleteFunc(slices.Clone(failed), func(s loss) bool { return s.sent.Before(back) })
			t.Logf("%d of %d requests failed in %s without a server", len(failed), requests, back.Sub(gone))
			if len(failed) == 0 || len(late) > 0 {
				t.Errorf("%d requests failed, %d of them with the server back: %v", len(failed), len(late), late[:min(len(late), 5)])
			}
		})
	}
}

// start starts a Redis, the replicas and an Envoy before them, which answers by itself what is
// allowed.
func (o outage) start(t *testing.T, binary string) (*envoytest.Envoy, []*replica) {
	t.Helper()
	store := redistest.Start(t, redistest.SocketOnly)
	seedOutage(t, store.Admin)
	policy := bytes.Replace(readFile(t, "../../testdata/small.yaml"), []byte("api: jobs"), []byte("api: pixelmagic"), 1)
	policy = bytes.ReplaceAll(bytes.ReplaceAll(policy, []byte("requests: 60,"), []byte("requests: 100000000,")),
		[]byte("requests: 1000,"), []byte("requests: 100000000,"))
	return o.startOn(t, binary, store, policy)
}

// startOn starts the replicas with a store and a policy of the API pixelmagic, and an Envoy before
// them.
func (o outage) startOn(t *testing.T, binary string, store *redistest.Server, policy []byte) (*envoytest.Envoy, []*replica) {
	t.Helper()
	dir := tollgatetest.ShortDir(t)
	tollgatetest.WriteFile(t, dir+"/policy.yaml", policy)
	var replicas []*replica
	var addresses []string
	for i := range o.replicas {
		r := &replica{file: fmt.Sprint(dir, "/addresses-", i), authz: "127.0.0.1:" + redistest.FreePort(t)}
		grpcAddress, more := r.authz, []string{}
		if o.overHTTP {
			grpcAddress, more = "127.0.0.1:0", []string{"--authz-http-address", r.authz}
		}
		r.args = append([]string{"serve", "--policy", dir + "/policy.yaml", "--store", "unix://" + store.Socket, "--addresses-file", r.file,
			"--grpc-address", grpcAddress, "--http-address", "127.0.0.1:0", "--log-level", "error"}, more...)
		if o.patient {
			r.args = append(r.args, "--deadline", "4s")
		}
		r.start(t)
		replicas, addresses = append(replicas, r), append(addresses, r.authz)
	}
	settings := envoytest.Settings{Binary: binary, Bootstrap: o.bootstrap(t), Tollgate: strings.Join(addresses, ",")}
	if o.patient {
		settings.CheckTimeout = 5 * time.Second
	}
	edge, err := envoytest.Start(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = edge.Stop() })
	return edge, replicas
}

// bootstrap returns a shipped file with this load balancing, where the application is Envoy itself.
func (o outage) bootstrap(t *testing.T) []byte {
	t.Helper()
	file, err := envoy.Bootstrap()
	if o.overHTTP {
		file, err = envoy.HTTPBootstrap()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"    connect_timeout: 0.1s\n", "    connect_timeout: 0.1s\n    lb_policy: " + o.balance + "\n"},
		{"route: {cluster: upstream}", `direct_response: {status: 200, body: {inline_string: "ok\n"}}`},
	} {
		if !bytes.Contains(file, []byte(change[0])) {
			t.Fatalf("the bootstrap has no %q", change[0])
		}
		file = bytes.ReplaceAll(file, []byte(change[0]), []byte(change[1]))
	}
	return file
}

// healthy reports whether Envoy uses this address of the cluster.
func healthy(t *testing.T, edge *envoytest.Envoy, address string) bool {
	t.Helper()
	res, err := http.Get("http://" + edge.Admin() + "/clusters")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(page, []byte("tollgate::"+address+"::health_flags::healthy\n"))
}

// replica is a server in a process of its own.
type replica struct {
	binary string // "" is tollgate
	policy string
	args   []string
	file   string // of its addresses
	authz  string // where Envoy asks
	out    io.Writer
	cmd    *exec.Cmd
	done   chan error
	log    *tollgatetest.Screen
}

func (r *replica) start(t *testing.T) {
	t.Helper()
	_ = os.Remove(r.file) // that of an earlier run
	r.cmd, r.done, r.log = exec.Command(cmp.Or(r.binary, "tollgate"), r.args...), make(chan error, 1), &tollgatetest.Screen{}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, done := r.cmd, r.done
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if !tollgatetest.Within(t.Context(), limit, func() bool {
		_, err := os.Stat(r.file)
		return err == nil
	}) {
		t.Fatalf("waited for the server's addresses\n%s", r.log)
	}
}

// terminate ends it as Kubernetes does.
func (r *replica) terminate(t *testing.T) {
	t.Helper()
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	if err := <-r.done; err != nil {
		t.Errorf("%v\n%s", err, r.log)
	}
}

// kill ends it as a fault does, and returns when it was gone.
func (r *replica) kill(t *testing.T) time.Time {
	t.Helper()
	_ = r.cmd.Process.Kill()
	<-r.done
	return time.Now()
}

// loss is a request that failed.
type loss struct {
	sent time.Time
	took time.Duration
	what string
}

func (s loss) String() string {
	return fmt.Sprintf("%s after %s at %s", s.what, s.took, s.sent.Format("05.000"))
}

// volley is a load at a fixed rate, whatever the answers do.
type volley struct {
	client  *http.Client
	end     context.CancelFunc
	work    sync.WaitGroup
	mu      sync.Mutex
	count   int
	failed  []loss
	address string
}

// volleyCallers is how many requests may be under way.
const volleyCallers = 128

func fire(t *testing.T, address string, rate int) *volley {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	v := &volley{end: end, address: address, client: &http.Client{
		Timeout: limit, Transport: &http.Transport{MaxIdleConnsPerHost: volleyCallers},
	}}
	due := make(chan struct{}, 60*rate)
	v.work.Go(func() {
		defer close(due)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		begin, sent := time.Now(), 0
		for ctx.Err() == nil {
			for want := int(time.Since(begin).Seconds() * float64(rate)); sent < want; sent++ {
				due <- struct{}{}
			}
			<-tick.C
		}
	})
	for range volleyCallers {
		v.work.Go(func() {
			for range due {
				v.send(t)
			}
		})
	}
	return v
}

func (v *volley) send(t *testing.T) {
	req, err := http.NewRequest(http.MethodGet, "http://"+v.address+"/v1/jobs/17", nil)
	if err != nil {
		t.Error(err)
		return
	}
	req.Host = "api.pixelmagicai.com"
	req.Header.Set("Authorization", "Bearer "+outageKey)
	begin, what := time.Now(), ""
	res, err := v.client.Do(req)
	if err != nil {
		what = err.Error()
	} else {
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			what = fmt.Sprintf("%d %.80q", res.StatusCode, body)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count++
	if what != "" {
		v.failed = append(v.failed, loss{begin, time.Since(begin), what})
	}
}

// await waits until so many more requests have their answers.
func (v *volley) await(t *testing.T, more int) {
	t.Helper()
	answered := func() int {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.count
	}
	want := answered() + more
	eventually(t, "answers", func() bool { return answered() >= want })
}

// stop ends the load and returns how many requests it made and which failed.
func (v *volley) stop() (requests int, failed []loss) {
	v.end()
	v.work.Wait()
	v.client.CloseIdleConnections()
	return v.count, v.failed
}

// outageKey is the key of testdata/small-keys.yaml.
const outageKey = "jb_ExampleKeyForTheReadme000012xpAFa"

// seedOutage puts the key of the load into a store.
func seedOutage(t *testing.T, client *redis.Client) {
	t.Helper()
	key := keys.Key{ID: "key_outage", API: "pixelmagic", Name: "outage", Plan: "free", LimitID: "key_outage", Scopes: []string{"read"},
		Status: keys.Active, Version: 1, AnchorDay: 1, CreatedAt: time.Now()}
	if _, err := admin.Seed(t.Context(), store.New(client), []keyfile.Entry{{Key: key, Secret: outageKey}}, keys.NewHasher(nil)); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
