package grpcserver_test

import (
	"context"
	"io"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"tollgate/extauthz"
	"tollgate/extauthz/decisionlines"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/policyfile"
)

// atOnce is a store that has every answer in memory.
type atOnce struct{ grant *keys.Grant }

var _ extauthz.KeyCache = atOnce{}

func (s atOnce) Find(keys.Digest) (keys.Grant, error)                    { return *s.grant, nil }
func (s atOnce) Lookup(context.Context, keys.Digest) (keys.Grant, error) { return *s.grant, nil }
func (s atOnce) LookupFor(context.Context, keys.Digest, keys.Caller) (keys.Grant, error) {
	return *s.grant, nil
}

func (s atOnce) Try(sp *limits.Spend, into *limits.Result) bool {
	now := time.Unix(1_800_000_000, 0).UTC()
	into.Allowed, into.Now = true, now
	for range sp.Windows {
		into.States = append(into.States, limits.State{Spent: 5, Reset: now.Add(42 * time.Second)})
	}
	return true
}

func (s atOnce) Spend(context.Context, *limits.Spend) (limits.Result, error) {
	panic("the store is asked")
}

// pictify is the largest of the four APIs: three windows, the headers of all of them.
func pictify(t testing.TB) (policyfile.File, *keys.Grant, []byte) {
	t.Helper()
	file, entries, _ := extauthztest.APIFiles(t, "pictify")
	for i := range entries {
		k := &entries[i].Key
		if k.Plan != "pro" || k.Status != keys.Active || len(k.IPs) > 0 || k.Environment != "live" || !k.ExpiresAt.IsZero() {
			continue
		}
		req := extauthztest.Get("/image", nil)
		http := req.GetAttributes().GetRequest().GetHttp()
		http.Method, http.Host = "POST", "api.pictify.io"
		http.HeaderMap = &corev3.HeaderMap{}
		for name, value := range map[string]string{
			"authorization": "Bearer " + entries[i].Secret, ":path": "/image", "x-request-id": "c7d3b3a4-9f0e-4c2e-8a36-0d2b1a3c4d5e",
			"x-forwarded-for": "192.0.2.1", "x-envoy-external-address": "192.0.2.1", "content-type": "application/json",
		} {
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		}
		req.Attributes.ContextExtensions = map[string]string{"api": "pictify"}
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		return file, keys.NewGrant(k), b
	}
	t.Fatal("no key of the plan pro")
	return file, nil, nil
}

// A whole check from bytes to bytes makes two pieces of memory: the texts of the
// request and those of the answer. gRPC's own are not counted, of which the caller
// here stands for one.
func TestAllocationsOfACheck(t *testing.T) {
	file, grant, b := pictify(t)
	check := grpcserver.CheckBytes(t, extauthztest.AuthorizerOf(t, file, atOnce{grant}))
	resp := decodeReply(t, check(b))
	if resp.GetStatus().GetCode() != 0 || len(resp.GetOkResponse().GetResponseHeadersToAdd()) != 3 {
		t.Fatal(resp)
	}
	if n := testing.AllocsPerRun(1000, func() { check(b) }); n > 3 && !grpcserver.Race {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	file, grant, req := pictify(b)
	check := grpcserver.CheckBytes(b, extauthztest.AuthorizerOf(b, file, atOnce{grant}))
	b.ReportAllocs()
	for b.Loop() {
		check(req)
	}
}

// kinds are the ways in which a check may be told of: not at all, in a trace that is not in the
// sample or begins here and is not, and as lines of JSON.
func kinds(t testing.TB) map[string]func(*extauthz.Config) {
	t.Helper()
	traced := func(c *extauthz.Config) { c.Tracing, _ = extauthztest.NewTracing(false) }
	return map[string]func(*extauthz.Config){
		"untold": func(c *extauthz.Config) { c.Decisions = extauthz.LogNone },
		"unsampled": func(c *extauthz.Config) {
			c.Decisions = extauthz.LogNone
			traced(c)
		},
		"lines": func(c *extauthz.Config) {
			c.Lines = decisionlines.New(decisionlines.Writer{Writer: io.Discard}, decisionlines.Options{}, time.Now, prometheus.NewRegistry())
			ctx, end := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); c.Lines.Run(ctx, func(error) {}) }()
			t.Cleanup(func() { end(); <-ended })
		},
	}
}

// inTrace is the context of a call that Envoy makes in a trace which it does not sample.
func inTrace(t testing.TB) context.Context {
	t.Helper()
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs(
		":authority", "tollgate", "content-type", "application/grpc", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"))
}

// What is said of a check costs little memory: a trace that is not in the sample one piece, for the
// values of the call's metadata.
func TestAllocationsOfWhatIsTold(t *testing.T) {
	file, grant, b := pictify(t)
	for name, most := range map[string]float64{"untold": 3, "unsampled": 4, "lines": 4} {
		check := grpcserver.CheckBytesIn(t, inTrace(t), extauthztest.AuthorizerOf(t, file, atOnce{grant}, kinds(t)[name]))
		check(b)
		if n := testing.AllocsPerRun(1000, func() { check(b) }); n > most && !grpcserver.Race {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkCheckTold(b *testing.B) {
	file, grant, req := pictify(b)
	for name, change := range kinds(b) {
		b.Run(name, func(b *testing.B) {
			check := grpcserver.CheckBytesIn(b, inTrace(b), extauthztest.AuthorizerOf(b, file, atOnce{grant}, change))
			b.ReportAllocs()
			for b.Loop() {
				check(req)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	file, _, req := pictify(b)
	set, err := policyfile.Compile(file)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("wire", func(b *testing.B) {
		decode := grpcserver.Decoder()
		b.ReportAllocs()
		for b.Loop() {
			if err := decode(req, set); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m authv3.CheckRequest
			if err := proto.Unmarshal(req, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	file, grant, req := pictify(b)
	for _, c := range []struct {
		name  string
		store atOnce
	}{{"allow", atOnce{grant}}, {"deny", atOnce{keys.NewGrant(&keys.Key{API: "other"})}}} {
		d := grpcserver.Decide(b, extauthztest.AuthorizerOf(b, file, c.store), req)
		b.Run(c.name+"/wire", func(b *testing.B) {
			encode := grpcserver.Encoder()
			b.ReportAllocs()
			for b.Loop() {
				encode(d)
			}
		})
		b.Run(c.name+"/generated", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := proto.Marshal(viaGeneratedCode(d)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
