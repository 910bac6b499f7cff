package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
)

// Rehasher replaces the digest of a key: Store, for all but tests.
type Rehasher interface {
	Rehash(ctx context.Context, id string, from, to keys.Digest) error
}

const (
	// maxRehashes is how many keys may wait. More are taken up at a later use.
	maxRehashes   = 1_000
	rehashTimeout = time.Second
	// rehashPause bounds how fast rehashes fill the audit stream, from which they push out what
	// people have done.
	rehashPause = time.Minute
)

// Rehashes replaces the digests of keys that were found by an older method, not while a request
// waits. It is safe for concurrent use.
type Rehashes struct {
	store Rehasher
	audit *audit.Stream
	who   roles.Actor
	queue chan rehash
	full  chan struct{}
	pause func() <-chan time.Time

	mu      sync.Mutex
	pending map[string]bool // by key id: waiting, or under way
}

type rehash struct {
	id       string
	from, to keys.Digest
}

// NewRehashes returns a Rehashes that does nothing before Run, and then acts as who.
func NewRehashes(store Rehasher, audit *audit.Stream, who roles.Actor) *Rehashes {
	return &Rehashes{
		store: store, audit: audit, who: who, queue: make(chan rehash, maxRehashes), full: make(chan struct{}, 1),
		pause: func() <-chan time.Time { return time.After(rehashPause) }, pending: map[string]bool{},
	}
}

// Add asks for a key's digest to be replaced. It does not wait; what there is no room for is
// dropped.
func (r *Rehashes) Add(id string, from, to keys.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[id] {
		return
	}
	select {
	case r.queue <- rehash{id, from, to}:
		r.pending[id] = true
	default:
	}
	if len(r.queue) == cap(r.queue) {
		select {
		case r.full <- struct{}{}:
		default:
		}
	}
}

// Run works until ctx ends: at once when there is something to do, then again a minute later or
// when no more may wait. All keys of one time are one intent and one outcome in the audit stream.
// failed, which may be nil, is told of each key that could not be changed; its next use tries
// again.
func (r *Rehashes) Run(ctx context.Context, failed func(id string, err error)) {
	if failed == nil {
		failed = func(string, error) {}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-r.queue:
			r.all(ctx, r.waiting(first), failed)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.full:
		case <-r.pause():
		}
	}
}

// waiting returns first and all that waits now.
func (r *Rehashes) waiting(first rehash) []rehash {
	all := []rehash{first}
	for len(all) < maxRehashes {
		select {
		case next := <-r.queue:
			all = append(all, next)
		default:
			return all
		}
	}
	return all
}

func (r *Rehashes) all(ctx context.Context, all []rehash, failed func(id string, err error)) {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, next := range all {
			delete(r.pending, next.id)
		}
	}()
	entry := audit.NewEntry(r.who, roles.ActionRehash, "", "")
	for _, next := range all {
		entry.IDs = append(entry.IDs, next.id)
	}
	entry.After, _ = json.Marshal(map[string]int{"keys": len(all)}) // cannot fail
	bounded, cancel := context.WithTimeout(ctx, rehashTimeout)
	intent, err := r.audit.Intent(bounded, entry)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			failed(all[0].id, fmt.Errorf("%w; %s", err, keys.Plural(len(all), "key")))
		}
		return
	}
	var left []string
	for _, next := range all {
		bounded, cancel := context.WithTimeout(ctx, rehashTimeout)
		err := r.store.Rehash(bounded, next.id, next.from, next.to)
		cancel()
		if err == nil {
			continue
		}
		left = append(left, next.id)
		if ctx.Err() == nil {
			failed(next.id, err)
		}
	}
	result := "done"
	if len(left) > 0 {
		result = fmt.Sprintf("error: %d of %d stay as they were: %s", len(left), len(all), strings.Join(left, " "))
	}
	if err := r.audit.Outcome(ctx, intent, result); err != nil {
		failed(all[0].id, err)
	}
}
