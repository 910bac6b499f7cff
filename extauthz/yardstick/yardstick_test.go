package yardstick

import (
	"net"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
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
	defer conn.Close()
	response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{}})
	if err != nil {
		t.Fatal(err)
	}
	return response
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
