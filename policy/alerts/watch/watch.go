// Package watch looks at the counters of keys that were used, and raises what is to be told of
// them.
package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
)

const (
	lookInterval = 10 * time.Second
	lookTimeout  = 8 * time.Second
	// maxUsed bounds the keys that wait to be looked at, of some 100 bytes each. Another is passed
	// over, counted, and looked at after its next use.
	maxUsed = 100_000
	perRead = 100
	// looksForLease is how often a key is looked at, without a further use, while servers hold
	// leases of its units: they end sooner, but where a server has died.
	looksForLease = 12
)

// Records reads keys.
type Records interface {
	ReadAll(ctx context.Context, ids []string) ([]store.Found, error)
}

// Counters reads what keys have spent, and what of that servers have leased.
type Counters interface {
	Peek(ctx context.Context, sp *limits.Spend) (limits.Result, []int64, error)
}

// Announcer raises alerts, and reports false for one that was raised before.
type Announcer interface {
	Announce(ctx context.Context, a *alerts.Alert) (isNew bool, err error)
}

// Watcher looks at keys that a server has used. It is safe for concurrent use.
type Watcher struct {
	Policies  func() *policy.Set
	Records   Records
	Counters  Counters
	Announcer Announcer

	mu     sync.Mutex
	used   map[string]int // how often each may be looked at
	passed uint64
}

// Passed returns how many keys were not looked at since the start, because too many others waited.
func (w *Watcher) Passed() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed
}

// Used notes that a key was used. It never waits for the store.
func (w *Watcher) Used(api, key string) {
	if a := w.Policies().API(api); a == nil || !a.HasQuotaAlerts() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.used[key] > 0 {
		w.used[key] = looksForLease
		return
	}
	w.keep(strings.Clone(key), looksForLease)
}

// keep has a key looked at next time, as long as there is room. It is called under the lock.
func (w *Watcher) keep(key string, looks int) {
	if w.used == nil {
		w.used = map[string]int{}
	}
	if _, known := w.used[key]; !known && len(w.used) >= maxUsed {
		w.passed++
		return
	}
	w.used[key] = max(w.used[key], looks)
}

// Run looks every ten seconds until ctx ends. failed is told of a store that does not answer.
func (w *Watcher) Run(ctx context.Context, failed func(error)) {
	t := time.NewTicker(lookInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := w.Look(ctx); err != nil && ctx.Err() == nil {
				failed(err)
			}
		}
	}
}

// Look looks at the keys that were used since it last did. Those that it does not come to wait for
// the next time.
func (w *Watcher) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	w.mu.Lock()
	used := w.used
	w.used = nil
	w.mu.Unlock()
	ids := slices.Collect(maps.Keys(used))
	for len(ids) > 0 {
		part := ids[:min(len(ids), perRead)]
		leased, err := w.lookAt(ctx, part)
		if err != nil {
			w.again(ids, used)
			return fmt.Errorf("alerts: look: %w", err)
		}
		for _, id := range leased {
			used[id]-- // what is leased may be spent without another word
		}
		w.again(leased, used)
		ids = ids[len(part):]
	}
	return nil
}

// again keeps keys for the next look, as often as each may be looked at.
func (w *Watcher) again(ids []string, looks map[string]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		if looks[id] > 0 {
			w.keep(id, looks[id])
		}
	}
}

// lookAt returns the keys of whose units servers hold leases.
func (w *Watcher) lookAt(ctx context.Context, ids []string) (leased []string, err error) {
	found, err := w.Records.ReadAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	set := w.Policies()
	for i := range found {
		if found[i].Err != nil {
			continue // deleted, or broken, which is told elsewhere
		}
		held, err := w.lookAtKey(ctx, set, found[i].Key)
		if err != nil {
			return nil, err
		}
		if held {
			leased = append(leased, ids[i])
		}
	}
	return leased, nil
}

func (w *Watcher) lookAtKey(ctx context.Context, set *policy.Set, k *keys.Key) (leased bool, err error) {
	api := set.API(k.API)
	if api == nil {
		return false, nil
	}
	percents := api.QuotaAlerts(k.Plan)
	windows, _, err := set.LimitsOf(k, time.Now())
	windows = alerts.Watched(windows)
	if err != nil || len(percents) == 0 || len(windows) == 0 {
		return false, nil // a key that the policy does not allow spends nothing
	}
	res, held, err := w.Counters.Peek(ctx, &limits.Spend{ID: k.LimitID, Windows: windows, ReadOnly: true})
	var broken *limits.BrokenError
	if errors.As(err, &broken) {
		return false, nil // its next request says so
	}
	if err != nil {
		return false, err
	}
	for _, q := range alerts.Reached(k, percents, windows, res.States, held, res.Now) {
		if _, err := w.Announcer.Announce(ctx, q.Alert()); err != nil {
			return false, err
		}
	}
	return slices.ContainsFunc(held, func(n int64) bool { return n > 0 }), nil
}
