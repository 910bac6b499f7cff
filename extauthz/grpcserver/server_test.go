package grpcserver_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
	"tollgate/policy"
	"tollgate/policy/keys"
)

func TestHealthThenDrainThenStop(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := func(context.Context) (keys.Grant, error) {
		close(entered)
		<-release
		return keys.Grant{}, keys.ErrUnknown
	}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Keys = extauthztest.BrokenStore{OnLookup: slow} }, extauthztest.SmallFile())
	conn := s.Dial(t)
	health := healthv1.NewHealthClient(conn)
	for _, service := range []string{"", "envoy.service.auth.v3.Authorization"} {
		resp, err := health.Check(extauthztest.Within(t), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, resp, err)
		}
	}
	watch, err := health.Watch(extauthztest.Within(t), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	secret, _ := extauthztest.SmallKey()
	answered := make(chan error, 1)
	go func() {
		resp, err := authv3.NewAuthorizationClient(conn).Check(extauthztest.Within(t), extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		if err == nil && resp.GetDeniedResponse().GetStatus().GetCode() != 401 {
			err = errors.New(resp.String())
		}
		answered <- err
	}()
	<-entered
	s.GRPC.Drain()
	s.GRPC.SetReady(true) // comes too late
	if resp, err := watch.Recv(); err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health while draining: %v, %v", resp, err)
	}
	if resp, err := authv3.NewAuthorizationClient(s.Dial(t)).Check(extauthztest.Within(t), extauthztest.Get("/open", nil)); err != nil || resp.GetStatus().GetCode() != 0 {
		t.Errorf("a check while proxies notice: %v, %v", resp, err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.GRPC.Shutdown(extauthztest.Within(t))
	}()
	// A watcher never ends by itself.
	if resp, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a watch of a server that stops: %v, %v", resp, err)
	}
	select {
	case <-stopped:
		t.Error("stopped while a call was under way")
	default:
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	<-stopped
}

func TestReflectionIsOffUnlessAsked(t *testing.T) {
	for _, on := range []bool{false, true} {
		s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
		s.ServeGRPC(t, grpcserver.Config{Reflection: on})
		stream, err := reflectionv1.NewServerReflectionClient(s.Dial(t)).ServerReflectionInfo(extauthztest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
		_, err = stream.Recv()
		if off := status.Code(err) == codes.Unimplemented; off == on {
			t.Errorf("reflection %v: %v", on, err)
		}
		_ = stream.CloseSend()
	}
}

// Whatever a decision holds, what leaves is a header value that no HTTP/1 writer
// can be split by.
func TestHeaderValuesAreClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain value":            "plain value",
		"a\r\nx-evil: 1":         "a  x-evil: 1",
		"nul\x00":                "nul ",
		"tab\tstays":             "tab\tstays",
		"Büro":                   "Büro",
		"bad utf-8 \xff\xfe end": "bad utf-8 ? end",
		"del\x7f":                "del ",
	} {
		if got := extauthz.CleanValue(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	evil := []policy.Header{{Name: "x-consumer-id", Value: "a\r\nx-admin: 1"}}
	for _, d := range []*policy.Decision{
		{Allow: true, Request: evil, Response: evil, Target: "/a\r\nb", Metadata: []policy.Header{{Name: "team", Value: "\xff"}}},
		{Status: 403, Response: evil, Body: []byte("\xff")},
	} {
		resp := decodeReply(t, grpcserver.Reply(d))
		for _, o := range append(append(resp.GetOkResponse().GetHeaders(), resp.GetOkResponse().GetResponseHeadersToAdd()...), resp.GetDeniedResponse().GetHeaders()...) {
			if strings.ContainsAny(o.GetHeader().GetValue(), "\r\n\x00") {
				t.Errorf("%v", o)
			}
		}
	}
	if got := decodeReply(t, grpcserver.Reply(&policy.Decision{})).GetStatus().GetCode(); got == 0 {
		t.Error("the zero decision allows")
	}
}

func decodeReply(t testing.TB, b []byte) *authv3.CheckResponse {
	t.Helper()
	resp := &authv3.CheckResponse{}
	if err := proto.Unmarshal(b, resp); err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestPeersThatAreNoAddress(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	req := extauthztest.Get("/open", nil)
	req.Attributes.Source = nil
	resp, err := authv3.NewAuthorizationClient(s.Dial(t)).Check(extauthztest.Within(t), req)
	if err != nil || resp.GetStatus().GetCode() != 0 {
		t.Errorf("a public route over a unix socket: %v, %v", resp, err)
	}
}

// Streams whose clients wait for ever do not hold up the end.
func TestOpenStreamsDoNotHoldUpTheEnd(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	s.ServeGRPC(t, grpcserver.Config{Reflection: true})
	conn := s.Dial(t)
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
	ctx := extauthztest.Within(t)
	s.GRPC.Shutdown(ctx)
	if ctx.Err() != nil {
		t.Error("the end waited for the streams")
	}
}

// A server that is told to end while it starts has not failed.
func TestShutdownBeforeServe(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	s.GRPC.Shutdown(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.GRPC.Serve(l); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the port is open")
	}
}
