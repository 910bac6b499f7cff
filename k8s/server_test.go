package k8s

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// limit bounds every wait.
const limit = 20 * time.Second

// exampleKey is the key that the server knows. Nobody has the unknown one, which has a key's form.
const (
	exampleKey = "jb_ExampleKeyForTheReadme000012xpAFa"
	unknownKey = "jb_NobodyHasThisKeyOfTheTest0016zBkU"
)

// await waits until ready says so.
func await(t *testing.T, what string, ready func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// run starts a program, which is killed when the test ends, or before that by kill.
func run(t *testing.T, name string, args ...string) (kill func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	}
	t.Cleanup(func() {
		kill()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s:\n%s", name, text)
		}
	})
	return kill
}

// startRedis starts a real one, and returns its socket.
func startRedis(t *testing.T, dir string) (socket string, kill func()) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil && !strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "redis") {
		t.Skip("SKIPPED: redis-server is not on PATH")
	} else if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "redis")
	kill = run(t, path, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	await(t, "Redis listens", func() bool {
		c, err := net.Dial("unix", socket)
		return err == nil && c.Close() == nil
	})
	return socket, kill
}

// watchedServer is a running `tollgate serve`.
type watchedServer struct {
	GRPC, HTTP string
	client     authv3.AuthorizationClient
	logs       accesslogv3.AccessLogServiceClient
	seen       map[string][]map[string]string
}

// startServer starts a server with two APIs: jobs, whose plan lets requests pass while the store is
// away, and tasks, which limits requests under way.
func startServer(t *testing.T, dir, socket string) *watchedServer {
	t.Helper()
	small := string(readFile(t, "../testdata/small.yaml"))
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("policy/jobs.yaml", strings.Replace(small, "- name: free\n", "- name: free\n  failure_mode: open\n", 1))
	write("policy/tasks.yaml", strings.NewReplacer("api: jobs", "api: tasks", "jobs.example.com", "tasks.example.com", "jb_", "ts_",
		"- name: free\n", "- name: free\n  concurrent: 2\n", "quota_exceeded]", "quota_exceeded, concurrency_exceeded]").Replace(small))
	const pepper = "a pepper of the tests"
	sum := hmac.New(sha256.New, []byte(pepper))
	_, _ = sum.Write([]byte(exampleKey))
	keys := write("keys.yaml", fmt.Sprintf("keys:\n- {id: key_jobs, api: jobs, name: jobs, plan: free, scopes: [read], hash: 'hmac-sha256:%x'}\n", sum.Sum(nil)))
	addresses := filepath.Join(dir, "addresses.json")
	run(t, binary(t), "serve", "--policy", filepath.Join(dir, "policy"), "--keys", keys, "--pepper-file", write("pepper", pepper),
		"--store", "unix://"+socket, "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--addresses-file", addresses, "--deadline", "2s")
	s := &watchedServer{seen: map[string][]map[string]string{}}
	await(t, "the server is ready", func() bool {
		data, err := os.ReadFile(addresses)
		return err == nil && json.Unmarshal(data, s) == nil
	})
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s.client, s.logs = authv3.NewAuthorizationClient(conn), accesslogv3.NewAccessLogServiceClient(conn)
	return s
}

// ask asks about a request, as Envoy does.
func (s *watchedServer) ask(t *testing.T, key string) *authv3.CheckResponse {
	t.Helper()
	headers := map[string]string{}
	if key != "" {
		headers["authorization"] = "Bearer " + key
	}
	response, err := s.client.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Host: "jobs.example.com", Path: "/v1/jobs/1", Headers: headers}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// tell sends access-log entries of a request that was allowed.
func (s *watchedServer) tell(t *testing.T, decision *structpb.Struct, codes ...uint32) {
	t.Helper()
	stream, err := s.logs.StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	entries := &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
	for _, code := range codes {
		entries.LogEntry = append(entries.LogEntry, &datav3.HTTPAccessLogEntry{
			CommonProperties: &datav3.AccessLogCommon{
				StartTime: timestamppb.Now(), Duration: durationpb.New(time.Millisecond), AccessLogType: datav3.AccessLogType_DownstreamEnd,
				Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.ext_authz": decision}},
			},
			Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(code)},
		})
	}
	if err := stream.Send(&accesslogv3.StreamAccessLogsMessage{
		Identifier: &accesslogv3.StreamAccessLogsMessage_Identifier{LogName: "tollgate", Node: &corev3.Node{Id: "test"}},
		LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: entries},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CloseAndRecv(); err != nil && err != io.EOF {
		t.Fatal(err)
	}
}

var (
	seriesLine = regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? \S+$`)
	labelPair  = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
)

// scrape adds what the server says of itself, and returns it.
func (s *watchedServer) scrape(t *testing.T) string {
	t.Helper()
	response, err := http.Get("http://" + s.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range seriesLine.FindAllStringSubmatch(string(text), -1) {
		series := map[string]string{}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			series[pair[1]] = pair[2]
		}
		s.seen[m[1]] = append(s.seen[m[1]], series)
	}
	return string(text)
}

// scrapeServer returns the series, by name, of a server that has met what there is to meet:
// requests with a key and without, an access log, and a store that went away.
func scrapeServer(t *testing.T) map[string][]map[string]string {
	t.Helper()
	tollgate, err := filepath.Abs(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOLLGATE_BIN", tollgate)
	dir, err := os.MkdirTemp("", "tg") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, stopRedis := startRedis(t, dir)
	s := startServer(t, dir, socket)
	allowed := s.ask(t, exampleKey)
	if allowed.GetOkResponse() == nil {
		t.Fatalf("refused: %v", allowed)
	}
	s.ask(t, "")
	s.tell(t, allowed.GetDynamicMetadata(), 200, 503)
	await(t, "the entries are counted", func() bool { return strings.Contains(s.scrape(t), `code="5xx"`) })
	stopRedis()
	await(t, "a request passes by failure_mode", func() bool {
		s.ask(t, exampleKey)
		s.ask(t, unknownKey)
		text := s.scrape(t)
		return strings.Contains(text, "tollgate_failure_mode_total{") && strings.Contains(text, `reason="undecided"`)
	})
	return s.seen
}
