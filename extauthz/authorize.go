// Package extauthz is Tollgate's side of Envoy's external authorization protocol
// (envoy.service.auth.v3): it turns a CheckRequest into a policy.Request, carries
// out what the decision waits for, and turns the Decision into a CheckResponse.
// It is the only package that knows Envoy's protocol buffers.
//
// The path of a request reads top-down in this file; decode.go and reply.go hold
// its two ends.
package extauthz

import (
	"context"
	"errors"
	"log/slog"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// KeyFinder finds the record of a secret. It returns keys.ErrUnknown, a
// *keys.CorruptError, or another error when the store did not answer; it keeps to
// the context's deadline.
type KeyFinder interface {
	Lookup(ctx context.Context, d keys.Digest) (*keys.Key, error)
}

// Spender spends or reads limits, all windows or none. It keeps to the context's
// deadline and never repeats a spend whose reply was lost.
type Spender interface {
	Spend(ctx context.Context, s *limits.Spend) (limits.Result, error)
}

// envoyMargin is how long before Envoy's own deadline an answer has to be on its
// way, so that Envoy still sees it.
const envoyMargin = 20 * time.Millisecond

// authorizer answers Check calls.
type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	policies *Policies
	decider  *policy.Decider
	keys     KeyFinder
	limits   Spender
	deadline time.Duration
	metrics  *Metrics
	log      *decisionLog
}

// Check answers one request. What cannot be answered is an RPC error, which Envoy
// treats by its failure_mode_allow and status_on_error; an empty CheckResponse
// would allow the request.
func (a *authorizer) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	start := time.Now()
	set := a.policies.Current()
	d, api := a.decide(ctx, set, decode(req, set))

	a.metrics.decided(api, d, time.Since(start))
	a.log.decision(ctx, d)
	// Envoy has gone, or its time is up: an answer now could reach it by chance.
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if d.FailRPC {
		return nil, status.Error(codes.Unavailable, "tollgate: undecided")
	}
	return reply(d), nil
}

// decide drives the decision, fetching what it waits for.
func (a *authorizer) decide(ctx context.Context, set *policy.Set, r *policy.Request) (*policy.Decision, string) {
	ctx, cancel := a.limitTime(ctx)
	defer cancel()

	check, wait := a.decider.Begin(set, r)
	for wait != policy.Done {
		switch wait {
		case policy.WaitKey:
			k, err := a.keys.Lookup(ctx, check.Digest())
			a.keyTrouble(ctx, err)
			wait = check.Found(k, err)
		case policy.WaitLimits:
			res, err := a.limits.Spend(ctx, check.Spend())
			a.limitTrouble(ctx, check.Spend(), err)
			wait = check.Spent(res, err)
		}
	}
	api := ""
	if check.API() != nil {
		api = check.API().Name()
	}
	return check.Decision(), api
}

// limitTime sets our own deadline, or Envoy's less a margin if that is earlier.
func (a *authorizer) limitTime(ctx context.Context) (context.Context, context.CancelFunc) {
	end := time.Now().Add(a.deadline)
	if envoys, ok := ctx.Deadline(); ok && envoys.Add(-envoyMargin).Before(end) {
		end = envoys.Add(-envoyMargin)
	}
	return context.WithDeadline(ctx, end)
}

// keyTrouble counts and logs a look-up that told nothing about a key.
func (a *authorizer) keyTrouble(ctx context.Context, err error) {
	var corrupt *keys.CorruptError
	switch {
	case err == nil, errors.Is(err, keys.ErrUnknown):
	case errors.As(err, &corrupt):
		a.metrics.corruptRecords.Inc()
		a.log.trouble(ctx, "corrupt key record", slog.String("key_id", corrupt.ID), slog.Any("error", corrupt.Err))
	default:
		a.metrics.storeErrors.WithLabelValues("lookup").Inc()
		a.log.trouble(ctx, "key look-up failed", slog.Any("error", err))
	}
}

func (a *authorizer) limitTrouble(ctx context.Context, s *limits.Spend, err error) {
	if err == nil {
		return
	}
	a.metrics.storeErrors.WithLabelValues("spend").Inc()
	a.log.trouble(ctx, "limits not spent", slog.String("limit_id", s.ID), slog.Bool("read_only", s.ReadOnly), slog.Any("error", err))
}
