package extauthztest

import (
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"tollgate/extauthz"
)

// NewTracing returns what keeps the spans of decisions, of the traces that the proxy samples, and
// of those that begin here if begin says so.
func NewTracing(begin bool) (*extauthz.Tracing, *tracetest.InMemoryExporter) {
	kept := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(kept))
	return extauthz.NewTracing(provider.Tracer("test"), true, func(trace.TraceID) bool { return begin }), kept
}
