// Package rates raises what is to be told of how many requests fail or are refused within ten
// minutes. It hears of them when usage is written, so no request waits for it, and asks Redis
// nothing: each server judges what it has seen itself.
package rates

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/keys/store"
	"tollgate/policy/usage"
)

const (
	lookInterval = 10 * time.Second
	lookTimeout  = 8 * time.Second
	// maxSubjects bounds the keys that are followed, of some 200 bytes each. Others are passed over
	// and counted.
	maxSubjects = 100_000
	// mostRaised bounds the alerts of one look. The others follow in the next.
	mostRaised = 100
)

// Records reads keys.
type Records interface {
	ReadAll(ctx context.Context, ids []string) ([]store.Found, error)
}

// Announcer raises alerts, and reports false for one that was raised before.
type Announcer interface {
	Announce(ctx context.Context, a *alerts.Alert) (isNew bool, err error)
}

// Rates follows the requests of keys and APIs. It is safe for concurrent use.
type Rates struct {
	policies  func() *policy.Set
	records   Records
	announcer Announcer
	servers   int // among which requests are spread evenly
	now       func() time.Time
	began     int64 // the window in which it began

	mu     sync.Mutex
	recent map[subject]*recent
	swept  int64                // the window in which subjects were last forgotten
	marked map[subject]struct{} // heard of since the last look
	passed uint64
}

// subject is a key of an API, or all of its requests.
type subject struct{ api, key string }

// New returns Rates for one of so many servers. now is the clock.
func New(policies func() *policy.Set, r Records, a Announcer, servers int, now func() time.Time) *Rates {
	return &Rates{
		policies: policies, records: r, announcer: a, servers: max(servers, 1), now: now, began: windowOf(now()),
		recent: map[subject]*recent{}, marked: map[subject]struct{}{},
	}
}

// Passed returns how many keys were not followed since the start, because too many others were.
func (r *Rates) Passed() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passed
}

// Add adds what a key did, or all of an API. It never waits for the store, and keeps nothing of the
// delta but names.
func (r *Rates) Add(d *usage.Delta) {
	api := r.policies().API(d.API)
	if api == nil || d.Others || !api.Alerts().OfRates() {
		return
	}
	t, reason := tallyOf(d, api.Alerts())
	if t == (tally{}) {
		return
	}
	window := windowOf(r.now())
	r.mu.Lock()
	defer r.mu.Unlock()
	s := subject{d.API, d.Key}
	of := r.recent[s]
	if of == nil {
		r.sweep(window)
		if len(r.recent) >= maxSubjects && d.Key != "" {
			r.passed++
			return
		}
		s.key = strings.Clone(s.key)
		of = &recent{window: window, key: s.key}
		r.recent[s] = of
	}
	of.roll(window)
	of.now.add(t)
	if reason != "" {
		of.reason = reason
	}
	if t.failed+t.denied > 0 {
		r.marked[subject{d.API, of.key}] = struct{}{}
	}
}

// sweep forgets, once in a window, who has done nothing in this one and the one before.
func (r *Rates) sweep(window int64) {
	if r.swept == window {
		return
	}
	r.swept = window
	for s, of := range r.recent {
		if of.window < window-1 {
			delete(r.recent, s)
		}
	}
}

// Run looks every ten seconds until ctx ends. failed is told of a store that does not answer.
func (r *Rates) Run(ctx context.Context, failed func(error)) { every(ctx, r.Look, failed) }

// Look judges those that it has heard of since it last did. What it cannot raise waits for the next
// time.
func (r *Rates) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var failed error
	raised := 0
	for _, a := range r.due() {
		var err error
		if failed == nil && raised < mostRaised {
			err = r.raise(ctx, a)
			raised++
		} else {
			err = errLater
		}
		r.settle(a, err == nil)
		if err != nil && err != errLater {
			failed = fmt.Errorf("alerts: rates: %w", err)
		}
	}
	return failed
}

var errLater = errors.New("later")

// due judges.
func (r *Rates) due() (all []*alerts.Alert) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	marked := r.marked
	r.marked = map[subject]struct{}{}
	set := r.policies()
	for s := range marked {
		api, of := set.API(s.api), r.recent[s]
		if api == nil || of == nil {
			continue
		}
		of.roll(windowOf(now))
		rules := api.Alerts()
		// An application that fails for all fails for each key: that is told once, and not of each.
		whole := r.recent[subject{s.api, ""}]
		if failed, ended, bad := of.failing(rules.ErrorRate, r.servers, now); bad && of.toldErrors != quarterOf(now) && (s.key == "" || !whole.fails(rules.ErrorRate, r.servers, now)) {
			all = append(all, alerts.Failing(s.api, s.key, failed, ended, rules.ErrorRate.Percent, now))
		}
		if of.spiked(rules.DeniedSpike, r.servers, r.began) && of.toldDenied != quarterOf(now) {
			all = append(all, alerts.Spiked(s.api, s.key, of.now.denied, of.before.denied, of.reason, now))
		}
	}
	return all
}

// raise raises an alert, with what else is known of the key.
func (r *Rates) raise(ctx context.Context, a *alerts.Alert) error {
	if a.Key != "" {
		found, err := r.records.ReadAll(ctx, []string{a.Key})
		if err != nil {
			return err
		}
		if found[0].Err != nil || found[0].Key.API != a.API {
			return nil // deleted, or broken, which is told elsewhere
		}
		a.Team, a.Plan = found[0].Key.Team, found[0].Key.Plan
	}
	_, err := r.announcer.Announce(ctx, a)
	return err
}

// settle notes that an alert was raised, by whomever; else its subject is judged again.
func (r *Rates) settle(a *alerts.Alert, raised bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := subject{a.API, a.Key}
	of := r.recent[s]
	switch {
	case of == nil:
	case !raised:
		r.marked[s] = struct{}{}
	case a.Type == alerts.ErrorsExceeded:
		of.toldErrors = quarterOf(a.At)
	default:
		of.toldDenied = quarterOf(a.At)
	}
}
