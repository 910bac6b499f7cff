package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"tollgate/cmd/tollgate/cli"
	"tollgate/cmd/tollgate/listen"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/usage/clickhouse/clickhousetest"
)

// TestScripts runs the scripts of testdata/script against the real command. A
// script whose name begins with redis or envoy needs that. Scripts mostly wait for processes, so
// several run at once.
func TestScripts(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	envoyBinary, envoyErr := envoytest.Find()
	scripts, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".txt")
		run := func(t *testing.T, setup func(*testscript.Env) error) {
			testscript.RunT(scriptT{t}, testscript.Params{
				Files:              []string{script},
				WorkdirRoot:        tollgatetest.ShortDir(t), // the sockets are in there
				RequireUniqueNames: true,
				Deadline:           time.Now().Add(4 * limit), // a server that should have refused to start
				Setup: func(env *testscript.Env) error {
					env.Setenv("UID", strconv.Itoa(os.Getuid()))
					env.Setenv("GORACE", os.Getenv("GORACE"))
					env.Setenv("ENVOY_BIN", envoyBinary)
					env.Setenv("REPO", repo)
					env.Setenv("TOLLGATE_DRAIN_DELAY", "0s") // no proxies need to notice, but in drain.txt
					env.Setenv("PICTIFY_PYTHON", filepath.Join(repo, "cmd/tollgate", pictifyPython))
					shipped := pixelbyte(t, "policy.yaml")
					tollgatetest.WriteFile(t, filepath.Join(env.WorkDir, "policy.yaml"), shipped)
					// The same without a key for the models.
					tollgatetest.WriteFile(t, filepath.Join(env.WorkDir, "public.yaml"),
						bytes.Replace(shipped, []byte("scope: list_models}"), []byte("public: true}"), 1))
					return setup(env)
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"ready": ready, "page": page, "check": check, "checks": checks, "until": until, "hold": hold, "watch": watch, "health": health, "empty": emptyRedis,
					"freeport": freePortCommand, "redis": startRedis, "replica": startReplica, "redis-cli": redisCommand,
					"mode": mode, "term": terminate, "hash": hash, "expand": expand,
					"clickhouse": clickhouseCommand, "hanging": startHanging,
					"envoy": startEnvoy, "call": call, "same": same, "remember": remember,
				},
			})
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(name, "redis") {
				redistest.Need(t)
			}
			if strings.HasPrefix(name, "envoy") {
				tollgatetest.Require(t, "envoy", envoyErr, "no Envoy (make tools)")
			}
			if name == "envoy-sdk" {
				_, err := os.Stat(pictifyPython)
				tollgatetest.Require(t, "pictify", err, "no pictify SDK (.ci/sdk)")
			}
			// Not in the set-up: that is a test of its own, which cannot skip this one.
			clickhouse := ""
			if strings.HasPrefix(name, "clickhouse") {
				redistest.Need(t)
				clickhouse = clickhousetest.Start(t).Host
			}
			run(t, func(env *testscript.Env) error {
				env.Setenv("CLICKHOUSE", clickhouse)
				return nil
			})
		})
		if !strings.HasPrefix(name, "keys") || name == "keys-input" { // which begins without a store
			continue
		}
		t.Run(name+"-as-users", func(t *testing.T) {
			t.Parallel()
			redistest.Need(t)
			socket := startUsers(t)
			run(t, func(env *testscript.Env) error {
				env.Setenv(usersStore, "unix://%[1]s:%[1]s@"+socket)
				env.Setenv(adminStore, listen.UnixPrefix+socket)
				return nil
			})
		})
	}
}

// scriptT runs a script at once: testscript itself would put it behind all the others, and its
// deadline would be over.
type scriptT struct{ *testing.T }

func (t scriptT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(scriptT{t}) })
}

func (scriptT) Parallel()     {}
func (scriptT) Verbose() bool { return testing.Verbose() }

// pictifyPython is a Python that has pictify's own SDK; .ci/sdk makes it.
const pictifyPython = "../../.tools/pictify-sdk-1.1.0/bin/python"

// adminStore is the variable with the address of a Redis at which scripts may do
// everything.
const adminStore = "ADMIN_STORE"

// startUsers starts a Redis with the two users of tollgate, who may do what
// tollgate store acl says, and returns its socket. At the end nothing must have
// been refused to them.
func startUsers(t *testing.T) (socket string) {
	t.Helper()
	s := redistest.Start(t, redistest.SocketOnly)
	s.RefusesNothing(t)
	for _, user := range []string{"server", "cli"} {
		s.AddUser(t, user, cli.ACLs()[user].Rules())
	}
	return s.Socket
}

// usage: ready FILE. It waits for the addresses file and sets GRPC, HTTP and STORE.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	var addresses struct{ GRPC, HTTP, Store string }
	path := ts.MkAbs(args[0])
	if !tollgatetest.Within(context.Background(), limit, func() bool {
		data, err := os.ReadFile(path)
		return err == nil && json.Unmarshal(data, &addresses) == nil
	}) {
		ts.Fatalf("waited for %s", path)
	}
	ts.Setenv("GRPC", addresses.GRPC)
	ts.Setenv("HTTP", addresses.HTTP)
	ts.Setenv("STORE", cmp.Or(ts.Getenv(adminStore), addresses.Store))
}

// usage: page PATH STATUS [REGEXP]. It waits until the HTTP port answers so.
func page(ts *testscript.TestScript, _ bool, args []string) {
	want, last := regexp.MustCompile(strings.Join(args[2:], "")), ""
	if !tollgatetest.Within(context.Background(), limit, func() bool {
		res, err := http.Get("http://" + ts.Getenv("HTTP") + args[0])
		if err != nil {
			last = err.Error()
			return false
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		last = fmt.Sprint(res.StatusCode, " ", string(body))
		return strconv.Itoa(res.StatusCode) == args[1] && want.Match(body)
	}) {
		ts.Fatalf("%s answers %s, want %s", args[0], last, args[1:])
	}
}

func dialGRPC(ts *testscript.TestScript) *grpc.ClientConn {
	conn, err := grpc.NewClient(ts.Getenv("GRPC"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	ts.Check(err)
	return conn
}

// usage: check STATUS METHOD PATH [KEY]. It waits until a check request for $HOST, or
// else the API pixelbyte, is answered with this status, 200 for allowed.
func check(ts *testscript.TestScript, _ bool, args []string) {
	conn := dialGRPC(ts)
	defer conn.Close()
	headers := &corev3.HeaderMap{}
	if len(args) > 3 {
		headers.Headers = []*corev3.HeaderValue{{Key: "authorization", RawValue: []byte("Bearer " + args[3])}}
	}
	request := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Host: cmp.Or(ts.Getenv("HOST"), "api.pixelbyte.io"), Method: args[1], Path: args[2], HeaderMap: headers,
		}},
	}}
	last := ""
	if !tollgatetest.Within(context.Background(), limit, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		response, err := authv3.NewAuthorizationClient(conn).Check(ctx, request)
		last = fmt.Sprint(response, err)
		got := 200
		if denied := response.GetDeniedResponse(); denied != nil {
			got = int(denied.GetStatus().GetCode())
		}
		return err == nil && strconv.Itoa(got) == args[0]
	}) {
		ts.Fatalf("got %s, want %s", last, args[0])
	}
}

// usage: checks N STATUS METHOD PATH [KEY]. It does that so often, one after the other.
func checks(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for range n {
		check(ts, neg, args[1:])
	}
}

// usage: until REGEXP ARGS... runs tollgate with these arguments until it prints that.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	if !tollgatetest.Within(context.Background(), limit, func() bool {
		return ts.Exec("tollgate", args[1:]...) == nil && want.MatchString(ts.ReadFile("stdout"))
	}) {
		ts.Fatalf("%s does not print %s but\n%s", args[1:], args[0], ts.ReadFile("stdout"))
	}
}

// usage: hold. It starts a check whose request never ends, and waits until the server
// has it.
func hold(ts *testscript.TestScript, _ bool, _ []string) {
	conn := dialGRPC(ts)
	ts.Defer(func() { conn.Close() })
	_, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true}, authv3.Authorization_Check_FullMethodName)
	ts.Check(err)
	// What the server answers on the same connection was sent after it.
	_, err = healthv1.NewHealthClient(conn).Check(context.Background(), &healthv1.HealthCheckRequest{})
	ts.Check(err)
}

// usage: watch. It watches the health of the server until the script ends, and waits
// until the server says SERVING.
func watch(ts *testscript.TestScript, _ bool, _ []string) {
	conn := dialGRPC(ts)
	ts.Defer(func() { conn.Close() })
	stream, err := healthv1.NewHealthClient(conn).Watch(context.Background(), &healthv1.HealthCheckRequest{})
	ts.Check(err)
	first, err := stream.Recv()
	ts.Check(err)
	if first.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		ts.Fatalf("health %s", first.GetStatus())
	}
}

// usage: health SERVING|NOT_SERVING. It waits until the gRPC port says so.
func health(ts *testscript.TestScript, _ bool, args []string) {
	conn := dialGRPC(ts)
	defer conn.Close()
	var last string
	if !tollgatetest.Within(context.Background(), limit, func() bool {
		response, err := healthv1.NewHealthClient(conn).Check(context.Background(), &healthv1.HealthCheckRequest{})
		last = fmt.Sprint(response, err)
		return response.GetStatus().String() == args[0] && err == nil
	}) {
		ts.Fatalf("health is %s, want %s", last, args[0])
	}
}

// commandT lets a script's command use what is made for tests.
type commandT struct{ *testscript.TestScript }

func (t commandT) Helper()                           {}
func (t commandT) Cleanup(f func())                  { t.Defer(f) }
func (t commandT) Context() context.Context          { return context.Background() }
func (t commandT) Errorf(format string, args ...any) { t.Fatalf(format, args...) }
func (t commandT) Skipf(format string, args ...any)  { t.Fatalf(format, args...) }

// usage: freeport VARIABLE
func freePortCommand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], redistest.FreePort(commandT{ts}))
}

// usage: redis PORT [PASSWORD]. The server ends with the script.
func startRedis(ts *testscript.TestScript, _ bool, args []string) {
	options := []string{"--port", args[0]}
	if len(args) > 1 {
		options = append(options, "--requirepass", args[1])
	}
	redistest.Start(commandT{ts}, func(*redistest.Server) []string { return options })
}

// usage: empty PORT takes all data from a Redis, and its connections, as a restart without a file
// does.
func emptyRedis(ts *testscript.TestScript, _ bool, args []string) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + args[0]})
	defer client.Close()
	ts.Check(client.FlushAll(context.Background()).Err())
	ts.Check(client.Do(context.Background(), "client", "kill", "type", "pubsub").Err())
	ts.Check(client.Do(context.Background(), "client", "kill", "type", "normal", "skipme", "yes").Err())
}

// usage: replica PORT PRIMARY-PORT. It waits until the replica follows, and sets
// REPLICA to its process.
func startReplica(ts *testscript.TestScript, _ bool, args []string) {
	replica := redistest.Start(commandT{ts}, func(*redistest.Server) []string {
		return []string{"--port", args[0], "--replicaof", "127.0.0.1 " + args[1]}
	})
	ts.Setenv("REPLICA", strconv.Itoa(replica.Process.Pid))
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + args[1]})
	defer client.Close()
	redistest.Await(commandT{ts}, "the replica follows", func(ctx context.Context) bool {
		n, err := client.Do(ctx, "WAIT", 1, 1).Int()
		return err == nil && n == 1
	})
}

// usage: redis-cli URL COMMAND... prints the reply.
func redisCommand(ts *testscript.TestScript, _ bool, args []string) {
	options := &redis.Options{Addr: "127.0.0.1:" + args[0]}
	if address, ok := strings.CutPrefix(args[0], listen.UnixPrefix); ok {
		options = &redis.Options{Network: "unix", Addr: address}
	}
	client := redis.NewClient(options)
	defer client.Close()
	words := make([]any, 0, len(args))
	for _, a := range args[1:] {
		words = append(words, a)
	}
	reply, err := client.Do(context.Background(), words...).Result()
	ts.Check(err)
	_, _ = fmt.Fprintln(ts.Stdout(), reply)
}

// usage: term. It sends SIGTERM, which kill does not know, to the server started last.
func terminate(ts *testscript.TestScript, _ bool, _ []string) {
	all := ts.BackgroundCmds()
	ts.Check(all[len(all)-1].Process.Signal(syscall.SIGTERM))
}

// usage: mode FILE TYPE-AND-PERMISSIONS, as ls prints them
func mode(ts *testscript.TestScript, _ bool, args []string) {
	path, _ := strings.CutPrefix(args[0], listen.UnixPrefix)
	info, err := os.Lstat(ts.MkAbs(path))
	ts.Check(err)
	if got := info.Mode().String(); got != args[1] {
		ts.Fatalf("%s is %s, want %s", path, got, args[1])
	}
}

// usage: hash VARIABLE PEPPER SECRET sets the variable to the hash that a keys file takes.
func hash(ts *testscript.TestScript, _ bool, args []string) {
	mac := hmac.New(sha256.New, []byte(args[1]))
	mac.Write([]byte(args[2]))
	ts.Setenv(args[0], "hmac-sha256:"+hex.EncodeToString(mac.Sum(nil)))
}

// usage: expand FILE puts the script's variables into a file.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	ts.Check(os.WriteFile(path, []byte(os.Expand(string(data), ts.Getenv)), 0o600))
}

// usage: envoy. It starts a real Envoy with the shipped bootstrap in
// front of the server that is ready, and an application behind it, for call.
func startEnvoy(ts *testscript.TestScript, _ bool, _ []string) {
	bootstrap, err := envoy.Bootstrap()
	ts.Check(err)
	upstream, err := envoytest.Serve("127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = upstream.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	started, err := envoytest.Start(ctx, envoytest.Settings{
		Binary: ts.Getenv("ENVOY_BIN"), Bootstrap: bootstrap, Tollgate: ts.Getenv("GRPC"), Upstream: upstream.Addr(),
		CheckTimeout: 5 * time.Second,
	})
	ts.Check(err)
	ts.Defer(func() { _ = started.Stop() })
	ts.Setenv("ENVOY", started.Addr())
}

// usage: call STATUS METHOD URL KEY [REGEXP]. It waits until a request through
// Envoy is answered with this status and body.
func call(ts *testscript.TestScript, _ bool, args []string) {
	want, last := regexp.MustCompile(strings.Join(args[4:], "")), ""
	host, target, _ := strings.Cut(strings.TrimPrefix(args[2], "https://"), "/")
	request := envoytest.Request{
		Method: args[1], Target: "/" + target, Host: host,
		Headers: [][2]string{{"authorization", "Bearer " + args[3]}},
	}
	if !tollgatetest.Within(context.Background(), limit, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		response, err := request.SendH1(ctx, ts.Getenv("ENVOY"), false)
		if err != nil {
			last = err.Error()
			return false
		}
		last = fmt.Sprint(response.Status, " ", string(response.Body))
		return strconv.Itoa(response.Status) == args[0] && want.Match(response.Body)
	}) {
		ts.Fatalf("got %s, want %s", last, args)
	}
}

// usage: remember VARIABLE FIELD. It takes a field of the JSON that the last
// command has printed.
func remember(ts *testscript.TestScript, _ bool, args []string) {
	var printed map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &printed))
	fields := strings.Split(args[1], ".")
	for _, of := range fields[:len(fields)-1] {
		printed, _ = printed[of].(map[string]any)
	}
	value, ok := printed[fields[len(fields)-1]].(string)
	if !ok {
		ts.Fatalf("no %s was printed", args[1])
	}
	ts.Setenv(args[0], value)
}
