package envoytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/policy/connect/redistest"
)

// received decodes what the upstream answered.
func received(t *testing.T, r *Response) *Received {
	t.Helper()
	var got Received
	if err := json.Unmarshal(r.Body, &got); err != nil {
		t.Fatalf("status %d, body %q: %v", r.Status, r.Body, err)
	}
	return &got
}

func TestRoundTripIsByteForByte(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, binary string) {
		e := newEdge(t, binary, nil)
		for _, protocol := range []string{"h1", "h2"} {
			t.Run(protocol, func(t *testing.T) {
				target := "/a//b/../%2f;x/%61?flag&y=%20z&y=1&q=%zz"
				response, err := e.send(t, protocol, &Request{Method: "POST", Target: target, Host: "api.pixelbyte.io:1",
					Headers: [][2]string{{"X-Raw", "a\xff\xfeb"}, {"X-API-Key", "k1"}, {"X-API-Key", "k2"}, {"x-two", "1"}, {"x-two", "2"}},
					Body:    bytes.Repeat([]byte("body"), 100_000)})
				if err != nil {
					t.Fatal(err)
				}
				got := received(t, response)
				if got.Method != "POST" || got.Path != target || got.Host != "api.pixelbyte.io:1" {
					t.Errorf("the upstream got %s %s %s", got.Method, got.Path, got.Host)
				}
				if v, _ := got.Value("x-raw"); v != `a\xff\xfeb` {
					t.Errorf("x-raw arrived as %q", v)
				}
				if !slices.Contains(got.Headers, [2]string{"x-two", "1"}) || !slices.Contains(got.Headers, [2]string{"x-two", "2"}) {
					t.Errorf("x-two twice arrived as %q", got.Headers)
				}
				if v := e.authority.header("x-api-key"); v != "k1|k2" {
					t.Errorf("the check had x-api-key %q, want two copies", v)
				}
				if v := e.authority.header("x-two"); v != "" {
					t.Errorf("the check had x-two %q, which is not in allowed_headers", v)
				}
				check, _ := e.authority.last()
				if id, _ := response.Value("x-request-id"); id == "" || id != e.authority.header("x-request-id") {
					t.Errorf("x-request-id %q is not the one of check %s", id, check)
				}
			})
		}
	})
}

func TestOddRequestsAreAnswered(t *testing.T) {
	e := newEdge(t, requireEnvoy(t, Find), nil)
	host := "api.pixelbyte.io"
	long := [2]string{"x-long", strings.Repeat("a", 70_000)}
	fits := [2]string{"x-long", strings.Repeat("a", 50_000)}
	for _, c := range []struct {
		name    string
		request *Request
		h1, h2  int // 0: the connection or stream is reset
	}{
		{"HEAD", &Request{Method: "HEAD", Target: "/", Host: host}, 200, 200},
		{"HEAD denied", &Request{Method: "HEAD", Target: "/denied", Host: host}, 401, 401},
		{"denied", get(host, "/denied"), 401, 401},
		{"OPTIONS *", &Request{Method: "OPTIONS", Target: "*", Host: host}, 404, 404},
		{"CONNECT", &Request{Method: "CONNECT", Target: host + ":443", Host: host + ":443"}, 404, 404},
		{"absolute form", get("other.test", "http://"+host+"/a"), 200, 0},
		{"underscore", get(host, "/", [2]string{"x_consumer_id", "admin"}), 400, 0},
		{"headers too large", get(host, "/", long), 431, 0},
		{"large headers", get(host, "/", fits), 200, 200},
		{"two hosts", get(host, "/", [2]string{"Host", "other.test"}), 200, 200},
		{"empty host", get("", "/"), 200, 0},
		{"fragment", get(host, "/a#b"), 400, 400},
		{"raw bytes in the path", get(host, "/a\xff\xfeb"), 400, 200},
		{"gRPC denied", get(host, "/denied", [2]string{"content-type", "application/grpc"}), 200, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			for protocol, want := range map[string]int{"h1": c.h1, "h2": c.h2} {
				response, err := e.send(t, protocol, c.request)
				if want == 0 && err == nil {
					t.Errorf("%s: status %d, want an error", protocol, response.Status)
				}
				if want != 0 && (err != nil || response.Status != want) {
					t.Errorf("%s: %+v, %v, want status %d", protocol, response, err, want)
				}
				if err != nil && errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: hung", protocol)
				}
			}
		})
	}
}

func TestHeadAndGRPCAnswers(t *testing.T) {
	e := newEdge(t, requireEnvoy(t, Find), nil)
	for _, protocol := range []string{"h1", "h2"} {
		head, err := e.send(t, protocol, &Request{Method: "HEAD", Target: "/denied", Host: "api.pictify.io"})
		if err != nil {
			t.Fatal(err)
		}
		if length, _ := head.Value("content-length"); length != "11" || len(head.Body) != 0 {
			t.Errorf("%s HEAD: content-length %q, body %q", protocol, length, head.Body)
		}
		call, err := e.send(t, protocol, &Request{Method: "POST", Target: "/denied", Host: "api.pictify.io",
			Headers: [][2]string{{"content-type", "application/grpc"}, {"te", "trailers"}}})
		if err != nil {
			t.Fatal(err)
		}
		if code, _ := call.Value("grpc-status"); code != "16" {
			t.Errorf("%s gRPC: %+v, want grpc-status 16", protocol, call)
		}
	}
}

func TestForgedAddressesAndIdentitiesAreGone(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, binary string) {
		e := newEdge(t, binary, func(s *Settings) { s.ProxyProtocol = true })
		for _, source := range []string{"198.51.100.7", "2001:db8::7", "::ffff:198.51.100.7", ""} {
			for _, protocol := range []string{"h1", "h2"} {
				request := get("api.genapi.test", "/", [2]string{"x-envoy-external-address", "6.6.6.6"},
					[2]string{"X-Envoy-External-Address", "7.7.7.7"}, [2]string{"x-forwarded-for", "6.6.6.6"},
					[2]string{"X-Consumer-ID", "a"}, [2]string{"x-consumer-username", "a"}, [2]string{"x-credential-identifier", "a"},
					[2]string{"x-authenticated-scope", "a"}, [2]string{"x-consumer-plan", "a"},
					[2]string{"x-envoy-auth-failure-mode-allowed", "true"})
				want := "127.0.0.1" // PROXY UNKNOWN: the connection's own
				if source != "" {
					request.Source, want = address(source), source
				}
				response, err := e.send(t, protocol, request)
				if err != nil {
					t.Fatal(err)
				}
				if got := e.authority.header("x-envoy-external-address"); got != want {
					t.Errorf("%s from %q: x-envoy-external-address %q, want %q", protocol, source, got, want)
				}
				check, _ := e.authority.last()
				if got := check.GetAttributes().GetSource().GetAddress().GetSocketAddress().GetAddress(); got != want {
					t.Errorf("%s from %q: source.address %q, want %q", protocol, source, got, want)
				}
				upstream := received(t, response)
				for _, name := range []string{"x-consumer-id", "x-consumer-username", "x-credential-identifier",
					"x-authenticated-scope", "x-consumer-plan", "x-envoy-auth-failure-mode-allowed"} {
					if v, there := upstream.Value(name); there {
						t.Errorf("%s: the client's %s: %s reached the upstream", protocol, name, v)
					}
				}
			}
		}
		e.proxy = false
		if response, err := e.send(t, "h1", get("api.pictify.io", "/")); err == nil {
			t.Errorf("without a PROXY line: status %d, want an error", response.Status)
		}
	})
}

func TestBrowsers(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, binary string) {
		e := newEdge(t, binary, nil)
		origin := [2]string{"Origin", "https://app.example.com"}
		preflight := func(origin [2]string) *Request {
			return &Request{Method: "OPTIONS", Target: "/v1/jobs", Host: "api.pixelbyte.io", Headers: [][2]string{origin,
				{"Access-Control-Request-Method", "POST"}, {"Access-Control-Request-Headers", "authorization"}}}
		}
		for _, protocol := range []string{"h1", "h2"} {
			_, before := e.authority.last()
			response, err := e.send(t, protocol, preflight(origin))
			if err != nil {
				t.Fatal(err)
			}
			_, after := e.authority.last()
			methods, _ := response.Value("access-control-allow-methods")
			headers, _ := response.Value("access-control-allow-headers")
			if response.Status != 200 || before != after || !strings.Contains(methods, "DELETE") || !strings.Contains(headers, "x-api-key") {
				t.Errorf("%s preflight: %+v, %d checks", protocol, response, after-before)
			}
			response, err = e.send(t, protocol, get("api.pixelbyte.io", "/denied", origin))
			if err != nil {
				t.Fatal(err)
			}
			if v, _ := response.Value("access-control-allow-origin"); response.Status != 401 || v != origin[1] {
				t.Errorf("%s denial: %+v, want 401 with its CORS headers", protocol, response)
			}
			response, err = e.send(t, protocol, preflight([2]string{"Origin", "https://evil.test"}))
			if err != nil {
				t.Fatal(err)
			}
			if v, there := response.Value("access-control-allow-origin"); there {
				t.Errorf("%s preflight of another origin: allowed for %s", protocol, v)
			}
		}
	})
}

func TestAccessLogHoldsNoQuery(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, binary string) {
		e := newEdge(t, binary, nil)
		for _, target := range []string{"/v1/x", "/denied"} {
			if err := os.Truncate(e.accessLog, 0); err != nil {
				t.Fatal(err)
			}
			response, err := e.send(t, "h1", get("api.pictify.io", target+"?api_key=SECRET", [2]string{"x-api-key", "SECRET"}))
			if err != nil {
				t.Fatal(err)
			}
			var line []byte
			eventually(t, "an access log entry", func() bool {
				line, _ = os.ReadFile(e.accessLog)
				return bytes.HasSuffix(line, []byte("\n"))
			})
			var entry struct {
				Method, Path, Details, Client string
				Status                        int
				RequestID                     string `json:"request_id"`
				Tollgate                      map[string]any
			}
			if err := json.Unmarshal(line, &entry); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			id, _ := response.Value("x-request-id")
			if entry.Path != target || entry.Method != "GET" || entry.Status != response.Status || entry.RequestID != id ||
				entry.Details == "" || entry.Client != "127.0.0.1" || entry.Tollgate["key_id"] != "key_fixture" {
				t.Errorf("access log entry %s", line)
			}
			if bytes.Contains(line, []byte("SECRET")) {
				t.Errorf("the key is in the access log: %s", line)
			}
		}
	})
}

func TestTollgateGone(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, binary string) {
		e := newEdge(t, binary, func(s *Settings) { s.Tollgate = "unix:" + filepath.Join(t.TempDir(), "none") })
		response, err := e.send(t, "h1", get("api.pictify.io", "/"))
		if err != nil || response.Status != 503 || len(response.Body) != 0 {
			t.Errorf("%+v, %v, want an empty 503", response, err)
		}
	})
}

func TestUpstreamOnUnixSocketAndFixedPort(t *testing.T) {
	upstream, err := Serve("unix:" + filepath.Join(t.TempDir(), "up"))
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	port, err := strconv.Atoi(redistest.FreePort(t))
	if err != nil {
		t.Fatal(err)
	}
	e := newEdge(t, requireEnvoy(t, Find), func(s *Settings) {
		s.Upstream, s.ListenPort, s.AccessLog = upstream.Addr(), port, ""
	})
	if got := e.envoy.Addr(); !strings.HasSuffix(got, ":"+strconv.Itoa(port)) {
		t.Errorf("Addr %s, want port %d", got, port)
	}
	response, err := e.send(t, "h1", get("api.pictify.io", "/over/unix"))
	if err != nil || received(t, response).Path != "/over/unix" {
		t.Errorf("%+v, %v", response, err)
	}
	eventually(t, "the access log in Log", func() bool { return strings.Contains(e.envoy.Log(), `"path":"/over/unix"`) })
}

func TestSendEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	request := get("a.test", "/")
	for name, send := range map[string]func(context.Context, string, bool) (*Response, error){"h1": request.SendH1, "h2": request.SendH2} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := send(ctx, silent.Addr().String(), false)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want the context's error", name, err)
		}
	}
}
