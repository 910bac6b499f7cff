package bench

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy/envoytest"
	"tollgate/policy/policyfile"
	"tollgate/testdata"
)

// record says that the files in testdata/check are to be written anew:
// go test ./cmd/tollgate-bench/bench -run Recorded -record
var record = flag.Bool("record", false, "write the recorded requests in testdata/check anew")

const limit = 20 * time.Second

// The recorded requests are what a real Envoy sends: the same fields and header
// names, though ids, ports and times differ.
func TestRecordedRequests(t *testing.T) {
	for name, change := range map[string]func(object){
		"shipped":     func(object) {},
		"all-headers": func(filter object) { delete(filter, "allowed_headers") },
	} {
		t.Run(name, func(t *testing.T) {
			got := recordFromEnvoy(t, change)
			if *record {
				if err := os.WriteFile(filepath.Join("../../../testdata/check", name+".binpb"), got, 0o644); err != nil {
					t.Fatal(err)
				}
				return // what is compared is compiled in
			}
			want, err := testdata.CheckRequest(name)
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(want, []byte(placeholder())); n != 1 {
				t.Errorf("the recorded request holds the secret %d times", n)
			}
			if g, w := shape(t, got), shape(t, want); !slices.Equal(g, w) {
				t.Errorf("Envoy sends\n%s\nrecorded is\n%s", strings.Join(g, "\n"), strings.Join(w, "\n"))
			}
		})
	}
}

// edgeOverGRPC is the bootstrap for checks over gRPC, and the settings of its filter.
func edgeOverGRPC(t *testing.T) (*edge, object) {
	t.Helper()
	e, err := newEdge(false)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := e.filter()
	if err != nil {
		t.Fatal(err)
	}
	return e, filter
}

// What is measured as shipped is the bootstrap with the headers that our policy reads.
func TestEdgeShowsWhatThePolicyReads(t *testing.T) {
	set, err := policyfile.Compile(policyfile.File{Name: "bench", Data: []byte(policyText())})
	if err != nil {
		t.Fatal(err)
	}
	_, filter := edgeOverGRPC(t)
	var allowed []string
	for _, p := range at(filter, "allowed_headers", "patterns").([]any) {
		allowed = append(allowed, at(p, "exact").(string))
	}
	slices.Sort(allowed)
	// x-forwarded-for is for policies behind a load balancer.
	if want := slices.Sorted(slices.Values(append(set.Headers(), ":path", "x-forwarded-for"))); !slices.Equal(allowed, want) {
		t.Errorf("the filter shows %q, the policy reads %q", allowed, want)
	}
}

// Behind an application, Envoy maps none of the answers that are measured.
func TestNoLocalReplyIsMapped(t *testing.T) {
	e, err := newEdge(true)
	if err != nil {
		t.Fatal(err)
	}
	if e.manager["local_reply_config"] == nil {
		t.Fatal("the bootstrap over HTTP maps nothing")
	}
	if err := e.forMeasuring(); err != nil {
		t.Fatal(err)
	}
	if m := e.manager["local_reply_config"]; m != nil {
		t.Errorf("what is measured maps %v", m)
	}
}

// recordFromEnvoy sends the client's request through an Envoy and returns the bytes of the check.
func recordFromEnvoy(t *testing.T, change func(filter object)) []byte {
	t.Helper()
	binary, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	e, filter := edgeOverGRPC(t)
	change(filter)
	bootstrap, err := e.bytes()
	if err != nil {
		t.Fatal(err)
	}
	recorded := &recorder{requests: make(chan []byte, 1)}
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	edge, err := envoytest.Start(ctx, envoytest.Settings{Binary: binary, Bootstrap: bootstrap, Tollgate: recorded.serve(t),
		Upstream: upstream.Addr(), CheckTimeout: limit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = edge.Stop() })
	conn, err := net.Dial("tcp", edge.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, clientRequest()); err != nil {
		t.Fatal(err)
	}
	select {
	case request := <-recorded.requests:
		return request
	case <-ctx.Done():
		t.Fatalf("no check arrived\n%s", edge.Log())
		return nil
	}
}

// recorder is a gRPC server that keeps the bytes of the first request and denies.
type recorder struct{ requests chan []byte }

func (r *recorder) serve(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(r), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if method, _ := grpc.MethodFromServerStream(stream); method != authv3.Authorization_Check_FullMethodName {
			return status.Error(codes.Unimplemented, "this is no check") // but one of its health
		}
		if err := stream.RecvMsg(nil); err != nil {
			return err
		}
		return stream.SendMsg(nil)
	}))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func (r *recorder) Name() string { return "proto" }

func (r *recorder) Marshal(any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer{}}, nil
}

func (r *recorder) Unmarshal(data mem.BufferSlice, _ any) error {
	select {
	case r.requests <- data.Materialize():
	default:
	}
	return nil
}

// shape lists the fields of a CheckRequest that are set, and the header names.
func shape(t *testing.T, wire []byte) []string {
	t.Helper()
	var m authv3.CheckRequest
	if err := proto.Unmarshal(wire, &m); err != nil {
		t.Fatal(err)
	}
	var lines []string
	var walk func(path string, m protoreflect.Message)
	walk = func(path string, m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			at := path + "." + string(f.Name())
			switch {
			case f.Message() != nil && !f.IsList() && !f.IsMap():
				walk(at, v.Message())
			default:
				lines = append(lines, at)
			}
			return true
		})
	}
	walk("", m.ProtoReflect())
	http := m.GetAttributes().GetRequest().GetHttp()
	for _, h := range http.GetHeaderMap().GetHeaders() {
		lines = append(lines, "header "+h.GetKey())
	}
	for name := range http.GetHeaders() {
		lines = append(lines, "header "+name)
	}
	slices.Sort(lines)
	return lines
}
