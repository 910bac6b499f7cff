package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tollgate/cmd/tollgate/exit"
)

// logRecords is a collector of logs, over gRPC and over HTTP.
type logRecords struct {
	collector.UnimplementedLogsServiceServer
	refuse int // requests, the first ones, for good

	mu       sync.Mutex
	requests int
	about    string // the resource
	records  []string
}

// Export implements collector.LogsServiceServer.
func (l *logRecords) Export(_ context.Context, r *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.requests++; l.requests <= l.refuse {
		return nil, status.Error(codes.InvalidArgument, "no")
	}
	for _, resource := range r.GetResourceLogs() {
		l.about = attributesOf(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeLogs() {
			for _, record := range scope.GetLogRecords() {
				at := time.Since(time.Unix(0, int64(record.GetTimeUnixNano())))
				l.records = append(l.records, fmt.Sprint(scope.GetScope().GetName(), " ", record.GetEventName(), " ", record.GetSeverityText(), " ", at >= 0 && at < limit, " ",
					record.GetBody().GetStringValue(), " ", attributesOf(record.GetAttributes())))
			}
		}
	}
	return &collector.ExportLogsServiceResponse{}, nil
}

// attributesOf writes attributes down, sorted, without what differs each time.
func attributesOf(list []*commonv1.KeyValue) string {
	var all []string
	for _, a := range list {
		if a.GetKey() == "tollgate.decision_id" || a.GetKey() == "tollgate.duration_ms" {
			all = append(all, a.GetKey())
			continue
		}
		all = append(all, fmt.Sprintf("%s=%s", a.GetKey(), strings.Join(strings.Fields(a.GetValue().String()), " ")))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// ServeHTTP takes what is sent by http/protobuf.
func (l *logRecords) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var request collector.ExportLogsServiceRequest
	if r.URL.Path != "/v1/logs" || proto.Unmarshal(body, &request) != nil {
		http.Error(w, "no logs", http.StatusBadRequest)
		return
	}
	if _, err := l.Export(r.Context(), &request); err != nil {
		http.Error(w, "no", http.StatusBadRequest)
	}
}

func (l *logRecords) told() (about string, records []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.about, slices.Clone(l.records)
}

// collectLogs serves a collector and returns its endpoint.
func collectLogs(t *testing.T, l *logRecords, protocol string) string {
	t.Helper()
	if protocol == "http/protobuf" {
		server := httptest.NewServer(l)
		t.Cleanup(server.Close)
		return server.URL
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterLogsServiceServer(server, l)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return "http://" + listener.Addr().String()
}

// Decisions are sent as log records, by both protocols, with the fields of the lines; what waits is
// sent at the end.
func TestDecisionsAreSentByOTLP(t *testing.T) {
	before := leaks()
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			got := &logRecords{}
			endpoint := collectLogs(t, got, protocol)
			if protocol == "http/protobuf" {
				endpoint += "/v1/logs" // an endpoint of one signal is taken as it is
			}
			t.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", endpoint)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
			t.Setenv("OTEL_BLRP_SCHEDULE_DELAY", "600000") // only the end has them sent
			t.Setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "2")
			r := start(t, "--log-decisions-to", "otlp", "--log-decisions", "all")
			for range 3 {
				r.checkIn(t, "none")
			}
			r.end(t)
			about, records := got.told()
			if len(records) != 3 || got.requests != 2 || !strings.Contains(about, `service.name=string_value:"tollgate"`) || !strings.Contains(about, `deployment.environment.name=string_value:"test"`) {
				t.Errorf("%d records in %d requests, of %s", len(records), got.requests, about)
			}
			const want = `tollgate tollgate.decision INFO true denied http.request.method=string_value:"GET" http.response.status_code=int_value:401 server.address=string_value:"api.pixelbyte.io"` +
				` tollgate.allowed=bool_value:false tollgate.api=string_value:"pixelbyte" tollgate.decision_id tollgate.duration_ms tollgate.reason=string_value:"missing_credential"` +
				` tollgate.route=string_value:"list_models" tollgate.scope=string_value:"list_models" url.path=string_value:"/v1/models"`
			for _, record := range records {
				if record != want {
					t.Errorf("%s\nwant %s", record, want)
				}
			}
			if strings.Contains(r.stderr.String(), "reason=") {
				t.Errorf("a decision in the log: %s", r.stderr)
			}
		})
	}
	before.check(t)
}

// What a collector does not take is lost, counted and said, and what comes after it is sent.
func TestCollectorRefusesLogs(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		got := &logRecords{refuse: 1}
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collectLogs(t, got, protocol))
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
		t.Setenv("OTEL_TRACES_EXPORTER", "none")
		t.Setenv("OTEL_BLRP_SCHEDULE_DELAY", "1")
		r := start(t, "--log-decisions-to", "otlp")
		r.checkIn(t, "none")
		for n, outcome := range []string{"failed", "written"} {
			eventually(t, "a line that is "+outcome, func() bool {
				return strings.Contains(r.page(t, "/metrics"), `tollgate_decision_log_lines_total{outcome="`+outcome+`"} 1`)
			})
			if n == 0 {
				eventually(t, "the loss is said", func() bool {
					return strings.Contains(r.stderr.String(), "decisions were not sent by OTLP, and are lost")
				})
				r.checkIn(t, "none")
			}
		}
		r.end(t)
	}
}

// What would send nothing, or cannot be read, is said before anything starts.
func TestLogVariables(t *testing.T) {
	for _, c := range [][3]string{
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "", "--log-decisions-to otlp: no endpoint: give OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"},
		{"OTEL_LOGS_EXPORTER", "none", "nothing would be sent, says OTEL_LOGS_EXPORTER=none"},
		{"OTEL_LOGS_EXPORTER", "console", `OTEL_LOGS_EXPORTER: unknown value "console", want otlp or none`},
		{"OTEL_SDK_DISABLED", "true", "nothing would be sent, says OTEL_SDK_DISABLED=true"},
		{"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json", `OTEL_EXPORTER_OTLP_PROTOCOL: unknown value "http/json", want grpc or http/protobuf`},
		{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "collector", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: want http://HOST:PORT, or https://"},
		{"OTEL_BLRP_SCHEDULE_DELAY", "soon", `OTEL_BLRP_SCHEDULE_DELAY: "soon" is not a whole number of 1 or more`},
		{"OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "0", `OTEL_BLRP_MAX_EXPORT_BATCH_SIZE: "0" is not a whole number of 1 or more`},
	} {
		t.Run(c[0]+" "+c[1], func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv("OTEL_TRACES_EXPORTER", "none")
			t.Setenv(c[0], c[1])
			code, _, stderr := command(t, "serve", "--policy", "../../testdata/pixelbyte/policy.yaml", "--log-decisions-to", "otlp")
			if code != exit.CodeUsage || !strings.Contains(stderr, c[2]) {
				t.Errorf("exit %d, %s", code, stderr)
			}
		})
	}
}
