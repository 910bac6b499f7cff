package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	sdk "go.opentelemetry.io/otel/sdk/log"

	"tollgate/extauthz/decisionlines"
)

// Logs is a decisionlines.Sink that sends lines as log records. The SDK's own queue would drop
// without saying how many; lines wait in a queue that counts.
type Logs struct {
	exporter sdk.Exporter
	provider *sdk.LoggerProvider
	logger   log.Logger
	made     *made
	most     int // records of one request
}

// NewLogs returns what sends the decision log to where the variables say, and how it is to be
// written to. Of the variables of batches, OTEL_BLRP_SCHEDULE_DELAY and
// OTEL_BLRP_MAX_EXPORT_BATCH_SIZE count. Errors: no endpoint, or variables that contradict.
func NewLogs(ctx context.Context, env func(string) string, about Server) (*Logs, decisionlines.Options, error) {
	v := variables{env, "LOGS"}
	logs, o := &Logs{made: &made{}}, decisionlines.Options{}
	if err := v.exporter(); err != nil {
		return nil, o, err
	}
	if off, by := v.off(); off {
		return nil, o, fmt.Errorf("nothing would be sent, says %s=%s", by, env(by))
	}
	if v.endpoint() == "" {
		return nil, o, errors.New("no endpoint: give OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
	}
	protocol, err := v.protocol()
	if err != nil {
		return nil, o, err
	}
	delay, err := v.number("OTEL_BLRP_SCHEDULE_DELAY", 1000)
	if err != nil {
		return nil, o, err
	}
	o.Gather = time.Duration(delay) * time.Millisecond
	if logs.most, err = v.number("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", 512); err != nil {
		return nil, o, err
	}
	if protocol == protocolGRPC {
		logs.exporter, err = otlploggrpc.New(ctx)
	} else {
		logs.exporter, err = otlploghttp.New(ctx)
	}
	if err != nil {
		return nil, o, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	resource, err := about.resource(ctx)
	if err != nil {
		return nil, o, err
	}
	logs.provider = sdk.NewLoggerProvider(sdk.WithResource(resource), sdk.WithProcessor(logs.made))
	logs.logger = logs.provider.Logger(scope)
	return logs, o, nil
}

// Take implements decisionlines.Sink. What a collector does not take is tried again by the library,
// within OTEL_EXPORTER_OTLP_TIMEOUT.
func (s *Logs) Take(ctx context.Context, lines []byte) (taken int, err error) {
	for line := range bytes.Lines(lines) {
		record, err := recordOf(line)
		if err != nil {
			return 0, fmt.Errorf("a line of the decision log: %w", err)
		}
		s.logger.Emit(ctx, record)
	}
	defer s.made.forget()
	var errs []error
	for part := range slices.Chunk(s.made.records, s.most) {
		if err := s.exporter.Export(ctx, part); err != nil {
			errs = append(errs, err)
			continue
		}
		taken += len(part)
	}
	return taken, errors.Join(errs...)
}

// Close ends the connection to the collector.
func (s *Logs) Close(ctx context.Context) error {
	return errors.Join(s.provider.Shutdown(ctx), s.exporter.Shutdown(ctx))
}

// recordOf makes a record of the line of a decision. Its attributes have the names that they have
// in spans; body and event say what it is.
func recordOf(line []byte) (r log.Record, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if _, err := d.Token(); err != nil { // {
		return r, err
	}
	r.SetEventName("tollgate.decision")
	r.SetSeverity(log.SeverityInfo)
	r.SetSeverityText("INFO")
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return r, err
		}
		value, err := d.Token()
		if err != nil {
			return r, err
		}
		addTo(&r, name.(string), value)
	}
	return r, nil
}

func addTo(r *log.Record, name string, value json.Token) {
	text, _ := value.(string)
	switch name {
	case "time":
		at, _ := time.Parse(time.RFC3339Nano, text)
		r.SetTimestamp(at)
		return
	case "allowed":
		body := "denied"
		if value == true {
			body = "allowed"
		}
		r.SetBody(attribute.StringValue(body))
	}
	switch key := attribute.Key(attributeOf(name)); value := value.(type) {
	case string:
		r.AddAttributes(key.String(value))
	case bool:
		r.AddAttributes(key.Bool(value))
	case json.Number:
		if n, err := value.Int64(); err == nil {
			r.AddAttributes(key.Int64(n))
		} else if f, err := value.Float64(); err == nil {
			r.AddAttributes(key.Float64(f))
		}
	}
}

// attributeOf returns the name of a field among attributes: that of OpenTelemetry where it has one.
func attributeOf(field string) string {
	switch field {
	case "method":
		return "http.request.method"
	case "host":
		return "server.address"
	case "path":
		return "url.path"
	case "address":
		return "client.address"
	case "status":
		return "http.response.status_code"
	}
	return "tollgate." + field
}

// made is a processor that keeps the records which the logger makes, for Take.
type made struct{ records []sdk.Record }

// Enabled implements sdk.Processor.
func (m *made) Enabled(context.Context, sdk.EnabledParameters) bool { return true }

// OnEmit implements sdk.Processor.
func (m *made) OnEmit(_ context.Context, r *sdk.Record) error {
	m.records = append(m.records, *r)
	return nil
}

func (m *made) forget() {
	clear(m.records)
	m.records = m.records[:0]
}

// Shutdown implements sdk.Processor.
func (m *made) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdk.Processor.
func (m *made) ForceFlush(context.Context) error { return nil }
