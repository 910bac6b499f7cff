package extauthz

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"tollgate/policy"
	"tollgate/policy/connect"
)

// Tracing makes a span of each decision that is in the sample, with a span for each wait for the
// store within it. Spans are made when a decision is over, so that one which is not in the sample
// costs no more than to find that out.
type Tracing struct {
	tracer trace.Tracer
	// follows: a trace that the proxy has left out of its sample is left out here.
	follows bool
	begin   func(trace.TraceID) bool
}

// NewTracing returns what makes spans by a tracer. follows says that a trace which the proxy does
// not sample is not sampled here either; begin, whether one is that begins here. The tracer's
// provider must name a trace that begins by BegunTrace.
func NewTracing(tracer trace.Tracer, follows bool, begin func(trace.TraceID) bool) *Tracing {
	return &Tracing{tracer, follows, begin}
}

// tracedContext is the context of a decision that is traced. It is told by its type, so that one
// which is not traced costs no walk through what its context was made of.
type tracedContext struct {
	context.Context
	begun trace.TraceID // of the trace that begins with it; not valid if it continues one
}

// tracedKey finds a tracedContext in those made of it.
type tracedKey struct{}

// Value returns the tracedContext itself for its key.
func (c *tracedContext) Value(key any) any {
	if key == (tracedKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// BegunTrace returns the id of the trace that begins with a context, not valid if none does.
func BegunTrace(ctx context.Context) (id trace.TraceID) {
	if c, ok := ctx.Value(tracedKey{}).(*tracedContext); ok {
		id = c.begun
	}
	return id
}

// unsampled reports whether a traceparent of the version that there is leaves its trace out of the
// sample (https://www.w3.org/TR/trace-context/#traceparent-header).
func unsampled(parent string) bool {
	return len(parent) == 55 && strings.HasPrefix(parent, "00-") && strings.IndexByte("02468ace", parent[54]) >= 0
}

// Continue returns a context whose decision is a part of the trace that the proxy names by a
// traceparent, or begins one where it names none; the context itself if it is not in the sample.
// state returns the tracestate.
func (t *Tracing) Continue(ctx context.Context, parent string, state func() string) context.Context {
	if parent != "" {
		if t.follows && unsampled(parent) {
			return ctx
		}
		of := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent, "tracestate": state()})
		if trace.SpanContextFromContext(of).IsValid() {
			return &tracedContext{Context: of}
		}
	}
	var id trace.TraceID
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64()|1) // not zero
	if !t.begin(id) {
		return ctx
	}
	return &tracedContext{ctx, id}
}

// storeWait is a time that a decision waited for the store.
type storeWait struct {
	operation  connect.Operation
	began, end time.Time
}

// decided makes the spans of a decision. The texts in them are copies: spans wait to be sent, and
// would keep a secret that stands beside them in memory.
func (t *Tracing) decided(ctx context.Context, start, end time.Time, check *policy.Check, waits []storeWait) {
	ctx, span := t.tracer.Start(ctx, "tollgate.check", trace.WithTimestamp(start), trace.WithSpanKind(trace.SpanKindServer))
	if !span.IsRecording() {
		return
	}
	d, shown := check.Decision(), check.Shown()
	attributes := make([]attribute.KeyValue, 0, len(d.Metadata)+6)
	add := func(name, value string) {
		if value != "" {
			attributes = append(attributes, attribute.String(name, strings.Clone(value)))
		}
	}
	for _, m := range d.Metadata {
		add("tollgate."+m.Name, m.Value)
	}
	add("http.request.method", shown.Method)
	add("server.address", shown.Host)
	add("url.path", shown.Path)
	add("client.address", shown.Address)
	if d.Status != 0 {
		attributes = append(attributes, attribute.Int("http.response.status_code", d.Status))
	}
	span.SetAttributes(attributes...)
	if d.Reason == policy.Undecided || d.Reason == policy.CorruptKey {
		span.SetStatus(codes.Error, d.Reason.String())
	}
	for _, w := range waits {
		_, wait := t.tracer.Start(ctx, "redis "+w.operation.String(), trace.WithTimestamp(w.began), trace.WithSpanKind(trace.SpanKindClient),
			trace.WithAttributes(attribute.String("db.system.name", "redis")))
		wait.End(trace.WithTimestamp(w.end))
	}
	span.End(trace.WithTimestamp(end))
}
