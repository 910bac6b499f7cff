package telemetry

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"tollgate/extauthz"
)

// lastTime is how long spans that wait are sent at the end.
const lastTime = time.Second

// Traces is what sends spans. A nil one sends none.
type Traces struct {
	provider *sdk.TracerProvider
	spans    *extauthz.Tracing
}

// NewTraces returns what sends spans to where the variables say, and registers its metric: nil
// unless they name an endpoint, or ask for otlp.
func NewTraces(ctx context.Context, env func(string) string, about Server, r prometheus.Registerer, log *slog.Logger) (*Traces, error) {
	v := variables{env, "TRACES"}
	if err := v.exporter(); err != nil {
		return nil, err
	}
	if off, _ := v.off(); off || env("OTEL_TRACES_EXPORTER") == "" && v.endpoint() == "" {
		return nil, nil
	}
	sampler, follows, err := samplerOf(env)
	if err != nil {
		return nil, err
	}
	protocol, err := v.protocol()
	if err != nil {
		return nil, err
	}
	client := otlptracehttp.NewClient()
	if protocol == protocolGRPC {
		client = otlptracegrpc.NewClient()
	}
	sender, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	resource, err := about.resource(ctx)
	if err != nil {
		return nil, err
	}
	bounded := extauthz.NewBoundedLog(log)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		bounded.Log(ctx, slog.LevelWarn, "spans were not sent", slog.Any("error", err))
	}))
	counts := newSpanCounts(sender, r)
	provider := sdk.NewTracerProvider(sdk.WithSampler(sampler), sdk.WithIDGenerator(begunIDs{}), sdk.WithResource(resource),
		sdk.WithSpanProcessor(endedSpans{counts}), sdk.WithBatcher(counts))
	begins := func(id trace.TraceID) bool {
		return sampler.ShouldSample(sdk.SamplingParameters{ParentContext: ctx, TraceID: id}).Decision != sdk.Drop
	}
	log.Info("traces are sent", slog.String("sampler", sampler.Description()))
	return &Traces{provider, extauthz.NewTracing(provider.Tracer(scope), follows, begins)}, nil
}

// samplerOf returns the sampler of OTEL_TRACES_SAMPLER, and whether it follows that of the proxy.
// The library would fall back on its default where it does not know one.
func samplerOf(env func(string) string) (sampler sdk.Sampler, follows bool, err error) {
	name := cmp.Or(strings.ToLower(strings.TrimSpace(env("OTEL_TRACES_SAMPLER"))), "parentbased_always_on")
	own, follows := strings.CutPrefix(name, "parentbased_")
	switch own {
	case "always_on":
		sampler = sdk.AlwaysSample()
	case "always_off":
		sampler = sdk.NeverSample()
	case "traceidratio":
		ratio, err := strconv.ParseFloat(cmp.Or(env("OTEL_TRACES_SAMPLER_ARG"), "1"), 64)
		if err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, false, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG: %q is not a number from 0 to 1", env("OTEL_TRACES_SAMPLER_ARG"))
		}
		sampler = sdk.TraceIDRatioBased(ratio)
	default:
		return nil, false, fmt.Errorf("OTEL_TRACES_SAMPLER: unknown value %q, want always_on, always_off or traceidratio, or one of them after parentbased_", name)
	}
	if follows {
		sampler = sdk.ParentBased(sampler)
	}
	return sampler, follows, nil
}

// begunIDs names spans, and the traces that begin here as they were named when they were drawn.
type begunIDs struct{}

// NewIDs implements sdk.IDGenerator.
func (g begunIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id := extauthz.BegunTrace(ctx)
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements sdk.IDGenerator.
func (begunIDs) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	binary.NativeEndian.PutUint64(id[:], max(rand.Uint64(), 1))
	return id
}

// Run waits until ctx ends, and then sends what waits, for a moment.
func (t *Traces) Run(ctx context.Context) error {
	if t == nil {
		return nil
	}
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	return t.provider.Shutdown(last)
}

// Decisions returns what makes spans, nil for nothing.
func (t *Traces) Decisions() *extauthz.Tracing {
	if t == nil {
		return nil
	}
	return t.spans
}

// spanCounts counts spans as they end and as they are sent.
type spanCounts struct {
	sdk.SpanExporter

	ended, sent, failed atomic.Uint64
	count               *prometheus.Desc
}

func newSpanCounts(e sdk.SpanExporter, r prometheus.Registerer) *spanCounts {
	c := &spanCounts{SpanExporter: e, count: prometheus.NewDesc("tollgate_trace_spans_total",
		"Spans of traces: ended; sent to the collector; failed to be sent. Those that ended and are neither wait, or were dropped because too many waited.", []string{"outcome"}, nil)}
	r.MustRegister(c)
	return c
}

// ExportSpans implements sdk.SpanExporter.
func (c *spanCounts) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		c.failed.Add(uint64(len(spans)))
	} else {
		c.sent.Add(uint64(len(spans)))
	}
	return err
}

// endedSpans counts spans as they end.
type endedSpans struct{ counts *spanCounts }

// OnStart implements sdk.SpanProcessor.
func (endedSpans) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd implements sdk.SpanProcessor.
func (e endedSpans) OnEnd(sdk.ReadOnlySpan) { e.counts.ended.Add(1) }

// ForceFlush implements sdk.SpanProcessor.
func (endedSpans) ForceFlush(context.Context) error { return nil }

// Shutdown implements sdk.SpanProcessor.
func (endedSpans) Shutdown(context.Context) error { return nil }

// Describe implements prometheus.Collector.
func (c *spanCounts) Describe(out chan<- *prometheus.Desc) { out <- c.count }

// Collect implements prometheus.Collector.
func (c *spanCounts) Collect(out chan<- prometheus.Metric) {
	for outcome, n := range map[string]*atomic.Uint64{"ended": &c.ended, "sent": &c.sent, "failed": &c.failed} {
		out <- prometheus.MustNewConstMetric(c.count, prometheus.CounterValue, float64(n.Load()), outcome)
	}
}
