package envoy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
	"tollgate/testdata"
)

// TestScriptsThroughEnvoy runs the same scripts through real Envoys, over HTTP/1.1 and
// HTTP/2, on both stores; through the newest also with exact limits.
func TestScriptsThroughEnvoy(t *testing.T) {
	for _, api := range testdata.APIs() {
		t.Run(api, func(t *testing.T) {
			file, entries, blocks := extauthztest.APIFiles(t, api)
			for v, version := range envoyVersions() {
				t.Run("envoy-"+version, func(t *testing.T) {
					s := extauthztest.NewStack(t, nil, file)
					s.Logged = true
					e := startEnvoy(t, version, bootstrap(t), s.Addr, s)
					s.Beside = func(t *testing.T, b *testdata.Block) (end func()) { return e.beside(t, b, s) }
					// With two versions, each pair of version, protocol and store is there once.
					for i, protocol := range []string{"h1", "h2"} {
						extauthztest.RunScriptOn(t, extauthztest.Backends()[(v+i+1)%2], protocol, s, entries, blocks, func(t *testing.T, b *testdata.Block) *extauthztest.Answer {
							return e.ask(t, b, protocol)
						})
					}
					if version == envoy.Version() {
						t.Run("exact", func(t *testing.T) {
							s.Exact = true
							extauthztest.RunScriptOn(t, "redis", "h1", s, entries, blocks, func(t *testing.T, b *testdata.Block) *extauthztest.Answer {
								return e.ask(t, b, "h1")
							})
						})
					}
				})
			}
		})
	}
}

// envoyVersions are the newest Envoy and the oldest that we support, or what
// TOLLGATE_ENVOYS lists.
func envoyVersions() []string {
	if list := os.Getenv("TOLLGATE_ENVOYS"); list != "" {
		return strings.Fields(list)
	}
	return []string{envoy.Version(), "1.36.4"}
}

// edge is a real Envoy in front of a stack and an application that echoes.
type edge struct {
	envoy     *envoytest.Envoy
	accessLog string
	killed    bool // by the test
}

// bootstrap returns the shipped Envoy configuration.
func bootstrap(t *testing.T) []byte {
	t.Helper()
	shipped, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	return shipped
}

func startEnvoy(t *testing.T, version string, bootstrap []byte, tollgate string, s *extauthztest.Stack) *edge {
	t.Helper()
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	return startEnvoyTo(t, upstream.Addr(), version, bootstrap, tollgate, s)
}

// startEnvoyTo starts one in front of another application.
func startEnvoyTo(t *testing.T, application, version string, bootstrap []byte, tollgate string, s *extauthztest.Stack) *edge {
	t.Helper()
	return startEdge(t, version, envoytest.Settings{Bootstrap: bootstrap, Tollgate: tollgate, Upstream: application, ProxyProtocol: true}, s)
}

// startEdge starts an Envoy whose logs are shown if the test fails, with those of s.
func startEdge(t *testing.T, version string, settings envoytest.Settings, s *extauthztest.Stack) *edge {
	t.Helper()
	binary, err := findEnvoy(version)
	if err != nil {
		extauthztest.Require(t, "envoy", err.Error())
	}
	e := &edge{accessLog: filepath.Join(t.TempDir(), "access.log")}
	settings.Binary, settings.AccessLog, settings.Dir, settings.CheckTimeout = binary, e.accessLog, t.TempDir(), extauthztest.Limit
	if e.envoy, err = envoytest.Start(extauthztest.Within(t), settings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.envoy.Stop(); err != nil && !e.killed {
			t.Errorf("envoy: %v", err)
		}
		if t.Failed() {
			e.tell(t, s)
		}
	})
	return e
}

// tell shows what a test that failed wants to be seen.
func (e *edge) tell(t *testing.T, s *extauthztest.Stack) {
	lines, _ := os.ReadFile(e.accessLog)
	t.Logf("the end of Envoy's log:\n%s\nand the requests that Tollgate could not be asked about:", e.envoy.Log())
	for line := range bytes.Lines(lines) {
		if bytes.Contains(line, []byte("ext_authz_error")) {
			t.Logf("%s", line)
		}
	}
	for line := range strings.Lines(s.Log.String()) {
		if strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
			t.Log(line)
		}
	}
}

// beside has as many requests like a block's under way as it says, whose bodies are not sent yet.
func (e *edge) beside(t *testing.T, b *testdata.Block, s *extauthztest.Stack) (end func()) {
	t.Helper()
	var open []*openRequest
	for i := range b.Beside {
		open = append(open, e.open(t, b.Method, b.Target, append(b.Headers, [2]string{"content-length", "1"})))
		s.AwaitSlots(t, i+1)
	}
	return func() {
		for _, r := range open {
			if status := r.finish(t, "x"); status != 200 {
				t.Errorf("script.txt:%d: %s: status %d of one under way", b.Line, b.Name, status)
			}
		}
	}
}

// openRequest is a request over HTTP/1.1 of which only the head was sent.
type openRequest struct {
	conn net.Conn
	in   *bufio.Reader
}

func (e *edge) open(t *testing.T, method, target string, headers [][2]string) *openRequest {
	t.Helper()
	conn, err := net.Dial("tcp", e.envoy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(extauthztest.Limit))
	// The listener wants to hear from whom the connection is.
	head := fmt.Sprintf("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n%s %s HTTP/1.1\r\n", method, target)
	for _, h := range headers {
		head += h[0] + ": " + h[1] + "\r\n"
	}
	if _, err := conn.Write([]byte(head + "\r\n")); err != nil {
		t.Fatal(err)
	}
	return &openRequest{conn, bufio.NewReader(conn)}
}

// finish sends the rest of a request, and returns the status of its answer.
func (r *openRequest) finish(t *testing.T, body string) int {
	t.Helper()
	if _, err := r.conn.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = r.conn.Close()
	return resp.StatusCode
}

func findEnvoy(version string) (string, error) {
	if version == envoy.Version() {
		return envoytest.Find()
	}
	return envoytest.FindVersion(version)
}

func (e *edge) ask(t *testing.T, b *testdata.Block, protocol string) *extauthztest.Answer {
	t.Helper()
	r := &envoytest.Request{Method: b.Method, Target: b.Target, Source: b.Source}
	for _, h := range b.Headers {
		if strings.EqualFold(h[0], "host") && r.Host == "" {
			r.Host = h[1]
			continue
		}
		r.Headers = append(r.Headers, h)
	}
	resp := e.send(t, r, protocol)
	got := &extauthztest.Answer{Status: resp.Status, Headers: resp.Headers, Body: string(resp.Body)}
	got.RequestID, _ = resp.Value("x-request-id")
	if got.RequestID == "" {
		t.Fatalf("script.txt:%d: %s: Envoy answered by itself: %d %s", b.Line, b.Name, resp.Status, resp.Body)
	}
	if message, ok := resp.Value("grpc-message"); ok && b.GRPC() {
		got.Body, _ = url.PathUnescape(message)
	}
	var echo envoytest.Received
	if json.Unmarshal(resp.Body, &echo) == nil && echo.Method != "" {
		got.Upstream = &echo
	}
	_, got.Reached = resp.Value("x-envoy-upstream-service-time")
	got.Meta = e.metadata(t, got.RequestID)
	return got
}

func (e *edge) send(t *testing.T, r *envoytest.Request, protocol string) *envoytest.Response {
	t.Helper()
	send := r.SendH1
	if protocol == "h2" {
		send = r.SendH2
	}
	resp, err := send(extauthztest.Within(t), e.envoy.Addr(), true)
	if err != nil {
		t.Fatalf("%s %s %s: %v", protocol, r.Method, r.Target, err)
	}
	return resp
}

// metadata waits for the access-log line of a request and returns what the
// decision left in its dynamic metadata.
func (e *edge) metadata(t *testing.T, requestID string) map[string]string {
	t.Helper()
	var line struct {
		RequestID string         `json:"request_id"`
		Path      string         `json:"path"`
		Tollgate  map[string]any `json:"tollgate"`
	}
	extauthztest.Eventually(t, "an access-log line of request "+requestID, func() bool {
		data, _ := os.ReadFile(e.accessLog)
		at := bytes.LastIndex(data, []byte(requestID))
		if at < 0 {
			return false
		}
		start := bytes.LastIndexByte(data[:at], '\n') + 1
		end := bytes.IndexByte(data[at:], '\n')
		return end >= 0 && json.Unmarshal(data[start:at+end], &line) == nil
	})
	if strings.Contains(line.Path, "?") {
		t.Errorf("the access log holds a query: %s", line.Path)
	}
	meta := map[string]string{}
	for name, value := range line.Tollgate {
		meta[name] = fmt.Sprint(value)
	}
	if fields, ok := meta["x-tollgate-decision"]; ok { // over HTTP it is one text
		return extauthztest.HTTPMetadata(t, fields)
	}
	return meta
}
