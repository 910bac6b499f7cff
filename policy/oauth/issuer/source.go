package issuer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"tollgate/policy/oauth"
)

const (
	// Keys are fetched anew after what the issuer says (Cache-Control), within these bounds.
	leastAge    = 5 * time.Minute
	greatestAge = 24 * time.Hour
	defaultAge  = 15 * time.Minute

	// cooldown is how long after a fetch for unknown kids no other is made for such.
	cooldown = 30 * time.Second
	// The pauses after fetches that failed.
	firstPause, longestPause = time.Second, 30 * time.Second

	// maxAwaited bounds the kids that are remembered, and maxWaiting the requests that wait.
	maxAwaited = 1000
	maxWaiting = 64
)

// source is one issuer, as its keys are fetched.
type source struct {
	issuer *oauth.Issuer
	client *http.Client
	log    *slog.Logger
	stop   func() // guarded by the Keeper
	wake   chan struct{}

	mu         sync.Mutex
	set        *oauth.KeySet // nil until a fetch succeeds
	fetchedAt  time.Time
	until      time.Time // of the set; it is used for StaleFor longer
	validity   *validity
	discovered oauth.Discovered

	started    uint64 // counts fetches that have begun
	succeeded  uint64 // which of them was the last to succeed
	underWay   bool
	startedAt  time.Time
	failed     int // fetches in a row
	next       time.Time
	wanted     bool          // next is for unknown kids
	wantedAt   time.Time     // when the last such fetch began
	changed    chan struct{} // closed when a fetch ends
	waiting    int
	awaited    map[[sha256.Size]byte]*awaitedKid // by the kid's hash: kids are long at will
	problem    string
	successes  uint64
	failures   uint64
	ignoredFor string // the keys that were told to be ignored
}

// awaitedKid is a kid that the set does not have.
type awaitedKid struct {
	arrived uint64 // started, then
	asked   uint64 // started, when it was last asked for
}

func newSource(i *oauth.Issuer, client *http.Client, log *slog.Logger) *source {
	return &source{
		issuer: i, client: client, log: log, stop: func() {}, wake: make(chan struct{}, 1),
		changed: make(chan struct{}), validity: &validity{}, awaited: map[[sha256.Size]byte]*awaitedKid{},
	}
}

// run fetches until ctx ends.
func (s *source) run(ctx context.Context) {
	for {
		s.fetch(ctx)
		for again := false; !again; {
			s.mu.Lock()
			pause := time.Until(s.next)
			s.mu.Unlock()
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
				again = true
			case <-s.wake: // next has changed
				timer.Stop()
			}
		}
	}
}

// fetch asks the issuer once, and says when to ask it next.
func (s *source) fetch(ctx context.Context) {
	s.mu.Lock()
	s.started++
	this := s.started
	s.underWay, s.startedAt = true, time.Now()
	if s.wanted {
		s.wanted, s.wantedAt = false, s.startedAt
	}
	known := s.discovered.JWKS
	if s.failed > 0 || !time.Now().Before(s.until) {
		known = "" // the issuer may have moved them
	}
	s.mu.Unlock()

	found, set, age, err := s.ask(ctx, known)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.underWay = false
	defer func() { close(s.changed); s.changed = make(chan struct{}) }()
	if err != nil {
		s.failed++
		s.failures++
		s.next = time.Now().Add(min(firstPause<<min(s.failed-1, 10), longestPause))
		s.tell(err)
		return
	}
	if s.set != nil {
		s.lose(set.Lost(s.set), this)
	}
	s.set, s.discovered, s.failed, s.fetchedAt = set, found, 0, s.startedAt
	s.successes++
	s.until = s.startedAt.Add(min(max(age, leastAge), greatestAge))
	s.validity.until.Store(s.until.Add(s.issuer.StaleFor).UnixNano())
	s.next = s.until
	s.settle(this)
	s.tell(nil)
}

// lose takes it that the issuer has been asked about the keys that it has taken away, and that what
// was verified with them has to be verified again. The caller has locked s.
func (s *source) lose(kids []string, this uint64) {
	for _, kid := range kids {
		if len(s.awaited) < maxAwaited {
			s.awaited[sha256.Sum256([]byte(kid))] = &awaitedKid{arrived: this - 1, asked: this}
		}
	}
	if len(kids) > 0 {
		s.validity.generation.Add(1)
	}
}

// settle forgets kids that nobody has asked for since the last success: those that the set has
// now are among them soon. The caller has locked s.
func (s *source) settle(this uint64) {
	for kid, a := range s.awaited {
		if a.asked < s.succeeded {
			delete(s.awaited, kid)
		}
	}
	s.succeeded = this
}

// ask reads the issuer's description, unless its keys' place is known, and its keys.
func (s *source) ask(ctx context.Context, jwks string) (found oauth.Discovered, set *oauth.KeySet, age time.Duration, err error) {
	s.mu.Lock()
	found = s.discovered
	s.mu.Unlock()
	switch {
	case s.issuer.JWKS != "":
		found.JWKS = s.issuer.JWKS
	case jwks == "":
		if found, err = s.discover(ctx); err != nil {
			return found, nil, 0, fmt.Errorf("its description: %w", err)
		}
	}
	if found.JWKS == "" {
		return found, nil, 0, errors.New("its description names no jwks_uri")
	}
	body, age, err := get(ctx, s.client, found.JWKS, oauth.MaxKeySet)
	if err == nil {
		set, err = oauth.ParseKeySet(body)
	}
	if err != nil {
		return found, nil, 0, fmt.Errorf("its keys: %w", err)
	}
	if age == 0 {
		age = defaultAge
	}
	return found, set, age, nil
}

// discover reads the issuer's description from the first place that has one.
func (s *source) discover(ctx context.Context) (found oauth.Discovered, err error) {
	var status *statusError
	for _, url := range oauth.DiscoveryURLs(s.issuer.URL) {
		var body []byte
		if body, _, err = get(ctx, s.client, url, oauth.MaxDiscovery); err == nil {
			return oauth.ParseDiscovery(body, s.issuer.URL)
		}
		if !errors.As(err, &status) {
			break
		}
	}
	return found, err
}

// tell logs what has changed. The caller has locked s.
func (s *source) tell(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	switch {
	case problem != "" && problem != s.problem:
		s.log.Warn("an issuer's keys could not be fetched", slog.String("issuer", s.issuer.URL), slog.String("error", problem), slog.Bool("has_keys", s.set != nil))
	case problem == "" && (s.problem != "" || s.successes == 1):
		s.log.Info("an issuer's keys were fetched", slog.String("issuer", s.issuer.URL), slog.Int("keys", s.set.Size()))
	}
	s.problem = problem
	if err != nil {
		return
	}
	if ignored := strings.Join(s.set.Ignored, "; "); ignored != s.ignoredFor {
		s.ignoredFor = ignored
		if ignored != "" {
			s.log.Warn("some of an issuer's keys are not used", slog.String("issuer", s.issuer.URL), slog.String("keys", ignored))
		}
	}
}

// usable returns the set, nil where there is none that may be used. The caller has locked s.
func (s *source) usable() *oauth.KeySet {
	if time.Now().UnixNano() >= s.validity.until.Load() {
		return nil
	}
	return s.set
}

// find is Keeper.Find.
func (s *source) find(ctx context.Context, kid, algorithm string) (Found, error) {
	keys, wait, err := s.look(kid, algorithm, true)
	if wait == nil {
		return keys, err
	}
	select {
	case <-wait:
	case <-ctx.Done():
	}
	keys, _, err = s.look(kid, algorithm, false)
	return keys, err
}

// look is find without waiting: it returns wait where a fetch that may help is under way or about
// to begin, and room for one more that waits. The second look of a request gives its place back.
func (s *source) look(kid, algorithm string, first bool) (_ Found, wait <-chan struct{}, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !first {
		s.waiting--
	}
	set := s.usable()
	if set != nil {
		if keys, known := set.Find(kid, algorithm); len(keys) > 0 {
			return Found{keys, Stamp{s.validity, s.validity.generation.Load()}}, nil, nil
		} else if known {
			return Found{}, nil, &oauth.RefusedError{Why: "the key that it names is not for its alg"}
		}
	}
	a := s.await(kid)
	if set != nil && s.succeeded > a.arrived {
		s.wantFetch()
		return Found{}, nil, &oauth.RefusedError{Why: "no key of the issuer has its kid"}
	}
	soon := s.wantFetch() || s.underWay
	if first && soon && s.waiting < maxWaiting {
		s.waiting++
		return Found{}, s.changed, nil
	}
	why := "the issuer may have a new key"
	if set == nil {
		why = "the issuer's keys are not known"
	}
	return Found{}, nil, &oauth.UndecidedError{Why: why, RetryAfter: max(time.Until(s.next), firstPause)}
}

// await notes that a kid is looked for. Where there is no room for it, it has arrived only now each
// time. The caller has locked s.
func (s *source) await(kid string) *awaitedKid {
	sum := sha256.Sum256([]byte(kid))
	a := s.awaited[sum]
	if a == nil {
		a = &awaitedKid{arrived: s.started}
		if len(s.awaited) < maxAwaited {
			s.awaited[sum] = a
		}
	}
	a.asked = s.started
	return a
}

// wantFetch has keys fetched for an unknown kid as soon as the pause after the last fetch is over.
// It reports whether that is now. The caller has locked s.
func (s *source) wantFetch() (soon bool) {
	if s.underWay || s.started == 0 {
		return s.started == 0
	}
	if earliest := s.wantedAt.Add(cooldown); s.failed == 0 && earliest.Before(s.next) { // else it is tried again soon anyway
		s.next, s.wanted = earliest, true
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return !time.Now().Before(s.next)
}

func (s *source) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Issuer: s.issuer.URL, FetchedAt: s.fetchedAt, Problem: s.problem, Fetches: s.successes, Failures: s.failures, Awaited: len(s.awaited)}
	if set := s.usable(); set != nil {
		st.Keys = set.Size()
	}
	return st
}
