package extauthz

import (
	"context"
	"log/slog"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// Clean lets tests see what a header value becomes.
func Clean(value string) string { return clean(value) }

// Reply lets tests build a reply from any decision.
func Reply(d *policy.Decision) *authv3.CheckResponse { return reply(d) }

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
	return a.Check
}
