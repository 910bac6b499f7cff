package extauthz_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"tollgate/extauthz"
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
	s := newStack(t, nil, smallFile())
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	large := get("/open", nil)
	large.Attributes.Request.Http.RawBody = bytes.Repeat([]byte{0xff}, 10_500_000)
	for range 2 {
		if _, err := authv3.NewAuthorizationClient(conn).Check(within(t), large); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a body of 10.5 MB: %v", err)
		}
	}
	if err := conn.Invoke(within(t), authv3.Authorization_Check_FullMethodName, []byte{0xff}, new(any), grpc.ForceCodecV2(rawBytes{})); status.Code(err) != codes.Internal {
		t.Errorf("no message: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := authv3.NewAuthorizationClient(conn).Check(gone, get("/open", nil)); status.Code(err) != codes.Canceled {
		t.Errorf("a caller that has gone: %v", err)
	}
	if _, err := authv3.NewAuthorizationClient(conn).Check(within(t), get("/open", nil)); err != nil {
		t.Errorf("a good one: %v", err)
	}
	const want = `
# HELP tollgate_grpc_refused_total Check requests over gRPC answered with an RPC error unread: too_large (over 9 MiB: Envoy sends request bodies), malformed.
# TYPE tollgate_grpc_refused_total counter
tollgate_grpc_refused_total{why="malformed"} 1
tollgate_grpc_refused_total{why="too_large"} 2
`
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), "tollgate_grpc_refused_total"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(s.log.String(), "with_request_body"); n != 1 {
		t.Errorf("%d lines say what to do:\n%s", n, s.log)
	}
}

// A body that is too large is refused unread, and counted.
func TestLargeBodiesAreCounted(t *testing.T) {
	s := newStack(t, nil, smallFile())
	addr := serveLane(t, s, extauthz.LaneConfig{Trusted: loopback()})
	resp := rawRequest(t, addr, "POST /envoy/api=small/open HTTP/1.1\r\ncontent-length: 99999\r\n\r\n")
	if n := s.httpRefused(t, "too_large"); n != 1 || resp != 413 {
		t.Errorf("%d, %v counted", resp, n)
	}
}

// An API whose environments nobody names refuses every key as if each client were
// wrong: that is said once, with what was asked and what there is.
func TestUnplacedRequestsAreToldOnce(t *testing.T) {
	environments := "environments: [{name: live, prefix: sm_, context: live}, {name: test, prefix: st_, context: test}]"
	s := newStack(t, nil, smallFile("key_format: {prefixes: [sm_], checksum: required}", environments))
	secret, entries := smallKey()
	entries[0].Key.Environment = "live"
	s.use(t, newRedis(t, "embedded"), entries)
	client := authv3.NewAuthorizationClient(s.dial(t))
	ask := func(extensions map[string]string) string {
		t.Helper()
		req := get("/items/1", map[string]string{"authorization": "Bearer " + secret})
		req.Attributes.ContextExtensions = extensions
		resp, err := client.Check(within(t), req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetDynamicMetadata().GetFields()["reason"].GetStringValue()
	}
	const warning = "every key is refused as wrong_environment"
	if got := ask(map[string]string{"api": "small", "environment": "live"}); got != "allowed" || strings.Contains(s.log.String(), warning) {
		t.Fatalf("%s\n%s", got, s.log)
	}
	if got := ask(map[string]string{"api": "small", "environment": "test"}); got != "wrong_environment" || strings.Contains(s.log.String(), warning) {
		t.Fatalf("a live key under test: %s\n%s", got, s.log)
	}
	for range 3 {
		if got := ask(map[string]string{"api": "small"}); got != "wrong_environment" {
			t.Fatal(got)
		}
	}
	if got := ask(map[string]string{"api": "smal"}); got != "unknown_api" {
		t.Fatal(got)
	}
	for text, want := range map[string]int{
		warning: 1, `"api":"small","environments":"live,test","asked_environment":"","host":"small.test"`: 1,
		`"asked_environment":"test","key_environment":"live"`: 1, `"host":"small.test","key_environment":"live"`: 3,
		`"reason":"unknown_api","host":"small.test","asked_api":"smal"`: 1,
	} {
		if n := strings.Count(s.log.String(), text); n != want {
			t.Errorf("%d times %s, want %d:\n%s", n, text, want, s.log)
		}
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
