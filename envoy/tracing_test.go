package envoy_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
)

// envoySpans is a collector of the spans that an Envoy sends.
type envoySpans struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracev1.Span
}

// Export implements collector.TraceServiceServer.
func (s *envoySpans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			s.spans = append(s.spans, scope.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// named returns the name of a span, "" if it has not come.
func (s *envoySpans) named(traceID trace.TraceID, spanID trace.SpanID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range s.spans {
		if string(span.GetTraceId()) == string(traceID[:]) && string(span.GetSpanId()) == string(spanID[:]) {
			return span.GetName()
		}
	}
	return ""
}

func serveCollector(t *testing.T) (*envoySpans, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spans, server := &envoySpans{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, spans)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return spans, l.Addr().String()
}

// tracingBootstrap is the shipped one with the lines of the page that have Envoy trace.
func tracingBootstrap(t *testing.T, collector, sampling string) []byte {
	t.Helper()
	host, port, err := net.SplitHostPort(collector)
	if err != nil {
		t.Fatal(err)
	}
	const log, clusters = "          access_log:\n", "  clusters:\n"
	text := string(bootstrap(t))
	if strings.Count(text, log) != 1 || strings.Count(text, clusters) != 1 {
		t.Fatal("the bootstrap has another form")
	}
	return []byte(strings.NewReplacer(log, `          tracing:
            random_sampling: {value: `+sampling+`}
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: envoy
                grpc_service: {envoy_grpc: {cluster_name: collector}}
`+log, clusters, clusters+`  - name: collector
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: collector
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: `+host+`, port_value: `+port+`}}}}]}]
`).Replace(text))
}

// A decision is in the trace of Envoy's request, below Envoy's own span of the check; what Envoy
// does not sample is not traced, whatever the client says.
func TestDecisionsAreInEnvoysTraces(t *testing.T) {
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			for sampling, traced := range map[string]bool{"100": true, "0": false} {
				tracing, kept := extauthztest.NewTracing(true)
				s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Tracing = tracing }, extauthztest.SmallFile())
				spans, address := serveCollector(t)
				e := startEnvoy(t, version, tracingBootstrap(t, address, sampling), s.Addr, s)
				for range 5 { // Envoy sends spans when it has five
					e.send(t, &envoytest.Request{Method: "GET", Target: "/open", Host: "small.test"}, "h1")
				}
				ours := kept.GetSpans()
				if !traced {
					if len(ours) > 0 {
						t.Errorf("%d spans of what is not sampled: %+v", len(ours), ours[0])
					}
					continue
				}
				if len(ours) != 5 {
					t.Fatalf("%d spans of 5 decisions", len(ours))
				}
				name := ""
				extauthztest.Eventually(t, "Envoy's span", func() bool {
					name = spans.named(ours[0].SpanContext.TraceID(), ours[0].Parent.SpanID())
					return name != ""
				})
				if !strings.Contains(name, "Check") {
					t.Errorf("it is below Envoy's span %q", name)
				}
			}
		})
	}
}
