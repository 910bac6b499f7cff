package httpserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/httpserver"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

// Nor does a connection that waits for its next request.
func TestNothingIsKeptByAConnection(t *testing.T) {
	extauthztest.RequestTraces(func(name, target, secret string, from extauthztest.BrokenStore, kept func(string) bool) {
		sent := "GET /envoy/api=small,target=rewritten" + target + " HTTP/1.1\r\nauthorization: Bearer " + secret + "\r\nx-request-id: mark\r\nx_consumer_id: mark\r\n\r\n"
		for _, text := range httpserver.HeldByConnection(extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), from), []byte(sent), extauthztest.TextsIn) {
			if kept(text) {
				t.Errorf("%s, %s: %q is kept", name, target, text)
			}
		}
	})
}

// A body that is too large is refused unread, and counted.
func TestLargeBodiesAreCounted(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	addr := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
	resp := rawRequest(t, addr, "POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: 99999\r\n\r\n")
	if n := s.HTTPRefused(t, "too_large"); n != 1 || resp != 413 {
		t.Errorf("%d, %v counted", resp, n)
	}
}

// rawRequest sends bytes to an address and returns the status of the answer.
func rawRequest(t *testing.T, addr, text string) int {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// first returns the first answer to a request line and headers.
func first(t *testing.T, ask func([]byte) []byte, lines ...string) (*http.Response, string) {
	t.Helper()
	out := ask([]byte(strings.Join(lines, "\r\n") + "\r\n\r\n"))
	method, _, _ := strings.Cut(lines[0], " ")
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v: %q", lines, err, out)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// Only a good target with a good key is allowed; everything that a client could try
// to say in the place of the proxy is not.
func TestTargets(t *testing.T) {
	ask := httpserver.Directly(extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), extauthztest.Allowing()))
	secret, _ := extauthztest.SmallKey()
	key := "authorization: Bearer " + secret
	for _, c := range []struct {
		status int
		reason string
		lines  []string
	}{
		{200, "allowed", []string{"GET /envoy/api=small/items/1 HTTP/1.1", "host: x", key}},
		{200, "allowed", []string{"GET /envoy/by=host/items/1?a=b HTTP/1.1", "host: small.test", key}},
		{200, "allowed", []string{"GET /envoy/by=header/items/1 HTTP/1.1", "x-tollgate-place: api=small", key}},
		{200, "allowed", []string{"GET /envoy/by=header/items/1 HTTP/1.1", "host: small.test", key}},
		{200, "allowed", []string{"GET /envoy/api=small,route=item/anything HTTP/1.1", "host: x", key}},
		// The client's path begins where the words end, whatever it says.
		{403, "route_denied", []string{"GET /envoy/api=small/../api=other/items/1 HTTP/1.1", key}},
		{403, "route_denied", []string{"GET /envoy/api=small//items/1 HTTP/1.1", key}},
		{403, "route_denied", []string{"GET /envoy/api=small/items%2f1 HTTP/1.1", key}},
		{403, "route_denied", []string{"GET /envoy/api=small/items/%2e%2e/open HTTP/1.1", key}},
		{403, "route_denied", []string{"GET /envoy/api=small/items/%zz HTTP/1.1", key}},
		{403, "route_denied", []string{"GET /envoy/api=small/items/a\xff HTTP/1.1", key}},
		{403, "route_denied", []string{"GET /envoy/api=small/items/a;b HTTP/1.1", key}},
		// Without encoding=raw an exclamation mark may stand for any byte.
		{403, "route_denied", []string{"GET /envoy/api=small/items/a!b HTTP/1.1", key}},
		{200, "allowed", []string{"GET /envoy/api=small/items/a?b=! HTTP/1.1", key}},
		{200, "allowed", []string{"GET /envoy/api=small,encoding=raw/items/a!b HTTP/1.1", key}},
		{200, "allowed", []string{"GET /envoy/by=header/items/a!b HTTP/1.1", "x-tollgate-place: api=small,encoding=raw", key}},
		{403, "route_denied", []string{"GET /envoy/api=small,encoding=raw/items/a\xff HTTP/1.1", key}},
		{401, "malformed_credential", []string{"GET /envoy/api=small,target=rewritten/items/a?b=!&api_key=" + secret + " HTTP/1.1"}},
		{200, "allowed", []string{"GET /envoy/api=small,target=rewritten,encoding=raw/items/a?b=!&api_key=" + secret + " HTTP/1.1"}},
		{403, "unknown_api", []string{"GET /envoy/by=header,encoding=raw/items/a HTTP/1.1", "x-tollgate-place: api=small", key}},
		{403, "unknown_api", []string{"GET /envoy/api=small,encoding=raw,encoding=raw/items/a HTTP/1.1", key}},
		// Methods are not folded.
		{403, "route_denied", []string{"delete /envoy/api=small/items/1 HTTP/1.1", key}},
		{200, "allowed", []string{"DELETE /envoy/api=small/items/1 HTTP/1.1", key}},
		{403, "route_denied", []string{"GET /nginx/api=small HTTP/1.1", "X-Original-Method: delete", "X-Original-URI: /items/1", key}},
		// Without the slash there is no telling where they end.
		{403, "unknown_api", []string{"GET /envoy/api=small HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /envoy/api=small,route=open HTTP/1.1"}},
		{403, "unknown_api", []string{"GET /envoy/api=small?/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /envoy/api=small,route=open?/open HTTP/1.1"}},
		{403, "unknown_api", []string{"CONNECT /envoy/api=small HTTP/1.1", key}},
		{403, "unknown_api", []string{"OPTIONS /envoy/api=small* HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /envoy/by=host HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/by=header HTTP/1.1", "x-tollgate-place: api=small", key}},
		{403, "route_denied", []string{"GET /envoy/api=small,route=gone/items/1 HTTP/1.1", key}},
		{403, "route_denied", []string{"CONNECT /envoy/api=small/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /envoy/api=small%2Croute=item/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /envoy/api=other/items/1 HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/api=/items/1 HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/api=small,api=small/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /envoy/api=small,by=host/items/1 HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/route=item/items/1 HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/items/1 HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy//items/1 HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy HTTP/1.1", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /Envoy/api=small/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET //envoy/api=small/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /x/../envoy/api=small/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET http://x/envoy/api=small/items/1 HTTP/1.1", key}},
		{403, "unknown_api", []string{"CONNECT small.test:443 HTTP/1.1", key}},
		{403, "unknown_api", []string{"OPTIONS * HTTP/1.1", key}},
		{403, "unknown_api", []string{"GET /envoy/by=host/items/1 HTTP/1.1", "host: small.test,small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/by=header/items/1 HTTP/1.1", "x-tollgate-place: api=small", "x-tollgate-place: api=small", key}},
		{403, "unknown_api", []string{"GET /envoy/by=header/items/1 HTTP/1.1", "x-tollgate-place:", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/by=header/items/1 HTTP/1.1", "x-tollgate-place: by=header", "host: small.test", key}},
		{403, "unknown_api", []string{"GET /envoy/api=other/items/1 HTTP/1.1", "x-tollgate-place: api=small", "host: small.test", key}},
		// Behind by=header nothing is a word.
		{403, "unknown_api", []string{"GET /envoy/by=header,route=open/x HTTP/1.1", "x-tollgate-place: api=small"}},
		{403, "unknown_api", []string{"GET /envoy/by=header,target=rewritten/items/1?api_key=" + secret + " HTTP/1.1", "x-tollgate-place: api=small"}},
		{403, "unknown_api", []string{"GET /envoy/by=header,environment=test/items/1 HTTP/1.1", "x-tollgate-place: api=small", key}},
		{403, "unknown_api", []string{"GET /envoy/by=header,by=header/open HTTP/1.1", "x-tollgate-place: api=small"}},
		{403, "unknown_api", []string{"GET /envoy/by=header,/open HTTP/1.1", "x-tollgate-place: api=small"}},
		{403, "unknown_api", []string{"OPTIONS /envoy/by=header* HTTP/1.1", "x-tollgate-place: api=small"}},
		{403, "unknown_api", []string{"GET /envoy/route=open,by=header/x HTTP/1.1", "x-tollgate-place: api=small"}},
		// The other proxies' words.
		{200, "allowed", []string{"GET /nginx/api=small HTTP/1.0", "X-Original-Method: GET", "X-Original-URI: /items/1", key}},
		{403, "route_denied", []string{"GET /nginx/api=small HTTP/1.1", "X-Original-Method: GET", key}},
		{403, "route_denied", []string{"GET /nginx/api=small HTTP/1.1", "X-Original-URI: /items/1", key}},
		{403, "route_denied", []string{"GET /nginx/api=small HTTP/1.1", "X-Original-Method: GET", "X-Original-URI: /items/1", "X-Original-URI: /items/1", key}},
		{403, "route_denied", []string{"GET /nginx/api=small HTTP/1.1", "X-Original-Method: GET", "X_Original_URI: /items/1", key}},
		{403, "unknown_api", []string{"GET /nginx/api=small/items/1 HTTP/1.1", "X-Original-Method: GET", "X-Original-URI: /items/1", key}},
		{403, "unknown_api", []string{"GET /nginx/by=header HTTP/1.1", "x-tollgate-place: api=small", "X-Original-Method: GET", "X-Original-URI: /items/1", key}},
		// Hosts, keys.
		{401, "malformed_credential", []string{"GET /envoy/api=small/items/1 HTTP/1.1", key, key}},
		{401, "missing_credential", []string{"GET /envoy/api=small/items/1 HTTP/1.1"}},
		{401, "missing_credential", []string{"GET /nginx/api=small HTTP/1.1", "X-Original-Method: GET", "X-Original-URI: /items/1"}},
	} {
		resp, body := first(t, ask, c.lines...)
		got := extauthztest.HTTPMetadata(t, resp.Header.Get("X-Tollgate-Decision"))["reason"]
		if resp.StatusCode != c.status || got != c.reason {
			t.Errorf("%q: %d %s, want %d %s\n%s", c.lines, resp.StatusCode, got, c.status, c.reason, body)
		}
	}
	for _, lines := range [][]string{
		{"GET /caddy/api=small?x=y HTTP/1.1", "X-Forwarded-Method: GET", "X-Forwarded-Uri: /items/1", key},
		{"GET /traefik/by=host HTTP/1.1", "Host: x", "X-Forwarded-Host: small.test", "X-Forwarded-Method: GET", "X-Forwarded-Uri: /items/1", key},
	} {
		if resp, body := first(t, ask, lines...); resp.StatusCode != 200 || resp.Header.Get("X-Tollgate-Decision") != "" {
			t.Errorf("%q: %d %s %v", lines, resp.StatusCode, body, resp.Header)
		}
	}
}

// What is no request is refused and ends the connection, and what follows it is not
// taken for another one.
func TestRefusesWhatIsNoRequest(t *testing.T) {
	ask := httpserver.Directly(extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), extauthztest.Allowing()))
	const smuggled = "GET /envoy/api=small/open HTTP/1.1\r\n\r\n"
	for _, sent := range []string{
		"GET /envoy/api=small/open HTTP/2.0\r\n\r\n", "GET /envoy/api=small/open\r\n\r\n", "GET  /envoy/api=small/open HTTP/1.1\r\n\r\n",
		"GET /envoy/api=small/open HTTP/1.1 \r\n\r\n", "GET /envoy/api=small/o pen HTTP/1.1\r\n\r\n", "G(T /envoy/api=small/open HTTP/1.1\r\n\r\n",
		"GET /envoy/api=small/\x00open HTTP/1.1\r\n\r\n", "GET /envoy/api=small/open HTTP/1.1\nhost: a\r\n\r\n", " GET /envoy/api=small/open HTTP/1.1\r\n\r\n",
		"GET /envoy/api=small/open HTTP/1.1\r\nhost : a\r\n\r\n", "GET /envoy/api=small/open HTTP/1.1\r\nhost: a\r\n b\r\n\r\n",
		"GET /envoy/api=small/open HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", "GET /envoy/api=small/open HTTP/1.1\r\nno colon\r\n\r\n",
		"GET /envoy/api=small/open HTTP/1.1\r\na: b\rc\r\n\r\n", "GET /envoy/api=small/open HTTP/1.1\r\na: b\x00\r\n\r\n",
		"POST /envoy/api=small/open HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nabcde",
		"POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: +5\r\n\r\nabcde", "POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\nabcde",
		"POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", "POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\nabcde",
		"GET /envoy/api=small/open HTTP/1.1\r\n" + strings.Repeat("a: b\r\n", 300) + "\r\n",
		"GET /envoy/api=small/open HTTP/1.1\r\na: " + strings.Repeat("b", 300<<10) + "\r\n\r\n",
	} {
		out := ask([]byte(sent + smuggled))
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), nil)
		if err != nil || resp.StatusCode < 400 || !resp.Close || bytes.Count(out, []byte("HTTP/1.1 ")) != 1 {
			t.Errorf("%.80q: %v, %.200q", sent, err, out)
		}
	}
	// A body is dropped, and the next request is the next one.
	out := ask([]byte("POST /envoy/api=small/items/1 HTTP/1.1\r\ncontent-length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled + "GET /envoy/api=small/items/2 HTTP/1.1\r\nconnection: close\r\n\r\n" + smuggled))
	if bytes.Count(out, []byte("HTTP/1.1 401 ")) != 2 || bytes.Count(out, []byte("HTTP/1.1 ")) != 2 {
		t.Errorf("%q", out)
	}
}

// Each proxy's address is the one that it overwrites.
func TestAddresses(t *testing.T) {
	external := func(r policy.Request) (values []string) {
		for _, h := range r.Headers {
			if h.Name == "x-envoy-external-address" {
				values = append(values, h.Value)
			}
		}
		return values
	}
	const forged = "x-envoy-external-address: 6.6.6.6"
	file := extauthztest.SmallFile("credentials:", "client_address: {from: external-address}\ncredentials:")
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{[]string{"GET /envoy/api=small/ HTTP/1.1", "x-envoy-external-address: 192.0.2.1", "x-real-ip: 6.6.6.6"}, "192.0.2.1"},
		{[]string{"GET /nginx/api=small HTTP/1.1", "x-real-ip: 192.0.2.1", forged, "x-forwarded-for: 6.6.6.6"}, "192.0.2.1"},
		{[]string{"GET /nginx/api=small HTTP/1.1", forged, "x-forwarded-for: 6.6.6.6"}, ""},
		{[]string{"GET /nginx/api=small HTTP/1.1", "x-real-ip: 192.0.2.1", "x-real-ip: 6.6.6.6"}, ""},
		{[]string{"GET /caddy/api=small HTTP/1.1", "x-forwarded-for: 6.6.6.6, 192.0.2.1", forged, "x-real-ip: 6.6.6.6"}, "192.0.2.1"},
		{[]string{"GET /traefik/api=small HTTP/1.1", "x-forwarded-for: 2001:db8::1", forged}, "2001:db8::1"},
		{[]string{"GET /traefik/api=small HTTP/1.1", "x-forwarded-for: 192.0.2.1:80", forged}, ""},
		{[]string{"GET /traefik/api=small HTTP/1.1", "x-forwarded-for: 192.0.2.1,", forged}, ""},
	} {
		r := httpserver.RequestOf(t, file, strings.Join(c.lines, "\r\n")+"\r\n\r\n")
		if got := strings.Join(external(r), "|"); got != c.want {
			t.Errorf("%q: %q, want %q", c.lines, got, c.want)
		}
	}
}

// A key in the query is refused unless the proxy says that it takes it out.
func TestKeysInTheQuery(t *testing.T) {
	ask := httpserver.Directly(extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), extauthztest.Allowing()))
	secret, _ := extauthztest.SmallKey()
	for place, want := range map[string]string{
		"/envoy/api=small": "", "/envoy/api=small,target=rewritten": "/items/1?a=%20&&b",
	} {
		resp, body := first(t, ask, "GET "+place+"/items/1?a=%20&api_key="+secret+"&&b HTTP/1.1")
		if got := resp.Header.Get("X-Tollgate-Target"); got != want || (resp.StatusCode == 200) != (want != "") {
			t.Errorf("%s: %d, target %q, want %q: %s", place, resp.StatusCode, got, want, body)
		}
	}
	resp, _ := first(t, ask, "GET /nginx/api=small HTTP/1.1", "x-original-method: GET", "x-original-uri: /items/1?api_key="+secret)
	if resp.StatusCode/100 != 4 || resp.Header.Get("X-Tollgate-Status") != "401" || resp.Header.Get("X-Tollgate-Body") == "" {
		t.Errorf("nginx: %d %v", resp.StatusCode, resp.Header)
	}
}

// Caddy's rewrite reads a target in a way of its own: the path goes out unescaped, and
// braces and a second "=" of the query escaped.
func TestTargetForCaddy(t *testing.T) {
	ask := httpserver.Directly(extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), extauthztest.Allowing()))
	secret, _ := extauthztest.SmallKey()
	resp, body := first(t, ask, "GET /caddy/api=small,target=rewritten HTTP/1.1", "x-forwarded-method: GET", "x-forwarded-uri: /items/a%20b?x={y}&api_key="+secret+"&c=d=e")
	if got := resp.Header.Get("X-Tollgate-Target"); resp.StatusCode != 200 || got != "/items/a b?x=%7By%7D&c=d%3De" {
		t.Errorf("%d, target %q: %s", resp.StatusCode, got, body)
	}
}

// A body that comes in pieces is dropped whole: the next request begins after it.
func TestBodyInPieces(t *testing.T) {
	ask := httpserver.Directly(extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), extauthztest.Allowing()))
	out := string(ask([]byte("POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: 5000\r\n\r\n" + strings.Repeat("x", 5000) + "GET /envoy/api=small/open HTTP/1.1\r\n\r\n")))
	if n := strings.Count(out, "HTTP/1.1 "); n != 2 || !strings.Contains(out, "HTTP/1.1 200 ") {
		t.Errorf("%d answers: %q", n, out)
	}
}

// A 5xx of the API is no failure of Tollgate, and a failure of Tollgate is nothing
// else; neither allows.
func TestWhenUndecided(t *testing.T) {
	away := extauthztest.BrokenStore{OnLookup: func(context.Context) (keys.Grant, error) { return keys.Grant{}, errors.New("connection refused") }}
	panics := extauthztest.BrokenStore{OnLookup: func(context.Context) (keys.Grant, error) { panic("sm_secret") }}
	rpc := extauthztest.SmallFile("errors:", "undecided: rpc\nerrors:")
	secret, _ := extauthztest.SmallKey()
	key := "authorization: Bearer " + secret
	envoyLine, nginxLine := "GET /envoy/api=small/items/1 HTTP/1.1", "GET /nginx/api=small HTTP/1.1"
	caddyLine := "GET /caddy/api=small HTTP/1.1"
	other := []string{"x-original-method: GET", "x-original-uri: /items/1", "x-forwarded-method: GET", "x-forwarded-uri: /items/1", key}
	for _, c := range []struct {
		file             policyfile.File
		store            extauthztest.BrokenStore
		line             string
		status           int
		shown, body, say string
	}{
		{extauthztest.SmallFile(), away, envoyLine, 403, "500", `{"error":{"code":"internal_error","message":"Our fault."}}`, ""},
		{extauthztest.SmallFile(), away, nginxLine, 403, "500", "", `{"error":{"code":"internal_error","message":"Our fault."}}`},
		{extauthztest.SmallFile(), away, caddyLine, 500, "", `{"error":{"code":"internal_error","message":"Our fault."}}`, ""},
		{rpc, away, envoyLine, 503, "", "", ""}, {rpc, away, nginxLine, 503, "", "", ""}, {rpc, away, caddyLine, 503, "", "", ""},
		{extauthztest.SmallFile(), panics, envoyLine, 503, "", "", ""},
	} {
		resp, body := first(t, httpserver.Directly(extauthztest.AuthorizerOf(t, c.file, c.store)), append([]string{c.line}, other...)...)
		if resp.StatusCode != c.status || resp.Header.Get("X-Tollgate-Status") != c.shown || body != c.body || resp.Header.Get("X-Tollgate-Body") != c.say {
			t.Errorf("%s: %d %v %s", c.line, resp.StatusCode, resp.Header, body)
		}
	}
	// Envoy's time is up before ours: no answer, least of all an allow.
	slow := extauthztest.Allowing()
	slow.OnLookup = func(ctx context.Context) (keys.Grant, error) {
		for start := time.Now(); time.Since(start) < 11*time.Millisecond; {
			runtime.Gosched()
		}
		return extauthztest.Found(ctx)
	}
	if resp, _ := first(t, httpserver.Directly(extauthztest.AuthorizerOf(t, extauthztest.SmallFile(), slow)), envoyLine, key, "x-envoy-expected-rq-timeout-ms: 10"); resp.StatusCode == 200 {
		t.Error("allowed after Envoy's deadline")
	}
}

// Only trusted peers are served, on TCP; a unix socket has its permissions.
func TestPeers(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	addr := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	if resp, err := http.Get("http://" + addr + "/envoy/api=small/open"); err == nil {
		t.Errorf("a stranger got %d", resp.StatusCode)
	}
	if n := s.HTTPRefused(t, "peer"); n != 1 {
		t.Errorf("%v refused peers are counted", n)
	}
	socket := filepath.Join(extauthztest.ShortFolder(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	extauthztest.ServeHTTPOn(t, httpserver.New(s.Authorizer, httpserver.Config{Trusted: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}), l)
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /envoy/api=small/open HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("over the socket: %v, %v", resp, err)
	}
}

// With mTLS a client without a certificate of the CA is not served.
func TestMutualTLS(t *testing.T) {
	ours := extauthztest.NewAuthority(t)
	_, _, cert, key := ours.Issue(t, "tollgate")
	_, _, clientCert, clientKey := ours.Issue(t, "envoy")
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	var trusted atomic.Pointer[x509.CertPool]
	trusted.Store(ours.Pool())
	addr := extauthztest.ServeHTTP(t, s, httpserver.Config{TLS: mutualTLS(t, cert, key, &trusted)})
	pair, err := tls.X509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range [][]tls.Certificate{nil, {pair}} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: chain}}}
		resp, err := client.Get("https://" + addr + "/envoy/api=small/open")
		if served := err == nil && resp.StatusCode == 200 && resp.ProtoMajor == 1; served != (chain != nil) {
			t.Errorf("%d certificates: %v, %v", len(chain), resp, err)
		}
		client.CloseIdleConnections()
	}
}

// mutualTLS is a configuration that follows which CA is trusted.
func mutualTLS(t *testing.T, cert, key []byte, trusted *atomic.Pointer[x509.CertPool]) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: trusted.Load(), ClientAuth: tls.RequireAndVerifyClientCert}, nil
	}}
}

// A request under way when the server is told to stop is answered; idle connections
// end at once.
func TestDrains(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := extauthztest.Allowing()
	slow.OnLookup = func(ctx context.Context) (keys.Grant, error) {
		close(entered)
		<-release
		return extauthztest.Found(ctx)
	}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Keys, c.Limits = slow, slow }, extauthztest.SmallFile())
	addr := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(extauthztest.Limit))
		return c, bufio.NewReader(c)
	}
	idle, idleReader := dial()
	_, _ = io.WriteString(idle, "GET /envoy/api=small/open HTTP/1.1\r\n\r\n")
	if resp, err := http.ReadResponse(idleReader, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	secret, _ := extauthztest.SmallKey()
	busy, busyReader := dial()
	_, _ = io.WriteString(busy, "GET /envoy/api=small/items/1 HTTP/1.1\r\nauthorization: Bearer "+secret+"\r\n\r\n")
	<-entered
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.HTTP.Shutdown(extauthztest.Within(t))
	}()
	if _, err := idleReader.ReadByte(); err != io.EOF {
		t.Errorf("the idle connection: %v", err)
	}
	select {
	case <-stopped:
		t.Error("stopped while a request was under way")
	default:
	}
	close(release)
	if resp, err := http.ReadResponse(busyReader, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the request under way: %v, %v", resp, err)
	}
	<-stopped
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("it still listens")
	}
}

// FuzzRequest sends any bytes: never a panic, never an allow without a key but on the
// public route, and no request that net/http reads otherwise than the server does.
func FuzzRequest(f *testing.F) {
	secret, _ := extauthztest.SmallKey()
	for _, seed := range []string{
		"GET /envoy/api=small/items/1 HTTP/1.1\r\nauthorization: Bearer " + secret + "\r\n\r\n",
		"GET /envoy/by=header/open HTTP/1.1\r\nX-Tollgate-Place: api=small,target=rewritten\r\n\r\n",
		"GET /nginx/api=small HTTP/1.0\r\nX-Original-Method: GET\r\nX-Original-URI: /open?api_key=x\r\nX-Real-IP: ::1\r\n\r\n",
		"HEAD /caddy/by=host?x HTTP/1.1\r\nX-Forwarded-Host: small.test\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Uri: /items/1\r\n\r\n",
		"POST /traefik/api=small HTTP/1.1\r\nContent-Length: 3\r\nHost: a\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	unknown := func(context.Context) (keys.Grant, error) { return keys.Grant{}, keys.ErrUnknown }
	ask := httpserver.Directly(extauthztest.AuthorizerOf(f, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: unknown}))
	f.Fuzz(func(t *testing.T, sent []byte) {
		out := ask(sent)
		if bytes.Contains(out, []byte("HTTP/1.1 200 ")) && !bytes.Contains(sent, []byte("open")) {
			t.Errorf("%q allowed: %q", sent, out)
		}
		end := bytes.Index(sent, []byte("\r\n\r\n"))
		if end < 0 {
			return
		}
		got, err := httpserver.ParseMessage(bytes.Clone(sent[:end+4]))
		if err != nil {
			return
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(sent)))
		if err != nil {
			return // net/http also refuses what is no URL
		}
		host := want.Host
		if want.URL.Host != "" {
			host = got.Host // an absolute target, which is refused later
		}
		if want.Method != got.Method || want.RequestURI != got.Target || host != got.Host || max(want.ContentLength, 0) != got.Length {
			t.Errorf("%q: %+v, net/http reads %s %s %s %d", sent, got, want.Method, want.RequestURI, want.Host, want.ContentLength)
		}
	})
}

// BenchmarkRequest is one request of a busy connection, without network and store:
// read, decide on a key that is found at once, write.
func BenchmarkRequest(b *testing.B) {
	ask := httpserver.Directly(extauthztest.AuthorizerOf(b, extauthztest.SmallFile("limits: [{name: minute, requests: 5, per: minute}]", "limits: []"), extauthztest.Allowing()))
	secret, _ := extauthztest.SmallKey()
	request := []byte("GET /envoy/api=small/items/1?a=b HTTP/1.1\r\nhost: small.test\r\ncontent-length: 0\r\nauthorization: Bearer " + secret +
		"\r\nx-request-id: 5f0c1a3e-0f63-4c0a-9d43-6b7d0e3f9a11\r\nx-envoy-external-address: 192.0.2.1\r\nx-envoy-expected-rq-timeout-ms: 250\r\n\r\n")
	b.ReportAllocs()
	if out := ask(bytes.Repeat(request, b.N)); bytes.Count(out, []byte("HTTP/1.1 200 ")) != b.N {
		b.Fatalf("not all of %d were allowed: %.300q", b.N, out)
	}
}
