package yardstick

import (
	"net"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ours is a reply as Tollgate makes one.
func ours() *authv3.CheckResponse {
	header := func(name string) []*corev3.HeaderValueOption {
		return []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: name, Value: "v"}, Append: wrapperspb.Bool(false),
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}}
	}
	return &authv3.CheckResponse{
		Status:          &rpcstatus.Status{},
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{"reason": structpb.NewStringValue("allowed")}},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: header("x-consumer-id"), HeadersToRemove: []string{"authorization"}, ResponseHeadersToAdd: header("x-ratelimit-limit")}},
	}
}

func check(t *testing.T, server *grpc.Server) *authv3.CheckResponse {
	t.Helper()
	response, err := dial(t, server).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{}})
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// dial serves and returns a client.
func dial(t *testing.T, server *grpc.Server) authv3.AuthorizationClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return authv3.NewAuthorizationClient(conn)
}

// What grpc-go alone costs is compared with ours, so it has our transport; the
// yardstick has that of a server which sets nothing.
func TestTransports(t *testing.T) {
	wire, err := proto.Marshal(ours())
	if err != nil {
		t.Fatal(err)
	}
	stock, err := New(wire)
	if err != nil {
		t.Fatal(err)
	}
	// grpc-go takes 4 MiB unless it is told otherwise.
	large := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Body: strings.Repeat("x", 5<<20)}}}}
	if _, err := dial(t, Floor(wire)).Check(t.Context(), large); err != nil {
		t.Errorf("grpc-go alone: %v", err)
	}
	if _, err := dial(t, stock).Check(t.Context(), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the yardstick: %v", err)
	}
}

// The yardstick answers with our headers and without our metadata; grpc-go alone
// with exactly the bytes it was given.
func TestReplies(t *testing.T) {
	wire, err := proto.Marshal(ours())
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(wire)
	if err != nil {
		t.Fatal(err)
	}
	want := ours()
	want.DynamicMetadata = nil
	if got := check(t, server); !proto.Equal(got, want) {
		t.Errorf("the yardstick answers %v, want %v", got, want)
	}
	if got := check(t, Floor(wire)); !proto.Equal(got, ours()) {
		t.Errorf("grpc-go alone answers %v", got)
	}
}

func TestOnlyRepliesThatAllow(t *testing.T) {
	denied := &authv3.CheckResponse{Status: &rpcstatus.Status{Code: 7}, HttpResponse: ours().HttpResponse}
	for _, r := range []proto.Message{denied, &authv3.CheckResponse{}} {
		wire, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(wire); err == nil || !strings.Contains(err.Error(), "does not allow") {
			t.Errorf("%v: %v", r, err)
		}
	}
	if _, err := New([]byte{0xff}); err == nil {
		t.Error("bytes that are no message")
	}
}
