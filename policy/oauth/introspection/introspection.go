// Package introspection asks issuers about access tokens (RFC 7662): about those that cannot be
// verified here, and, where a policy wants that, whether one that was verified is revoked.
//
// What a token comes to:
//
//	answered lately ────────────────────────────────▶ what the answer said
//	else ──▶ is a call about it under way? ── yes ──▶ wait for that one
//	              │ no
//	              ▼
//	room at the issuer: calls at once, calls a second, breaker ── no ──▶ undecided
//	              │ yes
//	              ▼
//	call, bounded by Timeout ──▶ active, and judged as a JWT ──▶ kept until exp or max_age
//	              │          └─▶ not active, or refused      ──▶ kept for a moment
//	              ▼
//	no answer, or none that can be read ──▶ undecided
//
// A request waits no longer than its own deadline. The call goes on after that, so that the next
// try finds its answer. Undecided is never a yes, and no refusal either.
//
// Tokens are anybody's text, so that a flood of guesses would use up the room at an issuer. A
// quarter of that is only for tokens that were active when they were last asked about.
package introspection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
)

// Options says what an Asker needs. The zero value of each field means its default.
type Options struct {
	// Client makes the calls; default issuer.NewClient.
	Client *http.Client
	// Endpoint returns where an issuer wants to be asked, by its own metadata; "" is not known.
	// Default: nowhere.
	Endpoint func(*oauth.Issuer) string
	// How many answers are kept at most, and how many bytes they may take with their tokens: of
	// tokens that are active (default 100,000 and 64 MiB), and of others (10,000 and 8 MiB).
	Active, Inactive Room
	// Timeout bounds a call, which may be longer than what a request waits; default 2 s.
	Timeout time.Duration
	Now     func() time.Time // default time.Now
	Log     *slog.Logger     // is told when an issuer gives no answer, and when it does again; default nowhere
}

// Asker asks issuers about tokens, and keeps what they answer. It is safe for concurrent use. Close
// it.
type Asker struct {
	options  Options
	active   *answers
	inactive *answers
	flights  singleflight.Group

	ctx     context.Context // of the calls
	cancel  context.CancelFunc
	mu      sync.Mutex
	sources map[sourceName]*source
	calls   sync.WaitGroup // under way; added to while mu is held
	closed  bool
}

// New returns an Asker that knows nothing.
func New(o Options) *Asker {
	if o.Client == nil {
		o.Client = issuer.NewClient()
	}
	if o.Endpoint == nil {
		o.Endpoint = func(*oauth.Issuer) string { return "" }
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &Asker{
		options: o, sources: map[sourceName]*source{},
		active: newAnswers(o.Active.or(100_000, 64<<20)), inactive: newAnswers(o.Inactive.or(10_000, 8<<20)),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// Close ends the calls that are under way, and waits for them.
func (a *Asker) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.calls.Wait()
}

// Known returns what an issuer, which has an Introspection, said of a token not long ago; known is
// false if it has to be asked. It does not wait. Errors: those of Introspect.
func (a *Asker) Known(i *oauth.Issuer, text string) (t *oauth.Token, known bool, err error) {
	now := a.options.Now()
	if e := a.active.find(i, text); e != nil && now.Before(e.until) {
		return e.token, true, nil
	}
	if e := a.inactive.find(i, text); e != nil && now.Before(e.until) {
		return nil, true, e.err
	}
	return nil, false, nil
}

// Introspect is Known that asks the issuer where that is needed. It waits no longer than ctx. The
// caller has verified the signature of a JWT: it is asked only whether that is still active, and
// what the token says of itself stands. Errors: a *oauth.RefusedError, if the issuer says that the
// token is not active, or what it says of it is not what the policy wants; a *oauth.UndecidedError,
// if there was no answer.
func (a *Asker) Introspect(ctx context.Context, i *oauth.Issuer, text string) (*oauth.Token, error) {
	if t, known, err := a.Known(i, text); known {
		return t, err
	}
	if len(text) > oauth.MaxToken {
		return nil, &oauth.RefusedError{Why: "it is longer than 8 KiB"}
	}
	// By the issuer's address: what was judged by one policy is not judged by the next.
	flight := fmt.Sprintf("%p %s", i, text)
	done := a.flights.DoChan(flight, func() (any, error) { return a.call(i, strings.Clone(text)) })
	select {
	case r := <-done:
		t, _ := r.Val.(*oauth.Token)
		return t, r.Err
	case <-ctx.Done():
		return nil, &oauth.UndecidedError{Why: "the issuer has not answered in time", RetryAfter: time.Second}
	}
}

// call asks the issuer once, and keeps what it says.
func (a *Asker) call(i *oauth.Issuer, text string) (*oauth.Token, error) {
	// The call that this one just missed may have ended meanwhile.
	if t, known, err := a.Known(i, text); known {
		return t, err
	}
	s, done := a.source(i)
	if s == nil {
		return nil, &oauth.UndecidedError{Why: "this server ends"}
	}
	defer done()
	endpoint := i.Introspection.Endpoint
	if endpoint == "" {
		endpoint = a.options.Endpoint(i)
	}
	if endpoint == "" {
		return nil, &oauth.UndecidedError{Why: "where the issuer is to be asked about tokens is not known yet", RetryAfter: time.Second}
	}
	claims, err := s.ask(a.ctx, i, endpoint, text, a.active.find(i, text) != nil)
	if err != nil {
		return nil, err
	}
	now := a.options.Now()
	t, err := judge(i, claims, text, now)
	var refused *oauth.RefusedError
	if errors.As(err, &refused) {
		a.active.forget(i, text)
		a.inactive.keep(&answer{issuer: i, text: text, err: err, until: now.Add(inactiveAge)})
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	until := now.Add(i.Introspection.MaxAge)
	if end := t.Until(); end.Before(until) {
		until = end
	}
	a.inactive.forget(i, text)
	a.active.keep(&answer{issuer: i, text: text, token: t, until: until})
	return t, nil
}

// inactiveAge is how long a refusal is kept: so that one who tries again and again costs nothing.
const inactiveAge = 10 * time.Second

// judge returns what an answer comes to.
func judge(i *oauth.Issuer, c *oauth.Claims, text string, now time.Time) (*oauth.Token, error) {
	if !c.True("active") {
		return nil, &oauth.RefusedError{Why: "the issuer says that it is not active"}
	}
	// Some issuers answer about refresh tokens as well, and about such that are bound to a key.
	switch kind, err := c.Text("token_type"); {
	case err != nil:
		return nil, &oauth.RefusedError{Why: err.Error()}
	case kind != "" && !strings.EqualFold(kind, "Bearer"):
		return nil, &oauth.RefusedError{Why: "the issuer says that it is no bearer token"}
	}
	if !oauth.IsJWT(text) {
		return i.Judge(c, now)
	}
	// What the token says of itself was signed. The answer may leave it out, and not contradict it.
	j, err := oauth.ParseJWT(text)
	if err != nil {
		return nil, err
	}
	t, err := i.Judge(j.Claims, now)
	if err != nil {
		return nil, err
	}
	client, err := c.Text(i.ClientClaim)
	switch {
	case err != nil:
		return nil, &oauth.RefusedError{Why: err.Error()}
	case c.Issuer != "" && c.Issuer != i.URL, client != "" && client != t.Client:
		return nil, &oauth.RefusedError{Why: "the issuer says something else about it than it says itself"}
	case !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt.Add(i.Leeway)):
		return nil, &oauth.RefusedError{Why: "exp is over", ExpiredAt: c.ExpiresAt}
	}
	return t, nil
}

// source returns where an issuer is asked, nil once the Asker is closed. done has to be called when
// it is no longer used.
func (a *Asker) source(i *oauth.Issuer) (s *source, done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, nil
	}
	a.calls.Add(1)
	now := a.options.Now()
	name := sourceName{i.URL, i.Introspection.Endpoint, i.Introspection.ClientID, i.Introspection.SecretFile, i.Introspection.KeyFile}
	if s = a.sources[name]; s == nil {
		for n, other := range a.sources { // of policies that are gone
			if now.Sub(other.used) > time.Hour {
				delete(a.sources, n)
			}
		}
		s = newSource(name, a.options)
		a.sources[name] = s
	}
	s.used = now
	return s, a.calls.Done
}

// Status is what is known of how one issuer answers.
type Status struct {
	Issuer   string
	Problem  string // why the last call had no answer, "" if it had one
	Calls    uint64 // that were answered
	Failures uint64 // that were not
	Busy     uint64 // that were not made, because too many were
}

// Status returns the state of all issuers that were asked, each once, in the order of their URLs.
func (a *Asker) Status() []Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	byIssuer := map[string]Status{}
	for _, s := range a.sources { // several, where APIs ask as different clients
		now := s.status()
		sum := byIssuer[now.Issuer]
		byIssuer[now.Issuer] = Status{
			now.Issuer, cmp.Or(sum.Problem, now.Problem), sum.Calls + now.Calls, sum.Failures + now.Failures, sum.Busy + now.Busy,
		}
	}
	return slices.SortedFunc(maps.Values(byIssuer), func(a, b Status) int { return strings.Compare(a.Issuer, b.Issuer) })
}

// Kept returns how many answers are kept: of tokens that are active, and of others.
func (a *Asker) Kept() (active, inactive int) { return a.active.len(), a.inactive.len() }
