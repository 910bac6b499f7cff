package grpcserver_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"tollgate/extauthz/extauthztest"
)

// rawBytes sends a message that is no message.
type rawBytes struct{}

func (rawBytes) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawBytes) Unmarshal(mem.BufferSlice, any) error { return nil }
func (rawBytes) Name() string                         { return "proto" }

// Envoy takes these errors for a failure of ours, and with failure_mode_allow lets the
// request pass: they are counted and told, not each of them singly.
func TestUnreadChecksAreCounted(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	conn, err := grpc.NewClient(s.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	large := extauthztest.Get("/open", nil)
	large.Attributes.Request.Http.RawBody = bytes.Repeat([]byte{0xff}, 10_500_000)
	for range 2 {
		if _, err := authv3.NewAuthorizationClient(conn).Check(extauthztest.Within(t), large); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a body of 10.5 MB: %v", err)
		}
	}
	if err := conn.Invoke(extauthztest.Within(t), authv3.Authorization_Check_FullMethodName, []byte{0xff}, new(any), grpc.ForceCodecV2(rawBytes{})); status.Code(err) != codes.Internal {
		t.Errorf("no message: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := authv3.NewAuthorizationClient(conn).Check(gone, extauthztest.Get("/open", nil)); status.Code(err) != codes.Canceled {
		t.Errorf("a caller that has gone: %v", err)
	}
	if _, err := authv3.NewAuthorizationClient(conn).Check(extauthztest.Within(t), extauthztest.Get("/open", nil)); err != nil {
		t.Errorf("a good one: %v", err)
	}
	const want = `
# HELP tollgate_grpc_refused_total Check requests over gRPC answered with an RPC error unread: too_large (over 9 MiB: Envoy sends request bodies), malformed.
# TYPE tollgate_grpc_refused_total counter
tollgate_grpc_refused_total{why="malformed"} 1
tollgate_grpc_refused_total{why="too_large"} 2
`
	if err := testutil.GatherAndCompare(s.Registry, strings.NewReader(want), "tollgate_grpc_refused_total"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(s.Log.String(), "with_request_body"); n != 1 {
		t.Errorf("%d lines say what to do:\n%s", n, s.Log)
	}
}
