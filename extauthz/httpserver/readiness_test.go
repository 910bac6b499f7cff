package httpserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/httpserver"
)

// client is one connection to the server.
type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, address string) *client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}

func newClient(t *testing.T, c net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(extauthztest.Limit))
	return &client{t, c, bufio.NewReader(c)}
}

// get asks for a target and returns the status, and whether the connection goes on.
func (c *client) get(target string) (status int, last bool) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, "GET "+target+" HTTP/1.1\r\nhost: x\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("%s: %v", target, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, resp.Close
}

// ends reports whether the server closes the connection.
func (c *client) ends() bool {
	_, err := c.in.ReadByte()
	return err == io.EOF
}

// What health checks are told over HTTP is what they are told over gRPC.
func TestHealthChecks(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	address := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
	c, health := dial(t, address), healthv1.NewHealthClient(s.Dial(t))
	both := func(what string, want int, wantLast bool) {
		t.Helper()
		if got, last := c.get("/readyz"); got != want || last != wantLast {
			t.Errorf("%s: %d, closed: %t; want %d, %t", what, got, last, want, wantLast)
		}
		resp, err := health.Check(extauthztest.Within(t), &healthv1.HealthCheckRequest{})
		if serving := resp.GetStatus() == healthv1.HealthCheckResponse_SERVING; err != nil || serving != (want == 200) {
			t.Errorf("%s: %v, %v", what, resp, err)
		}
	}
	both("at first", 200, false)
	s.GRPC.SetReady(false)
	both("not ready", 503, false)
	s.GRPC.SetReady(true)
	both("ready again", 200, false)
	for _, other := range []string{"/readyz/", "/readyz?x", "/envoy/readyz", "/Readyz"} {
		if got, _ := c.get(other); got != 403 {
			t.Errorf("%s: %d, want the 403 of an unknown API", other, got)
		}
	}
	s.GRPC.Drain()
	both("draining", 503, true)
}

// While proxies notice that the server leaves, its answers end their connections, so that none is
// cut with a request on its way; and whoever has not noticed yet is still served.
func TestEndsConnectionsWithAnswers(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	address := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
	old := dial(t, address)
	if got, last := old.get("/envoy/api=small/open"); got != 200 || last {
		t.Errorf("before: %d, closed: %t", got, last)
	}
	s.GRPC.Drain()
	for name, c := range map[string]*client{"a connection from before": old, "a new one": dial(t, address)} {
		if got, last := c.get("/envoy/api=small/open"); got != 200 || !last || !c.ends() {
			t.Errorf("%s: %d, closed: %t", name, got, last)
		}
	}
}

func TestConnectionsHaveAnAge(t *testing.T) {
	age, end, grpc := httpserver.Ages()
	// 120 s is how long Caddy keeps a connection that it does not use, the longest of the proxies.
	if quiet := end - age*11/10; end > grpc || quiet < 120*time.Second {
		t.Errorf("connections end after %s, on the gRPC port after %s; their last answer is %s before, want more than 120 s", end, grpc, quiet)
	}
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	address := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
	s.HTTP.SetAges(0, time.Hour)
	if c := dial(t, address); true {
		if got, last := c.get("/envoy/api=small/open"); got != 200 || !last || !c.ends() {
			t.Errorf("an old connection: %d, closed: %t", got, last)
		}
	}
	s.HTTP.SetAges(time.Hour, 50*time.Millisecond)
	if !dial(t, address).ends() {
		t.Error("a connection that nobody uses is still there")
	}
}

// A client of a CA that is trusted no more keeps no open connection.
func TestForgetsAnOldClientCA(t *testing.T) {
	ca, next := extauthztest.NewAuthority(t), extauthztest.NewAuthority(t)
	_, _, certPEM, keyPEM := ca.Issue(t, "tollgate")
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	var trusted atomic.Pointer[x509.CertPool]
	trusted.Store(ca.Pool())
	address := extauthztest.ServeHTTP(t, s, httpserver.Config{TLS: mutualTLS(t, certPEM, keyPEM, &trusted)})
	s.HTTP.SetAges(0, time.Hour)
	_, _, clientPEM, clientKey := ca.Issue(t, "envoy")
	pair, err := tls.X509KeyPair(clientPEM, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: ca.Pool(), ServerName: "tollgate", Certificates: []tls.Certificate{pair}}
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	trusted.Store(next.Pool())
	open := newClient(t, c)
	if _, last := open.get("/envoy/api=small/open"); !last || !open.ends() {
		t.Error("the connection of the old CA's client goes on")
	}
	if c, err := tls.Dial("tcp", address, config); err == nil {
		if again := newClient(t, c); !again.refused() {
			t.Error("a new connection of the old CA's client is served")
		}
	}
}

// refused reports whether the server ends the connection without an answer, as it does in TLS 1.3
// after the client's part of the handshake.
func (c *client) refused() bool {
	_, _ = io.WriteString(c.conn, "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
	_, err := c.in.ReadByte()
	return err != nil
}

// A request that is on its way when the server ends, on a connection that was made before, is
// answered.
func TestAnswersWhatIsOnItsWay(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	address := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
	fresh, used := dial(t, address), dial(t, address)
	for _, c := range []*client{used, dial(t, address)} { // the last one shows that the others have been accepted
		if got, _ := c.get("/readyz"); got != 200 {
			t.Fatal(got)
		}
	}
	s.HTTP.SetLast(time.Hour)
	ctx, hurry := context.WithCancel(t.Context())
	defer hurry()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.HTTP.Shutdown(ctx)
	}()
	extauthztest.Eventually(t, "the port is closed", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	for name, c := range map[string]*client{"a new connection": fresh, "one in use": used} {
		if got, last := c.get("/envoy/api=small/open"); got != 200 || !last {
			t.Errorf("%s: %d, closed: %t", name, got, last)
		}
	}
	hurry()
	<-stopped
}
