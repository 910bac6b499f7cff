package keys

import (
	"context"
	"sync"
	"time"
)

// Rehasher replaces the digest of a key: Store, for all but tests.
type Rehasher interface {
	Rehash(ctx context.Context, id string, from, to Digest) error
}

const (
	// maxRehashes is how many keys may wait. More are taken up at a later use.
	maxRehashes   = 1_000
	rehashTimeout = time.Second
)

// Rehashes replaces the digests of keys that were found by an older method, one after the other and not while a
// request waits. It is safe for concurrent use.
type Rehashes struct {
	store Rehasher
	queue chan rehash

	mu      sync.Mutex
	pending map[string]bool // by key id: waiting, or under way
}

type rehash struct {
	id       string
	from, to Digest
}

// NewRehashes returns a Rehashes that does nothing before Run.
func NewRehashes(store Rehasher) *Rehashes {
	return &Rehashes{store: store, queue: make(chan rehash, maxRehashes), pending: map[string]bool{}}
}

// Add asks for a key's digest to be replaced. It does not wait; what there is no room for is dropped.
func (r *Rehashes) Add(id string, from, to Digest) {
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
}

// Run works until ctx ends. failed, which may be nil, is told of each key that could not be changed; its next use
// tries again.
func (r *Rehashes) Run(ctx context.Context, failed func(id string, err error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-r.queue:
			bounded, cancel := context.WithTimeout(ctx, rehashTimeout)
			err := r.store.Rehash(bounded, next.id, next.from, next.to)
			cancel()
			r.mu.Lock()
			delete(r.pending, next.id)
			r.mu.Unlock()
			if err != nil && failed != nil && ctx.Err() == nil {
				failed(next.id, err)
			}
		}
	}
}
