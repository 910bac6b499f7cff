package extauthz_test

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
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"tollgate/extauthz"
)

// laneClient is one connection to the HTTP lane.
type laneClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialLane(t *testing.T, address string) *laneClient {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return newLaneClient(t, c)
}

func newLaneClient(t *testing.T, c net.Conn) *laneClient {
	t.Helper()
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(limit))
	return &laneClient{t, c, bufio.NewReader(c)}
}

// get asks for a target and returns the status, and whether the connection goes on.
func (c *laneClient) get(target string) (status int, last bool) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, "GET "+target+" HTTP/1.1\r\nhost: lane\r\n\r\n"); err != nil {
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
func (c *laneClient) ends() bool {
	_, err := c.in.ReadByte()
	return err == io.EOF
}

// Streams whose clients wait for ever do not hold up the end.
func TestOpenStreamsDoNotHoldUpTheEnd(t *testing.T) {
	s := newStack(t, nil, smallFile())
	s.serveGRPC(t, extauthz.Config{Reflection: true})
	conn := s.dial(t)
	for range 3 {
		watch, err := healthv1.NewHealthClient(conn).Watch(context.Background(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	reflection, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := reflection.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := reflection.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	s.server.Shutdown(ctx)
	if ctx.Err() != nil {
		t.Error("the end waited for the streams")
	}
}

// What health checks are told over HTTP is what they are told over gRPC.
func TestLaneAnswersHealthChecks(t *testing.T) {
	s := newStack(t, nil, smallFile())
	address := serveLane(t, s, extauthz.LaneConfig{Trusted: loopback()})
	c, health := dialLane(t, address), healthv1.NewHealthClient(s.dial(t))
	both := func(what string, want int, wantLast bool) {
		t.Helper()
		if got, last := c.get("/readyz"); got != want || last != wantLast {
			t.Errorf("%s: %d, closed: %t; want %d, %t", what, got, last, want, wantLast)
		}
		resp, err := health.Check(within(t), &healthv1.HealthCheckRequest{})
		if serving := resp.GetStatus() == healthv1.HealthCheckResponse_SERVING; err != nil || serving != (want == 200) {
			t.Errorf("%s: %v, %v", what, resp, err)
		}
	}
	both("at first", 200, false)
	s.server.SetReady(false)
	both("not ready", 503, false)
	s.server.SetReady(true)
	both("ready again", 200, false)
	for _, other := range []string{"/readyz/", "/readyz?x", "/envoy/readyz", "/Readyz"} {
		if got, _ := c.get(other); got != 403 {
			t.Errorf("%s: %d, want the 403 of an unknown API", other, got)
		}
	}
	s.server.Drain()
	both("draining", 503, true)
}

// While proxies notice that the server leaves, its answers end their connections, so that none is cut with a request on
// its way; and whoever has not noticed yet is still served.
func TestLaneEndsConnectionsWithAnswers(t *testing.T) {
	s := newStack(t, nil, smallFile())
	address := serveLane(t, s, extauthz.LaneConfig{Trusted: loopback()})
	old := dialLane(t, address)
	if got, last := old.get("/envoy/api=small/open"); got != 200 || last {
		t.Errorf("before: %d, closed: %t", got, last)
	}
	s.server.Drain()
	for name, c := range map[string]*laneClient{"a connection from before": old, "a new one": dialLane(t, address)} {
		if got, last := c.get("/envoy/api=small/open"); got != 200 || !last || !c.ends() {
			t.Errorf("%s: %d, closed: %t", name, got, last)
		}
	}
}

func TestLaneConnectionsHaveAnAge(t *testing.T) {
	age, end, grpc := extauthz.LaneAges()
	// 120 s is how long Caddy keeps a connection that it does not use, the longest of the proxies.
	if quiet := end - age*11/10; end > grpc || quiet < 120*time.Second {
		t.Errorf("connections end after %s, on the gRPC port after %s; their last answer is %s before, want more than 120 s", end, grpc, quiet)
	}
	s := newStack(t, nil, smallFile())
	address := serveLane(t, s, extauthz.LaneConfig{Trusted: loopback()})
	s.lane.SetAges(0, time.Hour)
	if c := dialLane(t, address); true {
		if got, last := c.get("/envoy/api=small/open"); got != 200 || !last || !c.ends() {
			t.Errorf("an old connection: %d, closed: %t", got, last)
		}
	}
	s.lane.SetAges(time.Hour, 50*time.Millisecond)
	if !dialLane(t, address).ends() {
		t.Error("a connection that nobody uses is still there")
	}
}

// A client of a CA that is trusted no more keeps no open connection.
func TestLaneForgetsAnOldClientCA(t *testing.T) {
	ca, next := newAuthority(t), newAuthority(t)
	_, _, certPEM, keyPEM := ca.issue(t, "tollgate")
	s := newStack(t, nil, smallFile())
	var trusted atomic.Pointer[x509.CertPool]
	trusted.Store(ca.pool())
	address := serveLane(t, s, extauthz.LaneConfig{TLS: mutualTLS(t, certPEM, keyPEM, &trusted)})
	s.lane.SetAges(0, time.Hour)
	_, _, clientPEM, clientKey := ca.issue(t, "envoy")
	pair, err := tls.X509KeyPair(clientPEM, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: ca.pool(), ServerName: "tollgate", Certificates: []tls.Certificate{pair}}
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	trusted.Store(next.pool())
	open := newLaneClient(t, c)
	if _, last := open.get("/envoy/api=small/open"); !last || !open.ends() {
		t.Error("the connection of the old CA's client goes on")
	}
	if c, err := tls.Dial("tcp", address, config); err == nil {
		if again := newLaneClient(t, c); !again.refused() {
			t.Error("a new connection of the old CA's client is served")
		}
	}
}

// refused reports whether the server ends the connection without an answer, as it does in TLS 1.3 after the client's part
// of the handshake.
func (c *laneClient) refused() bool {
	_, _ = io.WriteString(c.conn, "GET /readyz HTTP/1.1\r\nhost: lane\r\n\r\n")
	_, err := c.in.ReadByte()
	return err != nil
}

// A server that is told to end while it starts has not failed.
func TestShutdownBeforeServe(t *testing.T) {
	s := newStack(t, nil, smallFile())
	s.server.Shutdown(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.server.Serve(l); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the port is open")
	}
}

// A request that is on its way when the lane ends, on a connection that was made before, is answered.
func TestLaneAnswersWhatIsOnItsWay(t *testing.T) {
	s := newStack(t, nil, smallFile())
	address := serveLane(t, s, extauthz.LaneConfig{Trusted: loopback()})
	fresh, used := dialLane(t, address), dialLane(t, address)
	for _, c := range []*laneClient{used, dialLane(t, address)} { // the last one shows that the others have been accepted
		if got, _ := c.get("/readyz"); got != 200 {
			t.Fatal(got)
		}
	}
	s.lane.SetLast(time.Hour)
	ctx, hurry := context.WithCancel(t.Context())
	defer hurry()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.lane.Shutdown(ctx)
	}()
	eventually(t, "the port is closed", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	for name, c := range map[string]*laneClient{"a new connection": fresh, "one in use": used} {
		if got, last := c.get("/envoy/api=small/open"); got != 200 || !last {
			t.Errorf("%s: %d, closed: %t", name, got, last)
		}
	}
	hurry()
	<-stopped
}
