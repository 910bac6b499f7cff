// Package extauthz decides requests for the servers: it fetches what a
// decision waits for (a key, the limits), logs and counts it, and follows the policy
// files. It knows no protocol: grpcserver speaks Envoy's ext_authz v3, httpserver
// HTTP/1.1, and both ask the one Authorizer.
//
// The path of a request reads top-down in this file.
package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"tollgate/extauthz/decisionlines"
	"tollgate/policy"
	"tollgate/policy/connect"
	"tollgate/policy/errorlog"
	"tollgate/policy/keys"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/standing"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/policy/oauth"
	"tollgate/policy/usage"
)

// KeyFinder finds the key of a secret. It returns keys.ErrUnknown, a
// *keys.CorruptError, or another error when the store did not answer; it keeps to
// the context's deadline.
type KeyFinder interface {
	Lookup(ctx context.Context, d keys.Digest) (keys.Grant, error)
}

// KeyCache is a KeyFinder that can answer at once, as cache.Cache does: Find returns
// cache.ErrNotCached when LookupFor has to be asked. That is Lookup for a caller, and
// returns keys.ErrBusy when he has asked about too many unknown keys.
type KeyCache interface {
	KeyFinder
	Find(d keys.Digest) (keys.Grant, error)
	LookupFor(ctx context.Context, d keys.Digest, from keys.Caller) (keys.Grant, error)
}

// Spender spends or reads limits, all windows or none. Try answers at once or
// reports that Spend has to be asked. Spend keeps to the context's deadline and
// never repeats a spend whose reply was lost. Neither keeps what it is given.
type Spender interface {
	Try(s *limits.Spend, into *limits.Result) bool
	Spend(ctx context.Context, s *limits.Spend) (limits.Result, error)
}

// TokenVerifier verifies access tokens that one of the issuers of an API has made. Find answers at
// once, or reports that Verify has to be asked, which keeps to the context's deadline. Errors of
// both: a *oauth.RefusedError, or one that says that the outcome is not known. tokens.Verifier is
// one.
type TokenVerifier interface {
	Find(issuers []*oauth.Issuer, text string) (t *oauth.Token, known bool, err error)
	Verify(ctx context.Context, issuers []*oauth.Issuer, text string) (*oauth.Token, error)
}

// nodes tells which server of the store counts for a limit id. counters.Leases is one.
type nodes interface{ Node(limitID string) string }

// Sightings hear that a key was used from an address, from several goroutines at once. They must
// not wait, and must clone what they keep of the key.
type Sightings interface {
	Saw(k *keys.Grant, client netip.Addr, at time.Time)
}

// The names by which a proxy's configuration says what a request belongs to: keys of Envoy's
// context_extensions over gRPC, words of the path over HTTP.
const (
	ContextAPI         = "api"
	ContextRoute       = "route"
	ContextEnvironment = "environment"
)

// envoyMargin is how long before Envoy's own deadline an answer has to be on its
// way, so that Envoy still sees it.
const envoyMargin = 20 * time.Millisecond

// DefaultDeadline is how long a decision may take if the proxy does not ask for less.
const DefaultDeadline = 100 * time.Millisecond

// Config says what an Authorizer is made of. All fields are required unless said.
type Config struct {
	Policies *Policies
	Decider  *policy.Decider
	// Keys is asked by Lookup, and by Find first if it is a KeyCache.
	Keys   KeyFinder
	Limits Spender
	// Tokens verifies access tokens; nil where no policy takes any: then they are undecided.
	Tokens TokenVerifier
	// Breaker is around each spend; nil for none. Give the cache of Keys the same.
	Breaker *connect.Breaker
	// Usage notes the keys of allowed requests; nil for none.
	Usage *cache.Usage
	// Observer is told what proxies' access logs say; nil for nobody.
	Observer Observer
	// Counts counts the decisions by key; nil for none.
	Counts *usage.Counter
	// Networks hears from where keys are used, of APIs whose policy wants to be told; nil for
	// nobody.
	Networks Sightings
	// Errors samples the requests that were refused or failed; nil for none.
	Errors *errorlog.Log
	// Rehash is told of keys that were found by an older method of hashing; nil
	// for none. It must not wait.
	Rehash  func(id string, from, to keys.Digest)
	Metrics *Metrics
	Log     *slog.Logger
	// Decisions says which decisions are logged; default LogDenied.
	Decisions Decisions
	// Lines get them, in place of Log; nil for Log.
	Lines *decisionlines.Lines
	// Tracing makes spans of decisions; nil for none.
	Tracing *Tracing
	// Deadline bounds a decision; default DefaultDeadline.
	Deadline time.Duration
}

// Authorizer decides about requests, whichever server they came to. It is safe for
// concurrent use.
type Authorizer struct {
	policies *Policies
	decider  *policy.Decider
	keys     KeyFinder
	cache    KeyCache // keys, if it can answer at once; else nil
	limits   Spender
	tokens   TokenVerifier // or nil
	nodes    nodes         // limits, if it knows them; else nil
	breaker  *connect.Breaker
	usage    *cache.Usage
	observer Observer // or nil
	counts   *usage.Counter
	errors   *errorlog.Log // or nil
	networks Sightings     // or nil
	rehash   func(id string, from, to keys.Digest)
	deadline time.Duration
	metrics  *Metrics
	log      *decisionLog
	tracing  *Tracing // or nil
	ready    Readiness
	slots    *slots

	warned sync.Map // names of APIs, for unplaced
}

// New returns an Authorizer that is ready.
func New(c Config) *Authorizer {
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	if c.Decisions == "" {
		c.Decisions = LogDenied
	}
	cache, _ := c.Keys.(KeyCache)
	nodes, _ := c.Limits.(nodes)
	return &Authorizer{
		policies: c.Policies, decider: c.Decider, keys: c.Keys, cache: cache, limits: c.Limits, tokens: c.Tokens, nodes: nodes,
		breaker: c.Breaker, usage: c.Usage, counts: c.Counts, errors: c.Errors, networks: c.Networks, observer: c.Observer, rehash: c.Rehash, deadline: c.Deadline, metrics: c.Metrics,
		log: newDecisionLog(c.Log, c.Decisions, c.Lines), tracing: c.Tracing,
		slots: newSlots(c.Limits, c.Decider.Local()),
	}
}

// Policy returns the policy set in force. A request is read and decided by the same one.
func (a *Authorizer) Policy() *policy.Set { return a.policies.Current() }

// Metrics returns the metrics, for what a server refuses by itself.
func (a *Authorizer) Metrics() *Metrics { return a.metrics }

// Tracing returns what makes spans of decisions, nil for nothing: then a server need not look for
// the trace that a request belongs to.
func (a *Authorizer) Tracing() *Tracing { return a.tracing }

// Readiness is what health checks are told.
func (a *Authorizer) Readiness() *Readiness { return &a.ready }

// Panicked counts and logs a panic in a method, which the caller answers with an error.
func (a *Authorizer) Panicked(method string, p any) {
	a.metrics.panics.Inc()
	// The value may quote the request; its type is enough beside the stack.
	a.log.bounded.Log(context.Background(), slog.LevelError, "panic", slog.String("method", method), slog.String("type", fmt.Sprintf("%T", p)), slog.String("stack", string(debug.Stack())))
}

// Trouble warns of what a request met that is no decision, as far as the bound of the
// log allows.
func (a *Authorizer) Trouble(ctx context.Context, message string, attrs ...slog.Attr) {
	a.log.trouble(ctx, message, attrs...)
}

// Flush tells what the log has only counted. Each server does that at its end.
func (a *Authorizer) Flush() { a.log.end() }

// Decide decides about a request, fetching what that waits for. The Decision is
// void once check begins another one.
func (a *Authorizer) Decide(ctx context.Context, start time.Time, set *policy.Set, r *policy.Request, check *policy.Check) *policy.Decision {
	_, traced := ctx.(*tracedContext)
	p := pending{Authorizer: a, parent: ctx, start: start, traced: traced}
	defer p.end()

	wait := a.decider.Begin(check, set, r)
	for wait != policy.Done {
		switch wait {
		case policy.WaitToken:
			wait = check.Verified(p.token(check))
		case policy.WaitKey:
			wait = check.Found(p.key(check))
		case policy.WaitLimits:
			if s := &check.Spend().Slot; s.ID != "" {
				s.Earlier = a.slots.earlier(check.RequestID())
			}
			wait = check.Spent(p.limits(check.Spend(), check.Result()))
		}
	}
	a.noteUse(check)
	a.noteSlot(ctx, check)
	a.count(check)
	d := check.Decision()
	if check.Unplaced() {
		a.unplaced(ctx, check.API(), r)
	}
	took := time.Since(start)
	a.metrics.decided(set, check, took)
	a.log.decision(ctx, check, took)
	if p.traced {
		a.tracing.decided(ctx, start, start.Add(took), check, p.waits)
	}
	return d
}

// noteUse is what an allowed request leaves to be done when it no longer waits.
func (a *Authorizer) noteUse(check *policy.Check) {
	k := check.Key()
	if !check.Identified() || !check.Decision().Allow {
		return
	}
	if a.usage != nil && check.Recorded() {
		a.usage.Note(k)
	}
	if a.networks != nil && check.API().Alerts().NewNetworks.Told {
		a.networks.Saw(k, check.Client(), check.Now())
	}
	if id, from, to, ok := check.Rehash(); ok && a.rehash != nil {
		a.rehash(id, from, to)
	}
}

// count counts the decision for its key, or for its API where no key is known, and notes a refusal.
func (a *Authorizer) count(check *policy.Check) {
	api, d := check.API(), check.Decision()
	switch {
	case api == nil || a.counts == nil:
	case d.Shadow != policy.Allowed:
		a.counts.Shadowed(api, check.Key(), check.Route(), d.Shadow, check.Now())
	default:
		a.counts.Decided(api, check.Key(), check.Route(), d.Reason, check.Now())
	}
	if a.errors != nil && !d.Allow {
		a.errors.Refused(check)
	}
}

// unplaced warns, once for each API, that the proxy's configuration lets no key of it
// in: each refusal by itself looks like a client's mistake.
func (a *Authorizer) unplaced(ctx context.Context, api *policy.API, r *policy.Request) {
	if _, known := a.warned.LoadOrStore(api.Name(), true); known {
		return
	}
	a.Trouble(ctx, "every key is refused as wrong_environment: the proxy must say the environment, in context_extensions beside the api or by a host of the policy",
		slog.String("api", api.Name()), slog.String("environments", strings.Join(api.Environments(), ",")),
		slog.String("asked_environment", r.Environment.Value), slog.String("host", r.Host))
}

// pending is one decision while it waits, and gets what it waits for. Its context has
// a deadline of our own, and is made only for what cannot be answered at once.
type pending struct {
	*Authorizer
	parent context.Context
	start  time.Time

	ctx    context.Context // nil until something is waited for
	cancel context.CancelFunc

	traced bool
	waits  []storeWait // if it is
}

// context returns the context of everything that is waited for: it ends at our own
// deadline, or at Envoy's less a margin if that is earlier.
func (p *pending) context() context.Context {
	if p.ctx == nil {
		end := p.start.Add(p.deadline)
		if envoys, ok := p.parent.Deadline(); ok && envoys.Add(-envoyMargin).Before(end) {
			end = envoys.Add(-envoyMargin)
		}
		p.ctx, p.cancel = context.WithDeadline(p.parent, end)
	}
	return p.ctx
}

func (p *pending) end() {
	if p.cancel != nil {
		p.cancel()
	}
}

func (p *pending) key(check *policy.Check) (k keys.Grant, err error) {
	d := check.Digest()
	if p.cache != nil {
		if k, err = p.cache.Find(d); err != cache.ErrNotCached {
			p.lookupFailed(p.parent, err)
			return k, err
		}
	}
	began := time.Now()
	if p.cache != nil {
		k, err = p.cache.LookupFor(p.context(), d, check.Caller())
	} else {
		k, err = p.keys.Lookup(p.context(), d)
	}
	if !errors.Is(err, connect.ErrStoreDown) && !errors.Is(err, keys.ErrBusy) {
		p.waited(connect.LookUp, began)
	}
	p.lookupFailed(p.parent, err)
	return k, err
}

// token has the token of a request verified. It goes nowhere but to the verifier.
func (p *pending) token(check *policy.Check) (*oauth.Token, error) {
	if p.tokens == nil {
		return nil, &oauth.UndecidedError{Why: "nothing here verifies tokens"}
	}
	issuers, text := check.Token()
	if t, known, err := p.tokens.Find(issuers, text); known {
		return t, err
	}
	t, err := p.tokens.Verify(p.context(), issuers, text)
	var refused *oauth.RefusedError
	if err != nil && !errors.As(err, &refused) {
		p.Trouble(p.parent, "a token was not verified", slog.String("api", check.API().Name()), slog.Any("error", err))
	}
	return t, err
}

// waited notes how long the decision has waited for the store.
func (p *pending) waited(o connect.Operation, began time.Time) {
	end := time.Now()
	p.metrics.durations.waits[o].observe(end.Sub(began))
	if p.traced {
		p.waits = append(p.waits, storeWait{o, began, end})
	}
}

func (p *pending) limits(s *limits.Spend, res *limits.Result) error {
	if p.Authorizer.limits.Try(s, res) {
		return nil
	}
	ctx := p.context()
	var err error
	operation, node := connect.Spend, ""
	if s.ReadOnly {
		operation = connect.ReadLimits
	}
	if p.nodes != nil {
		node = p.nodes.Node(s.ID)
	}
	opened := p.breaker.Do(operation, node, func() error {
		defer p.waited(operation, time.Now())
		if *res, err = p.Authorizer.limits.Spend(ctx, s); p.countsAsFailure(err) {
			return err
		}
		return nil
	})
	if err == nil {
		err = opened // connect.ErrStoreDown, or nothing
	}
	p.spendFailed(p.parent, s, err)
	return err
}

// countsAsFailure reports whether the breaker counts the error of a spend. What one key's limits
// or one caller's short deadline cause must not open the breaker for all, nor must a
// spend that was never sent.
func (p *pending) countsAsFailure(err error) bool {
	var broken *limits.BrokenError
	switch {
	case errors.As(err, &broken), errors.Is(err, counters.ErrBusy):
		return false
	case errors.Is(err, context.DeadlineExceeded):
		return time.Since(p.start) >= p.deadline/2 // else it had no fair time
	}
	return connect.IsStoreFailure(err)
}

// lookupFailed counts and logs a look-up that told nothing about a key.
func (a *Authorizer) lookupFailed(ctx context.Context, err error) {
	if err == nil || err == keys.ErrUnknown {
		return
	}
	var corrupt *keys.CorruptError
	switch {
	case errors.Is(err, keys.ErrUnknown):
	case errors.Is(err, keys.ErrBusy):
		// Counted by the cache. A line each would let a scan fill the log.
	case errors.Is(err, connect.ErrStoreDown):
		a.metrics.storeErrors.WithLabelValues(storeLookup).Inc() // what it came from has been logged
	case errors.Is(err, standing.ErrUnvouched):
		a.metrics.storeErrors.WithLabelValues(storeUnvouched).Inc() // readyz and the log say why, once
	case errors.As(err, &corrupt):
		a.metrics.corruptRecords.Inc()
		a.Trouble(ctx, "corrupt key record", slog.String("key_id", corrupt.ID), slog.Any("error", corrupt.Err))
	default:
		a.metrics.storeErrors.WithLabelValues(storeLookup).Inc()
		a.Trouble(ctx, "key look-up failed", slog.Any("error", err))
	}
}

func (a *Authorizer) spendFailed(ctx context.Context, s *limits.Spend, err error) {
	if err == nil {
		return
	}
	a.metrics.storeErrors.WithLabelValues(storeSpend).Inc()
	if errors.Is(err, connect.ErrStoreDown) {
		return // what it came from has been logged
	}
	a.Trouble(ctx, "limits not spent", slog.String("limit_id", s.ID), slog.Bool("read_only", s.ReadOnly), slog.Any("error", err))
}
