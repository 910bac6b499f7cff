package extauthz_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	grpcmetadata "google.golang.org/grpc/metadata"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/httpserver"
	"tollgate/policy/keys"
)

const (
	tracedID  = "0af7651916cd43dd8448eb211c80319c"
	parentID  = "b7ad6b7169203331"
	inSample  = "00-" + tracedID + "-" + parentID + "-01"
	outOfIt   = "00-" + tracedID + "-" + parentID + "-00"
	malformed = "00-" + tracedID + "-" + parentID
)

// A decision is a part of the trace that the proxy names, if that is in the sample, over gRPC and
// over HTTP.
func TestDecisionsContinueTraces(t *testing.T) {
	for _, c := range []struct {
		name, parent  string
		begin         bool
		spans, begins bool
	}{
		{"sampled", inSample, false, true, false}, {"sampled, of a later version", "01-" + inSample[3:] + "-more", false, true, false},
		{"not sampled", outOfIt, true, false, false}, {"not sampled, random", outOfIt[:53] + "02", true, false, false},
		{"none", "", true, true, true}, {"none, and none begins", "", false, false, false},
		{"malformed", malformed, true, true, true}, {"malformed, and none begins", malformed, false, false, false},
		{"of no trace", "00-" + strings.Repeat("0", 32) + "-" + parentID + "-01", false, false, false},
	} {
		tracing, kept := extauthztest.NewTracing(c.begin)
		s := extauthztest.NewStack(t, func(o *extauthz.Config) { o.Tracing = tracing }, extauthztest.SmallFile())
		overHTTP := extauthztest.ServeHTTP(t, s, httpserver.Config{})
		ask := map[string]func(){
			"gRPC": func() {
				ctx := grpcmetadata.AppendToOutgoingContext(extauthztest.Within(t), "tracestate", "a=b")
				if c.parent != "" {
					ctx = grpcmetadata.AppendToOutgoingContext(ctx, "traceparent", c.parent)
				}
				if _, err := authv3.NewAuthorizationClient(s.Dial(t)).Check(ctx, extauthztest.Get("/open", map[string]string{"traceparent": inSample})); err != nil {
					t.Fatal(err)
				}
			},
			"HTTP": func() {
				conn, err := net.Dial("tcp", overHTTP)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				head := "GET /envoy/by=host/open HTTP/1.1\r\nhost: small.test\r\ntracestate: a=b\r\n"
				if c.parent != "" {
					head += "traceparent: " + c.parent + "\r\n"
				}
				_, _ = fmt.Fprint(conn, head+"\r\n")
				if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 200 {
					t.Fatal(response, err)
				}
			},
		}
		for over, ask := range ask {
			kept.Reset()
			ask()
			spans := kept.GetSpans()
			if len(spans) > 0 != c.spans || len(spans) > 1 {
				t.Errorf("%s, over %s: %d spans", c.name, over, len(spans))
				continue
			}
			for _, span := range spans {
				continued := span.SpanContext.TraceID().String() == tracedID && span.Parent.SpanID().String() == parentID && span.SpanContext.TraceState().String() == "a=b"
				if continued == c.begins || span.SpanKind != trace.SpanKindServer || span.Name != "tollgate.check" {
					t.Errorf("%s, over %s: %+v", c.name, over, span)
				}
			}
		}
	}
}

func attributesOf(span *tracetest.SpanStub) (list []string) {
	for _, a := range span.Attributes {
		list = append(list, string(a.Key)+"="+a.Value.String())
	}
	slices.Sort(list)
	return list
}

// Spans say what the metadata says, and how long the store took; nothing in them is or holds a key.
func TestSpans(t *testing.T) {
	tracing, kept := extauthztest.NewTracing(true)
	s := extauthztest.NewStack(t, func(o *extauthz.Config) { o.Tracing = tracing }, extauthztest.SmallFile("api: small", "client_address: {from: peer}\napi: small"))
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	began := time.Now()
	asker(t, s)("/items/1?api_key="+secret, secret)
	spans := kept.GetSpans()
	if len(spans) != 3 {
		t.Fatalf("%d spans", len(spans))
	}
	check := &spans[2] // it ends last
	got := strings.Join(attributesOf(check), " ")
	if i := strings.Index(got, "tollgate.decision_id="); i < 0 {
		t.Error("no decision_id")
	} else {
		got = got[:i] + got[i+len("tollgate.decision_id=")+17:]
	}
	if want := "client.address=192.0.2.1 http.request.method=GET server.address=small.test tollgate.api=small tollgate.key_id=key_small tollgate.plan=basic " +
		"tollgate.reason=allowed tollgate.route=item tollgate.team=team_s url.path=/items/1"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for i, name := range []string{"redis lookup", "redis spend"} {
		wait := &spans[i]
		if wait.Name != name || wait.Parent.SpanID() != check.SpanContext.SpanID() || wait.SpanKind != trace.SpanKindClient ||
			wait.StartTime.Before(check.StartTime) || wait.EndTime.After(check.EndTime) || wait.EndTime.Before(wait.StartTime) || check.StartTime.Before(began) {
			t.Errorf("%+v", wait)
		}
	}
	if strings.Contains(fmt.Sprintf("%+v", spans), secret) {
		t.Error("a key in a span")
	}
}

// What cannot be decided is an error.
func TestSpanOfAnUndecidedRequest(t *testing.T) {
	tracing, kept := extauthztest.NewTracing(true)
	away := extauthztest.BrokenStore{OnLookup: func(context.Context) (keys.Grant, error) { return keys.Grant{}, errors.New("away") }}
	if _, _, err := extauthztest.AskBroken(t, extauthztest.SmallFile(), away, func(c *extauthz.Config) { c.Tracing = tracing }); err != nil {
		t.Fatal(err)
	}
	spans := kept.GetSpans()
	if len(spans) != 2 || spans[1].Status.Code != codes.Error || spans[1].Status.Description != "undecided" ||
		!slices.Contains(attributesOf(&spans[1]), "http.response.status_code=500") {
		t.Errorf("%+v", spans)
	}
}
