package extauthz_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/policy/keys"
	"tollgate/testdata"
)

// TestScripts runs the script of every API over plain gRPC, on the embedded store and on
// a real Redis, with leased limits and with exact ones.
func TestScripts(t *testing.T) {
	for _, api := range testdata.APIs() {
		t.Run(api, func(t *testing.T) {
			file, entries, blocks := apiFiles(t, api)
			s := newStack(t, nil, file)
			client := authv3.NewAuthorizationClient(s.dial(t))
			for _, s.exact = range []bool{false, true} {
				for _, encoding := range []string{"headers", "header_map"} {
					runScript(t, fmt.Sprintf("%s,exact=%v", encoding, s.exact), s, entries, blocks, func(t *testing.T, b *testdata.Block) *answer {
						return askGRPC(t, client, b, encoding)
					})
				}
			}
		})
	}
}

// TestScriptsThroughEnvoy runs the same scripts through real Envoys, over HTTP/1.1 and
// HTTP/2, on both stores; through the newest also with exact limits.
func TestScriptsThroughEnvoy(t *testing.T) {
	for _, api := range testdata.APIs() {
		t.Run(api, func(t *testing.T) {
			file, entries, blocks := apiFiles(t, api)
			for _, version := range envoyVersions() {
				t.Run("envoy-"+version, func(t *testing.T) {
					s := newStack(t, nil, file)
					e := startEnvoy(t, version, bootstrap(t), s.addr, s)
					for _, protocol := range []string{"h1", "h2"} {
						runScript(t, protocol, s, entries, blocks, func(t *testing.T, b *testdata.Block) *answer {
							return e.ask(t, b, protocol)
						})
					}
					if version == envoy.Version() {
						t.Run("exact", func(t *testing.T) {
							s.exact = true
							runScriptOn(t, "redis", "h1", s, entries, blocks, func(t *testing.T, b *testdata.Block) *answer {
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

// answer is what a request came to, however it was sent.
type answer struct {
	status    int
	headers   [][2]string
	body      string
	reached   bool                // the application
	upstream  *envoytest.Received // what it received; not known of a HEAD through Envoy
	requestID string
	meta      map[string]string
}

func runScript(t *testing.T, name string, s *stack, entries []keys.Entry, blocks []testdata.Block, ask func(*testing.T, *testdata.Block) *answer) {
	for _, backend := range backends() {
		runScriptOn(t, backend, name, s, entries, blocks, ask)
	}
}

func runScriptOn(t *testing.T, backend, name string, s *stack, entries []keys.Entry, blocks []testdata.Block, ask func(*testing.T, *testdata.Block) *answer) {
	t.Run(name+"/"+backend, func(t *testing.T) {
		s.use(t, newRedis(t, backend), entries)
		secrets := map[string]string{}
		for _, e := range entries {
			secrets[e.Key.ID] = e.Secret
		}
		for _, b := range blocks {
			if err := b.Expand(secrets, s.hasher.Handle); err != nil {
				t.Fatal(err)
			}
			for range b.Times - 1 {
				s.clock.Set(b.At)
				if got := ask(t, &b); got.status != wireStatus(&b, name) {
					t.Fatalf("script.txt:%d: %s: status %d before the last of %d, want %d\n%s", b.Line, b.Name, got.status, b.Times, b.Status, got.body)
				}
			}
			s.clock.Set(b.At)
			compare(t, &b, ask(t, &b), wireStatus(&b, name))
		}
		s.log.mustNotHold(t, secrets)
	})
}

// wireStatus is the status that the client sees: Envoy answers a refused gRPC
// call with 200 and a grpc-status.
func wireStatus(b *testdata.Block, protocol string) int {
	if b.GRPC() && (protocol == "h1" || protocol == "h2") {
		return 200
	}
	return b.Status
}

func compare(t *testing.T, b *testdata.Block, got *answer, status int) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("script.txt:%d: %s: %s", b.Line, b.Name, fmt.Sprintf(format, args...))
	}
	if got.status != status {
		fail("status %d, want %d: %s", got.status, status, got.body)
	}
	if got.reached != b.Allowed() {
		fail("reached the application: %v", got.reached)
	}
	if b.WantBody != nil {
		if want := strings.ReplaceAll(*b.WantBody, "${request_id}", got.requestID); got.body != want {
			fail("body\n %s, want\n %s", got.body, want)
		}
	}
	wanted(fail, "header", b.WantHeaders, func(name string) (string, bool) { return joined(got.headers, name) })
	wanted(fail, "metadata", b.WantMeta, func(name string) (string, bool) { v, ok := got.meta[name]; return v, ok })
	if got.meta["decision_id"] == "" {
		fail("no decision_id in the metadata: %v", got.meta)
	}
	if got.upstream != nil {
		wanted(fail, "upstream", b.WantUpstream, func(name string) (string, bool) {
			if name == ":path" {
				return got.upstream.Path, true
			}
			return got.upstream.Value(name)
		})
	}
}

func wanted(fail func(string, ...any), kind string, wants []testdata.Want, get func(string) (string, bool)) {
	for _, w := range wants {
		value, present := get(w.Name)
		switch {
		case w.Absent && present:
			fail("%s %s: %q, want none", kind, w.Name, value)
		case !w.Absent && !present:
			fail("%s %s is missing, want %q", kind, w.Name, w.Value)
		case !w.Absent && value != w.Value:
			fail("%s %s: %q, want %q", kind, w.Name, value, w.Value)
		}
	}
}

func joined(headers [][2]string, name string) (string, bool) {
	var values []string
	for _, h := range headers {
		if strings.EqualFold(h[0], name) {
			values = append(values, h[1])
		}
	}
	return strings.Join(values, ","), values != nil
}

// plainRequestID stands in for the x-request-id that Envoy would have made.
const plainRequestID = "5f0c1a3e-0f63-4c0a-9d43-6b7d0e3f9a11"

// checkRequest builds the message that Envoy would send for a block.
func checkRequest(b *testdata.Block, encoding string) (*authv3.CheckRequest, [][2]string) {
	client := [][2]string{}
	for _, h := range b.Headers {
		name := strings.ToLower(h[0])
		switch name {
		case "host", "x-request-id", "x-envoy-external-address":
			continue
		}
		client = append(client, [2]string{name, strings.Trim(h[1], " \t")})
	}
	client = append(client,
		[2]string{"x-request-id", plainRequestID},
		[2]string{"x-envoy-external-address", b.Source.Unmap().String()},
		[2]string{"x-forwarded-for", b.Source.Unmap().String()})
	http := &authv3.AttributeContext_HttpRequest{
		Id: "1", Method: b.Method, Path: b.Target, Host: b.Host(), Scheme: "http", Protocol: "HTTP/1.1",
	}
	if encoding == "headers" {
		http.Headers = map[string]string{":path": b.Target, ":method": b.Method, ":authority": b.Host()}
		for _, h := range client {
			value, _ := joined(client, h[0])
			http.Headers[h[0]] = legible(value)
		}
	} else {
		http.HeaderMap = &corev3.HeaderMap{}
		for _, h := range client {
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
		}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:  &authv3.AttributeContext_Peer{Address: socketAddress(b.Source)},
		Request: &authv3.AttributeContext_Request{Http: http},
	}}, client
}

// legible is what Envoy makes of bytes that are not UTF-8.
func legible(s string) string {
	var out strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			out.WriteByte('!')
		} else {
			out.WriteString(s[:n])
		}
		s = s[n:]
	}
	return out.String()
}

func socketAddress(a netip.Addr) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: a.String()}}}
}

// askGRPC sends a block without an Envoy and does to the request what Envoy
// would do with the reply.
func askGRPC(t *testing.T, client authv3.AuthorizationClient, b *testdata.Block, encoding string) *answer {
	t.Helper()
	req, headers := checkRequest(b, encoding)
	resp, err := client.Check(within(t), req)
	if err != nil {
		t.Fatalf("script.txt:%d: %s: %v", b.Line, b.Name, err)
	}
	got := &answer{requestID: plainRequestID, meta: map[string]string{}}
	for name, value := range resp.GetDynamicMetadata().GetFields() {
		got.meta[name] = value.GetStringValue()
	}
	if denied := resp.GetDeniedResponse(); resp.GetStatus().GetCode() != 0 {
		got.status, got.body = int(denied.GetStatus().GetCode()), denied.GetBody()
		if b.Method == "HEAD" {
			got.body = ""
		}
		got.headers = overwrite(t, nil, denied.GetHeaders())
		return got
	}
	ok := resp.GetOkResponse()
	got.status, got.reached = 200, true
	got.headers = overwrite(t, nil, ok.GetResponseHeadersToAdd())
	got.upstream = &envoytest.Received{Method: b.Method, Path: b.Target, Host: b.Host()}
	for _, h := range overwrite(t, headers, ok.GetHeaders()) {
		switch {
		case h[0] == ":path":
			got.upstream.Path = h[1]
		case !contains(ok.GetHeadersToRemove(), h[0]):
			got.upstream.Headers = append(got.upstream.Headers, h)
		}
	}
	return got
}

func contains(list []string, name string) bool {
	for _, l := range list {
		if strings.EqualFold(l, name) {
			return true
		}
	}
	return false
}

// overwrite applies header options, and holds each to the one form that means
// the same to every Envoy.
func overwrite(t *testing.T, headers [][2]string, options []*corev3.HeaderValueOption) [][2]string {
	t.Helper()
	for _, o := range options {
		name, value := o.GetHeader().GetKey(), o.GetHeader().GetValue()
		//lint:ignore SA1019 Envoy 1.36 to 1.40 decide by this field alone
		if o.GetAppend() == nil || o.GetAppend().GetValue() || o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("header %s is not simply overwritten: %v", name, o)
		}
		kept := make([][2]string, 0, len(headers)+1)
		for _, h := range headers {
			if !strings.EqualFold(h[0], name) {
				kept = append(kept, h)
			}
		}
		headers = append(kept, [2]string{strings.ToLower(name), value})
	}
	return headers
}

// edge is a real Envoy in front of a stack and an application that echoes.
type edge struct {
	envoy     *envoytest.Envoy
	accessLog string
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

func startEnvoy(t *testing.T, version string, bootstrap []byte, tollgate string, s *stack) *edge {
	t.Helper()
	binary, err := findEnvoy(version)
	if err != nil {
		require(t, "envoy", err.Error())
	}
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	e := &edge{accessLog: filepath.Join(t.TempDir(), "access.log")}
	e.envoy, err = envoytest.Start(within(t), envoytest.Settings{
		Binary: binary, Bootstrap: bootstrap, Tollgate: tollgate, Upstream: upstream.Addr(),
		ProxyProtocol: true, CheckTimeout: limit, AccessLog: e.accessLog, Dir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.envoy.Stop(); err != nil {
			t.Errorf("envoy: %v", err)
		}
		if t.Failed() {
			lines, _ := os.ReadFile(e.accessLog)
			t.Logf("the end of Envoy's log:\n%s\nand the requests that Tollgate could not be asked about:", e.envoy.Log())
			for line := range bytes.Lines(lines) {
				if bytes.Contains(line, []byte("ext_authz_error")) {
					t.Logf("%s", line)
				}
			}
			for line := range strings.Lines(s.log.String()) {
				if strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
					t.Log(line)
				}
			}
		}
	})
	return e
}

func findEnvoy(version string) (string, error) {
	if version == envoy.Version() {
		return envoytest.Find()
	}
	return envoytest.FindVersion(version)
}

func (e *edge) ask(t *testing.T, b *testdata.Block, protocol string) *answer {
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
	got := &answer{status: resp.Status, headers: resp.Headers, body: string(resp.Body)}
	got.requestID, _ = resp.Value("x-request-id")
	if got.requestID == "" {
		t.Fatalf("script.txt:%d: %s: Envoy answered by itself: %d %s", b.Line, b.Name, resp.Status, resp.Body)
	}
	if message, ok := resp.Value("grpc-message"); ok && b.GRPC() {
		got.body, _ = url.PathUnescape(message)
	}
	var echo envoytest.Received
	if json.Unmarshal(resp.Body, &echo) == nil && echo.Method != "" {
		got.upstream = &echo
	}
	_, got.reached = resp.Value("x-envoy-upstream-service-time")
	got.meta = e.metadata(t, got.requestID)
	return got
}

func (e *edge) send(t *testing.T, r *envoytest.Request, protocol string) *envoytest.Response {
	t.Helper()
	send := r.SendH1
	if protocol == "h2" {
		send = r.SendH2
	}
	resp, err := send(within(t), e.envoy.Addr(), true)
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
	eventually(t, "an access-log line of request "+requestID, func() bool {
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
		return laneMetadata(t, fields)
	}
	return meta
}

// logs gathers the server's log and looks for what must never be in it.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) mustNotHold(t *testing.T, secrets map[string]string) {
	t.Helper()
	text := l.String()
	if text == "" {
		t.Error("nothing was logged")
	}
	for id, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("the log holds the secret of %s", id)
		}
	}
}
