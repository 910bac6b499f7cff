package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"tollgate/cmd/tollgate/exit"
)

// spans is a collector of traces, over gRPC and over HTTP.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu       sync.Mutex
	requests []string // of the traces, as text
	traces   []string // their ids
}

// Export implements collector.TraceServiceServer.
func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.String())
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.traces = append(s.traces, hex.EncodeToString(span.GetTraceId()))
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// ServeHTTP takes what is sent by http/protobuf.
func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	_, _ = s.Export(r.Context(), &request)
}

func (s *spans) told() (requests string, traces []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.requests, "\n"), append([]string(nil), s.traces...)
}

// collect serves a collector and returns its endpoint.
func collect(t *testing.T, protocol string) (*spans, string) {
	t.Helper()
	s := &spans{}
	if protocol == "http/protobuf" {
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		return s, server.URL
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return s, "http://" + l.Addr().String()
}

// checkIn asks about a request, as a part of a trace.
func (r *running) checkIn(t *testing.T, traceparent string) {
	t.Helper()
	conn, err := grpc.NewClient(r.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent)
	if _, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Host: "api.pixelbyte.io", Method: "GET", Path: "/v1/models?key=hidden"}},
	}}); err != nil {
		t.Fatal(err)
	}
}

// The standard variables have spans sent, by both protocols; those that wait are sent at the end,
// and what the proxy does not sample is not sent.
func TestTracesAreSent(t *testing.T) {
	before := leaks()
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			got, endpoint := collect(t, protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "600000") // only the end has them sent
			r := start(t)
			traced, untraced := strings.Repeat("12", 16), strings.Repeat("34", 16)
			r.checkIn(t, fmt.Sprintf("00-%s-b7ad6b7169203331-01", traced))
			r.checkIn(t, fmt.Sprintf("00-%s-b7ad6b7169203331-00", untraced))
			r.checkIn(t, "none")
			if metrics := r.page(t, "/metrics"); !strings.Contains(metrics, `tollgate_trace_spans_total{outcome="ended"} 2`) {
				t.Error("not two spans in the metrics")
			}
			r.end(t)
			text, traces := got.told()
			if len(traces) != 2 || traces[0] != traced || traces[1] == traced || traces[1] == untraced {
				t.Errorf("traces %v", traces)
			}
			for _, part := range []string{"service.name", "tollgate", "service.version", "deployment.environment.name", "missing_credential", "list_models", "/v1/models"} {
				if !strings.Contains(text, part) {
					t.Errorf("no %s in %s", part, text)
				}
			}
			if strings.Contains(text, "hidden") {
				t.Errorf("a query in %s", text)
			}
		})
	}
	before.check(t)
}

// page returns what is on the HTTP port.
func (r *running) page(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get("http://" + r.HTTP + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A collector that is away costs nothing but its spans, and is said.
func TestCollectorIsAway(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	r := start(t)
	r.checkIn(t, "none")
	eventually(t, "the loss is counted", func() bool {
		return strings.Contains(r.page(t, "/metrics"), `tollgate_trace_spans_total{outcome="failed"} 1`)
	})
	eventually(t, "the loss is said", func() bool { return strings.Contains(r.stderr.String(), "spans were not sent") })
	r.end(t)
}

// Without an endpoint nothing is sent, and what cannot be read is said before anything starts.
func TestTracingVariables(t *testing.T) {
	got, endpoint := collect(t, "http/protobuf")
	for _, variables := range [][2]string{{"OTEL_TRACES_EXPORTER", "none"}, {"OTEL_SDK_DISABLED", "true"}, {"OTEL_EXPORTER_OTLP_ENDPOINT", ""}} {
		t.Run(variables[0], func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
			t.Setenv(variables[0], variables[1])
			r := start(t)
			r.checkIn(t, "none")
			if strings.Contains(r.page(t, "/metrics"), "tollgate_trace_spans_total") {
				t.Error("spans are made")
			}
			r.end(t)
		})
	}
	if _, traces := got.told(); len(traces) > 0 {
		t.Errorf("traces %v", traces)
	}
	for _, c := range [][3]string{
		{"OTEL_TRACES_EXPORTER", "zipkin", `OTEL_TRACES_EXPORTER: unknown value "zipkin", want otlp or none`},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", `OTEL_EXPORTER_OTLP_PROTOCOL: unknown value "http/json", want grpc or http/protobuf`},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4317", `OTEL_EXPORTER_OTLP_ENDPOINT: want http://HOST:PORT, or https://`},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", `OTEL_EXPORTER_OTLP_ENDPOINT: want http://HOST:PORT, or https://`},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector:4318", `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: want http://HOST:PORT, or https://`},
		{"OTEL_TRACES_SAMPLER", "sometimes", `OTEL_TRACES_SAMPLER: unknown value "sometimes"`},
		{"OTEL_TRACES_SAMPLER_ARG", "2", `OTEL_TRACES_SAMPLER_ARG: "2" is not a number from 0 to 1`},
	} {
		t.Run(c[0]+" "+c[1], func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
			t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
			t.Setenv(c[0], c[1])
			code, _, stderr := command(t, "serve", "--policy", "../../testdata/pixelbyte/policy.yaml")
			if code != exit.CodeUsage || !strings.Contains(stderr, c[2]) {
				t.Errorf("exit %d, %s", code, stderr)
			}
		})
	}
}
