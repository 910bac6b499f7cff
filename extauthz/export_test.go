package extauthz

import (
	"context"
	"log/slog"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// Clean lets tests see what a header value becomes.
func Clean(value string) string { return clean(value) }

// Reply lets tests encode the reply of any decision.
func Reply(d *policy.Decision) []byte {
	var e encoder
	return e.reply(nil, d)
}

// Decode lets tests decode any bytes.
func Decode(b []byte, set *policy.Set) (*policy.Request, error) {
	var d decoder
	r := &policy.Request{}
	return r, d.decode(checkRequest(), b, set, r)
}

// CheckDirectly returns the Check method itself, for what no client can send or
// see: a finished context, and many calls in little time.
func CheckDirectly(t testing.TB, file policy.File, store interface {
	KeyFinder
	Spender
}) func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	t.Helper()
	set, err := policy.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	metrics := NewMetrics(prometheus.NewRegistry())
	a := &authorizer{
		policies: FixedPolicies(set, metrics),
		decider:  policy.NewDecider(keys.NewHasher([]byte("pepper")), limits.NewLocal(1, time.Now, 10), time.Now),
		keys:     store, limits: store, deadline: DefaultDeadline, metrics: metrics,
		log: &decisionLog{log: slog.New(slog.DiscardHandler), which: LogAll},
	}
	s := newCheckService(a, a.log.log)
	return func(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := handleCheck(s, ctx, func(c any) error { return s.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, c) }, nil)
		if err != nil {
			return nil, err
		}
		data, err := s.Marshal(reply)
		if err != nil {
			t.Fatal(err)
		}
		defer data.Free()
		resp := &authv3.CheckResponse{}
		if err := proto.Unmarshal(data.Materialize(), resp); err != nil {
			t.Fatal(err)
		}
		return resp, nil
	}
}
