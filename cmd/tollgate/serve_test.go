package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	miniserver "github.com/alicebob/miniredis/v2/server"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/server"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
)

// running is a server inside the test.
type running struct {
	GRPC, HTTP, Pprof string

	file   string // of the addresses
	stop   context.CancelFunc
	code   chan int
	stderr *tollgatetest.Screen
}

// addresses returns the addresses file.
func (r *running) addresses(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// start starts `tollgate serve` on free ports with these further arguments.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	dir := tollgatetest.ShortDir(t)
	tollgatetest.WriteFile(t, dir+"/policy.yaml", pixelbyte(t, "policy.yaml"))
	ctx, stop := context.WithCancel(t.Context())
	r := &running{file: dir + "/a", stop: stop, code: make(chan int, 1), stderr: &tollgatetest.Screen{}}
	args = append([]string{"serve", "--policy", dir, "--store-socket", dir + "/s", "--grpc-address", "127.0.0.1:0",
		"--http-address", "127.0.0.1:0", "--addresses-file", dir + "/a"}, args...)
	go func() { r.code <- run(ctx, args, strings.NewReader(""), &bytes.Buffer{}, r.stderr) }()
	eventually(t, "the addresses file", func() bool {
		data, err := os.ReadFile(dir + "/a")
		return err == nil && json.Unmarshal(data, r) == nil
	})
	t.Cleanup(stop)
	return r
}

// end stops the server and expects that it ends well.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	if got := <-r.code; got != exit.CodeOK {
		t.Errorf("exit %d\n%s", got, r.stderr)
	}
}

// A call that is under way when the server is told to stop gets its answer.
func TestDrainAnswersCallsUnderWay(t *testing.T) {
	store := miniredis.RunT(t)
	entered, gate := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release) // else the store cannot end
	var once sync.Once
	store.Server().SetPreHook(func(_ *miniserver.Peer, command string, args ...string) bool {
		tried := strings.Repeat("00", len(keys.Digest{})) // what the server itself reads at its start
		if command == "GET" && strings.HasPrefix(args[0], "tg:v1:secret:") && !strings.HasSuffix(args[0], tried) {
			once.Do(func() { close(entered) })
			<-gate
		}
		return false
	})
	r := start(t, "--store", "redis://"+store.Addr(), "--deadline", "20s")
	conn, err := grpc.NewClient(r.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	type outcome struct {
		response *authv3.CheckResponse
		err      error
	}
	answered := make(chan outcome, 1)
	go func() {
		response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Host: "api.pixelbyte.io", Method: "GET", Path: "/v1/models", HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
					{Key: "authorization", RawValue: []byte("Bearer pb_DemoFullAccess000000000000040Zm5v")},
				}},
			}},
		}})
		answered <- outcome{response, err}
	}()
	<-entered
	r.stop()
	eventually(t, "/readyz says draining", func() bool {
		res, err := http.Get("http://" + r.HTTP + "/readyz")
		return err == nil && res.Body.Close() == nil && res.StatusCode == http.StatusServiceUnavailable
	})
	select {
	case o := <-answered:
		t.Fatalf("answered before the store did: %v, %v", o.response, o.err)
	case code := <-r.code:
		t.Fatalf("ended with %d while a call was under way", code)
	default:
	}
	release()
	if o := <-answered; o.err != nil || o.response.GetDeniedResponse().GetStatus().GetCode() != 401 {
		t.Errorf("%v, %v; want the 401 of an unknown key", o.response, o.err)
	}
	r.end(t)
}

// Who reads the decisions may end: their lines are lost then, and the server goes on.
func TestReaderOfDecisionsEnds(t *testing.T) {
	dir := tollgatetest.ShortDir(t)
	tollgatetest.WriteFile(t, dir+"/policy.yaml", pixelbyte(t, "policy.yaml"))
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	server := &replica{file: dir + "/a", out: writer, args: []string{"serve", "--policy", dir, "--store-socket", dir + "/s", "--drain-delay", "0s",
		"--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--addresses-file", dir + "/a", "--log-decisions-to", "stdout"}}
	server.start(t)
	_, _ = reader.Close(), writer.Close()
	r := &running{file: server.file}
	if err := json.Unmarshal([]byte(r.addresses(t)), r); err != nil {
		t.Fatal(err)
	}
	r.checkIn(t, "none")
	eventually(t, "the loss is said", func() bool { return strings.Contains(server.log.String(), "decisions were not written") })
	r.checkIn(t, "none")
	if !strings.Contains(r.page(t, "/metrics"), `tollgate_decision_log_lines_total{outcome="failed"} `) {
		t.Error("the loss is not counted")
	}
	server.terminate(t)
}

// The profiler answers where it was asked for, ends with the server, and is nowhere else.
func TestProfilerIsApart(t *testing.T) {
	before := leaks()
	r := start(t, "--pprof-address", "127.0.0.1:0")
	for address, want := range map[string]int{r.Pprof: http.StatusOK, r.HTTP: http.StatusNotFound} {
		res, err := http.Get("http://" + address + "/debug/pprof/heap")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", address, res.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	r.end(t)
	before.check(t)
	if r := start(t); r.Pprof != "" {
		t.Errorf("a profiler at %s that nobody asked for", r.Pprof)
	}
}

// What the server had leased is in the store again when it has ended, and with --limits exact
// nothing is taken.
func TestLeasesGoBackAtTheEnd(t *testing.T) {
	for _, mode := range []string{server.LimitsAuto, server.LimitsExact} {
		mini, dir := miniredis.RunT(t), tollgatetest.ShortDir(t)
		plan := "plans:\n- {name: big, limits: [{name: day, requests: 1000000, per: day}]}\n"
		tollgatetest.WriteFile(t, dir+"/policy.yaml", append(pixelbyte(t, "policy.yaml"), plan...))
		client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
		defer client.Close()
		key := keys.Key{ID: "key_full", API: "pixelbyte", Name: "full", Plan: "big", LimitID: "key_full", Status: keys.Active, Version: 1, AnchorDay: 1, CreatedAt: time.Now()}
		if _, err := admin.Seed(t.Context(), store.New(client), []keyfile.Entry{{Key: key, Secret: "pb_DemoFullAccess000000000000040Zm5v"}}, keys.NewHasher(nil)); err != nil {
			t.Fatal(err)
		}
		r := start(t, "--policy", dir+"/policy.yaml", "--store", "redis://"+mini.Addr(), "--deadline", "20s", "--limits", mode)
		conn, err := grpc.NewClient(r.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const calls = 100
		for range calls {
			response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
					Host: "api.pixelbyte.io", Method: "GET", Path: "/v1/models", HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
						{Key: "authorization", RawValue: []byte("Bearer pb_DemoFullAccess000000000000040Zm5v")},
					}},
				}},
			}})
			if err != nil || response.GetOkResponse() == nil {
				t.Fatalf("%v, %v", response, err)
			}
		}
		counter := func() string { return mini.HGet("tg:v1:count:{key_full}", "day:day") }
		if leased := strings.Count(counter(), ":") == 2; leased != (mode == server.LimitsAuto) {
			t.Errorf("--limits %s: %s", mode, counter())
		}
		r.end(t)
		if !strings.HasSuffix(counter(), ":100") || strings.Count(counter(), ":") != 1 {
			t.Errorf("--limits %s: %s at the end, want 100 spent and nothing held", mode, counter())
		}
	}
}

// The gRPC port serves TLS, and takes up a new certificate; one that cannot be
// used is said once and not taken.
func TestCertificatesAreFollowed(t *testing.T) {
	dir := tollgatetest.ShortDir(t)
	cert, key := dir+"/c.pem", dir+"/k.pem"
	newCertificate(t, cert, key, 1)
	r := start(t, "--tls-cert", cert, "--tls-key", key, "--reload-interval", "20ms")
	serial := func() int64 {
		conn, err := tls.Dial("tcp", r.GRPC, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			return -1
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("certificate %d, want 1", got)
	}
	newCertificate(t, cert, key, 2)
	eventually(t, "the new certificate", func() bool { return serial() == 2 })
	tollgatetest.WriteFile(t, key, []byte("no key"))
	eventually(t, "the complaint", func() bool { return strings.Contains(r.stderr.String(), "failed to find any PEM data in key input") })
	if got := serial(); got != 2 {
		t.Errorf("certificate %d, want 2", got)
	}
	r.end(t)

	code, _, stderr := command(t, "serve", "--policy", "../../testdata/pixelbyte/policy.yaml", "--tls-client-ca", cert)
	if code != exit.CodeUsage || !strings.Contains(stderr, "a client CA needs both") {
		t.Errorf("a client CA alone: exit %d, %s", code, stderr)
	}
}

func newCertificate(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "tollgate"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"tollgate"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	tollgatetest.WriteFile(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	tollgatetest.WriteFile(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
