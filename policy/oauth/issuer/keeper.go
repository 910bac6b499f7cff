// Package issuer has the keys of issuers at hand. It fetches them in the background, so that
// decisions do not wait for an issuer.
//
// What a token's kid comes to:
//
//	in the set ─────────────────────────▶ its keys
//	not in it, first seen ──▶ awaited ── a fetch that began later has not got it ──▶ refused
//	                             │
//	                             └── until then: undecided, to be tried again after the next fetch
//
// So a token is refused for its kid only once the issuer itself has said that it has no such key.
// Kids are anybody's text: one fetch in cooldown is made for all that are not known, and of those
// that are awaited so many are remembered; any other stays undecided, which is never a refusal. A
// flood of random kids can therefore neither flood the issuer nor have good tokens refused while
// the issuer changes its keys.
package issuer

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy/oauth"
)

// Options says what a Keeper needs.
type Options struct {
	// Issuers returns those of the policies in force.
	Issuers func() []*oauth.Issuer
	// Client makes the requests; default NewClient.
	Client *http.Client
	// Log is told when an issuer cannot be reached, and when it can again; default: nowhere.
	Log *slog.Logger
}

// Keeper has the keys of all issuers. It is safe for concurrent use.
type Keeper struct {
	options Options

	mu      sync.RWMutex
	sources map[name]*source
	ctx     context.Context // of Run; nil until then
	running sync.WaitGroup
}

// name is what makes an issuer another one to fetch from.
type name struct {
	url, jwks string
	staleFor  time.Duration
}

func nameOf(i *oauth.Issuer) name { return name{i.URL, i.JWKS, i.StaleFor} }

// New returns a Keeper that has no keys yet.
func New(o Options) *Keeper {
	if o.Client == nil {
		o.Client = NewClient()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{options: o, sources: map[name]*source{}}
}

// followEvery is how soon an issuer that no policy names any more is forgotten.
const followEvery = time.Second

// Run fetches keys until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	defer k.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.mu.Lock()
	k.ctx = ctx
	for _, s := range k.sources {
		k.start(s)
	}
	k.mu.Unlock()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		k.follow()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follow begins with the issuers that policies name, and ends with others.
func (k *Keeper) follow() {
	named := k.options.Issuers()
	for _, i := range named {
		k.source(i)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, s := range k.sources {
		if !slices.ContainsFunc(named, func(i *oauth.Issuer) bool { return nameOf(i) == n }) {
			s.stop()
			s.validity.until.Store(0) // what comes of the same issuer later begins anew
			delete(k.sources, n)
		}
	}
}

// source returns what is known of an issuer, from which on it is kept.
func (k *Keeper) source(i *oauth.Issuer) *source {
	n := nameOf(i)
	k.mu.RLock()
	s := k.sources[n]
	k.mu.RUnlock()
	if s != nil {
		return s
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s = k.sources[n]; s == nil {
		s = newSource(i, k.options.Client, k.options.Log)
		k.sources[n] = s
		if k.ctx != nil {
			k.start(s)
		}
	}
	return s
}

// start has a source fetch. The caller has locked k.
func (k *Keeper) start(s *source) {
	ctx, cancel := context.WithCancel(k.ctx)
	s.stop = cancel
	k.running.Go(func() { s.run(ctx) })
}

// Find returns the keys of an issuer that can have signed a token with a kid, which may be "", by
// an algorithm. It waits for a fetch that may help, not longer than ctx. Errors: a
// *oauth.RefusedError if the issuer has no such key; a *oauth.UndecidedError if that is not known.
func (k *Keeper) Find(ctx context.Context, i *oauth.Issuer, kid, algorithm string) (Found, error) {
	return k.source(i).find(ctx, kid, algorithm)
}

// Found is what a token can be verified with.
type Found struct {
	Keys  []oauth.Key
	Stamp Stamp // of the set that has them
}

// Stamp says until when a token that was verified need not be verified again.
type Stamp struct {
	validity   *validity
	generation uint64
}

// validity is that of the keys of an issuer.
type validity struct {
	generation atomic.Uint64 // counts sets that lack a key of the one before
	until      atomic.Int64  // Unix nanoseconds; 0 for no keys
}

// Valid reports whether the issuer still has the keys that it had, and they may be used at a time.
// It does not wait for anything. The zero Stamp is never valid.
func (s Stamp) Valid(now time.Time) bool {
	return s.validity != nil && s.validity.generation.Load() == s.generation && now.UnixNano() < s.validity.until.Load()
}

// Discovered returns what an issuer says of itself, which is nothing until it has been asked
// successfully.
func (k *Keeper) Discovered(i *oauth.Issuer) oauth.Discovered {
	s := k.source(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.discovered
}

// Status is what is known of one issuer.
type Status struct {
	Issuer    string
	Keys      int       // that are used; 0 if none may be
	FetchedAt time.Time // the last time with success; zero = never
	Problem   string    // of the last fetch, "" if it succeeded
	Fetches   uint64    // with success
	Failures  uint64    // without
	Awaited   int       // kids that are looked for
}

// Status returns the state of all issuers, in the order of their URLs.
func (k *Keeper) Status() []Status {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var all []Status
	for _, s := range k.sources {
		all = append(all, s.status())
	}
	slices.SortFunc(all, func(a, b Status) int {
		if a.Issuer < b.Issuer {
			return -1
		}
		return 1
	})
	return all
}
