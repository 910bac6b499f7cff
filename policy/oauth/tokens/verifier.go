// Package tokens verifies access tokens. One that was verified is known again by its text, so that
// its next use costs a look into memory. A first use costs a signature, which anybody can have
// checked by sending what looks like a token: so few are checked at once, few wait for that, and
// after a forged one there is a pause, so that a flood of them takes a fixed part of the CPU and
// harms nobody whose token is known, nor any API key.
package tokens

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
)

// Keys has the keys of issuers. issuer.Keeper is one.
type Keys interface {
	Find(ctx context.Context, i *oauth.Issuer, kid, algorithm string) (issuer.Found, error)
}

// Introspector asks issuers about tokens (RFC 7662), those that have an Introspection. Errors of
// both: a *oauth.RefusedError if the token is not active or not for the API, a
// *oauth.UndecidedError if that is not known.
type Introspector interface {
	// Known returns what the issuer has said of a token not long ago; known is false if it has to
	// be asked. It does not wait.
	Known(i *oauth.Issuer, text string) (_ *oauth.Token, known bool, _ error)
	// Introspect asks the issuer, or waits for somebody who does, not longer than ctx.
	Introspect(ctx context.Context, i *oauth.Issuer, text string) (*oauth.Token, error)
}

// Options says how a Verifier works. The zero value of each field means its default.
type Options struct {
	Keys         Keys         // required
	Introspector Introspector // nil leaves tokens undecided that an issuer has to be asked about
	Tokens       int          // that are known at most; default 100,000
	Bytes        int          // that they take at most; default 128 MiB
	Parallel     int          // signatures that are checked at once; default a quarter of the CPUs
	Now          func() time.Time
}

// unanswered is an Introspector that asks nobody.
type unanswered struct{}

func (unanswered) Known(*oauth.Issuer, string) (*oauth.Token, bool, error) { return nil, false, nil }

func (unanswered) Introspect(context.Context, *oauth.Issuer, string) (*oauth.Token, error) {
	return nil, &oauth.UndecidedError{Why: "nobody asks issuers about tokens here"}
}

const (
	defaultTokens = 100_000
	defaultBytes  = 128 << 20
	// maxQueue is how many first uses may wait for their turn.
	maxQueue = 64
	// restFactor is how many times as long as a forged signature took nothing is checked in its
	// place.
	restFactor = 3
	// flightTime is longer than any decision takes.
	flightTime = time.Second
	// busyRetry is told to those for whom there was no place.
	busyRetry = time.Second
)

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	options Options
	known   *cache
	turns   chan struct{} // has a place for each signature that is being checked
	queued  atomic.Int64
	flights singleflight.Group
	counts  struct{ hits, verified, refused, undecided, busy atomic.Uint64 }
}

// New returns a Verifier that knows no token.
func New(o Options) *Verifier {
	if o.Tokens <= 0 {
		o.Tokens = defaultTokens
	}
	if o.Bytes <= 0 {
		o.Bytes = defaultBytes
	}
	if o.Parallel <= 0 {
		o.Parallel = max(1, runtime.GOMAXPROCS(0)/4)
	}
	if o.Introspector == nil {
		o.Introspector = unanswered{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Verifier{options: o, known: newCache(o.Tokens, o.Bytes), turns: make(chan struct{}, o.Parallel)}
}

// Find returns what can be said at once about a token that one of the issuers may have made, which
// are those of one API; known is false if Verify has to be asked. It does not wait, nor allocate
// for a token that is known. Errors: those of Verify.
func (v *Verifier) Find(issuers []*oauth.Issuer, text string) (t *oauth.Token, known bool, err error) {
	if !oauth.IsJWT(text) {
		i := oauth.Opaque(issuers)
		if i == nil {
			return nil, true, &oauth.RefusedError{Why: "it is no JWT, and no issuer is asked about others"}
		}
		return v.options.Introspector.Known(i, text)
	}
	found := v.known.find(issuers, text, v.options.Now())
	if found == nil {
		return nil, false, nil
	}
	if i := found.issuer.Load(); i.Introspection != nil && i.Introspection.JWTs {
		if _, known, err := v.options.Introspector.Known(i, text); !known || err != nil {
			return nil, known, err
		}
	}
	v.counts.hits.Add(1)
	return found.token, true, nil
}

// Verify returns what a token says that one of the issuers has made. It does not wait longer than
// ctx. Errors: a *oauth.RefusedError if it is no good token of theirs; a *oauth.UndecidedError if
// that could not be found out.
func (v *Verifier) Verify(ctx context.Context, issuers []*oauth.Issuer, text string) (*oauth.Token, error) {
	if t, known, err := v.Find(issuers, text); known {
		return t, err
	}
	t, err := v.verify(ctx, issuers, text)
	var refused *oauth.RefusedError
	switch {
	case err == nil:
		v.counts.verified.Add(1)
	case errors.As(err, &refused):
		v.counts.refused.Add(1)
	default:
		v.counts.undecided.Add(1)
	}
	return t, err
}

func (v *Verifier) verify(ctx context.Context, issuers []*oauth.Issuer, text string) (*oauth.Token, error) {
	if !oauth.IsJWT(text) {
		return v.options.Introspector.Introspect(ctx, oauth.Opaque(issuers), text)
	}
	t, err := v.signed(ctx, issuers, text)
	if err != nil {
		return nil, err
	}
	if t.Issuer.Introspection != nil && t.Issuer.Introspection.JWTs {
		if _, err := v.options.Introspector.Introspect(ctx, t.Issuer, text); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// signed verifies a JWT, once for all that come with it at the same time.
func (v *Verifier) signed(ctx context.Context, issuers []*oauth.Issuer, text string) (*oauth.Token, error) {
	if found := v.known.find(issuers, text, v.options.Now()); found != nil {
		return found.token, nil
	}
	// Before anything is read of it: a flood is to cost no more than this.
	if v.queued.Load() >= maxQueue {
		return nil, v.busy()
	}
	done := v.flights.DoChan(issuers[0].API+"\x00"+text, func() (any, error) {
		// Not the context of the first who came with it: others wait, too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
		defer cancel()
		return v.check(ctx, issuers, text)
	})
	select {
	case r := <-done:
		t, _ := r.Val.(*oauth.Token)
		return t, r.Err
	case <-ctx.Done():
		return nil, &oauth.UndecidedError{Why: "the token was not verified in time", RetryAfter: busyRetry}
	}
}

func (v *Verifier) busy() error {
	v.counts.busy.Add(1)
	return &oauth.UndecidedError{Why: "too many tokens that were never seen wait to be verified", RetryAfter: busyRetry}
}

// check reads a token, judges it, and checks its signature when it is its turn.
func (v *Verifier) check(ctx context.Context, issuers []*oauth.Issuer, text string) (*oauth.Token, error) {
	j, err := oauth.ParseJWT(text)
	if err != nil {
		return nil, err
	}
	i := oauth.Find(issuers, j.Claims.Issuer)
	if i == nil {
		return nil, &oauth.RefusedError{Why: "iss is no issuer of the policy"}
	}
	if err := i.CheckForm(j); err != nil {
		return nil, err
	}
	// What needs no key comes first, as most of what is wrong is found by it.
	t, err := i.Judge(j.Claims, v.options.Now())
	if err != nil {
		return nil, err
	}
	found, err := v.options.Keys.Find(ctx, i, j.KeyID, j.Algorithm)
	if err != nil {
		return nil, err
	}
	if err := v.checkSignature(ctx, j, found.Keys); err != nil {
		return nil, err
	}
	v.known.put(text, t, found.Stamp, v.options.Now())
	return t, nil
}

// checkSignature waits for its turn, if there is room to wait.
func (v *Verifier) checkSignature(ctx context.Context, j *oauth.JWT, keys []oauth.Key) error {
	if v.queued.Add(1) > maxQueue {
		v.queued.Add(-1)
		return v.busy()
	}
	defer v.queued.Add(-1)
	select {
	case v.turns <- struct{}{}:
	case <-ctx.Done():
		return &oauth.UndecidedError{Why: "the token was not verified in time", RetryAfter: busyRetry}
	}
	began := time.Now()
	err := j.Verify(keys)
	if err != nil {
		time.AfterFunc(restFactor*time.Since(began), func() { <-v.turns })
		return err
	}
	<-v.turns
	return nil
}

// Stats are counts since the start, and what is known at this moment.
type Stats struct {
	Hits      uint64 // tokens that were known
	Verified  uint64 // first uses with success
	Refused   uint64 // tokens that are no good
	Undecided uint64 // tokens of which that could not be found out
	Busy      uint64 // of those, for want of a place in the queue
	Tokens    int    // that are known
	Bytes     int    // that they take
}

// Stats returns the counts and the state of this moment.
func (v *Verifier) Stats() Stats {
	n := &v.counts
	s := Stats{Hits: n.hits.Load(), Verified: n.verified.Load(), Refused: n.refused.Load(), Undecided: n.undecided.Load(), Busy: n.busy.Load()}
	s.Tokens, s.Bytes = v.known.size()
	return s
}
