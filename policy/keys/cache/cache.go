// Package cache keeps what a decision needs of keys in memory, and hears from the store when one of
// them changes. While the store is away it serves what it knows. It also notes which keys are used.
//
// What is known of one secret, by its digest:
//
//	              read: a key                      used in the last quarter of its TTL
//	not known ──────────────────▶ grant, fresh ─────────────────────────▶ read again (refresh)
//	    │  ▲                          │  ▲                                        │
//	    │  └ evicted, message         │  └────────── read: the same, or changed ──┘
//	    ▼                             ▼ TTL over, or a newer generation
//	refusal (unknown, corrupt)    grant, too old ── read again ── store is away ─▶ served until
//	                                                                              StaleFor is over
//
// A message about a key takes its grant away (forget). What orders it against a reading under way
// is the fence of the digest: a reading counts the messages before it asks the store, and keeps
// what it got only if the count is the same (keep); else it reads again, three times at most. A
// generation ends whenever messages may have been lost (changes.go): what is of an earlier one is
// too old.
//
// Who owns what: grants, refusals and profiles are clockCaches, which lock by shard and are read
// without a lock; a fence guards its count, and that keep and forget do not run at the same time
// for its digests; flights lets one goroutine read a secret for all that ask; refreshes has a lock
// for what waits; the stream is written by Run alone and read as atomics.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// ErrNotCached says that Find does not know: Lookup has to be asked.
var ErrNotCached = errors.New("keys: not cached")

// Options says how a Cache keeps what it reads. The zero value of each field means its default.
type Options struct {
	Keys    int           // grants at most; default 1,000,000
	Unknown int           // refused secrets at most, kept apart from grants; default 100,000
	TTL     time.Duration // how long a lost message can go unnoticed; default 30 s
	// StaleFor says how long a key of an API may be served while the store does not answer, from
	// when it was last known to be valid: read, or not changed by any message up to the last one
	// heard; default 5 min.
	StaleFor func(api string) time.Duration
	// UnknownLookups is how many secrets that prove unknown the store is asked about in a second;
	// default 2,000. Each caller may have a twentieth of it for himself, also when others have used
	// up the whole.
	UnknownLookups int
	// Timeout bounds the reading of a record; default 80 ms. Keep it below the deadline of a
	// decision, so that a key that may be served stale still is.
	Timeout time.Duration
	Breaker *connect.Breaker // around each reading of a node; nil for none
	Now     func() time.Time // the clock; default: the machine's, monotonic where it matters
	// Changed is told of each change of a key that arrives, with the time since it was made by the
	// clock of the store. It must not block.
	Changed func(delay time.Duration)
	// Reset is told that what is counted for a limit id is reset. It must not block. A message
	// that is lost is not made good.
	Reset func(limitID string)
	// Server is the name under which this server confirms the changes that it has heard of; "" to
	// confirm none. Longest says how long it may serve at most what it knows without the store.
	Server  string
	Longest func() time.Duration
	Log     *slog.Logger // tells when the change stream is lost and back; default: nowhere
	// Vouch is asked before the store is believed that it has nothing under a Redis key; nil
	// believes it. Its error is what a look-up returns then, as if the store had not answered.
	Vouch func(ctx context.Context, key string) error
}

func (o *Options) setDefaults() {
	if o.Keys <= 0 {
		o.Keys = defaultKeys
	}
	if o.Unknown <= 0 {
		o.Unknown = 100_000
	}
	if o.TTL <= 0 {
		o.TTL = 30 * time.Second
	}
	if o.StaleFor == nil {
		o.StaleFor = func(string) time.Duration { return 5 * time.Minute }
	}
	if o.UnknownLookups <= 0 {
		o.UnknownLookups = 2_000
	}
	if o.Timeout <= 0 {
		o.Timeout = 80 * time.Millisecond
	}
	if o.Longest == nil {
		o.Longest = func() time.Duration { return 5 * time.Minute }
	}
	if o.Changed == nil {
		o.Changed = func(time.Duration) {}
	}
	if o.Reset == nil {
		o.Reset = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

const (
	defaultKeys = 1_000_000
	// corruptTTL is short, so that a repaired record works soon, and not zero, so that a broken one
	// is not read at each request.
	corruptTTL = time.Second
	// maxReads bounds how often a record is read that changes while it is read.
	maxReads = 3
	// The shared profiles at most. A profile that was dropped is only no longer shared with new
	// grants.
	maxProfiles = 100_000
)

// Cache keeps grants and refusals of one replica in memory. A change of a key reaches it as a
// message (Run), a lost message is made good by the TTL, and a lost stream of messages by a new
// generation: all that is older is read again at its next use. While the store does not answer,
// known keys are served for StaleFor. It is safe for concurrent use.
type Cache struct {
	store   *store.Store
	options Options
	start   time.Time

	grants   *clockCache[cached, sharedValues]
	refusals *clockCache[rejection, nothingShared]
	profiles *clockCache[*keys.Profile, nothingShared] // by what ProfileSum says of them
	flights  singleflight.Group
	callers  *callers
	// fences order the end of a reading against the messages about the same digest.
	fences [256]fence

	refreshes refreshes

	stream stream
	counts counts

	afterRead func(d keys.Digest, read int) // for tests: between the store's answer and its keeping
	gather    func(f func())                // calls f after refreshGather; tests call it themselves
}

// rejection is what the store said of a secret that is of no use.
type rejection struct {
	err        error // ErrUnknown, a *CorruptError, or ErrNotCached for a key's that has to be read again
	at         int64
	generation uint32
}

// nothingShared is for blocks whose values share nothing.
type nothingShared struct{}

func moveValue[V any](to *V, _ *nothingShared, from *V, _ *nothingShared) { *to = *from }

// fence counts the messages about some of the digests.
type fence struct {
	mu      sync.Mutex
	changes uint64
}

type counts struct {
	refusals, misses, revalidations, refreshes, stale, overtaken, busy, changes atomic.Uint64
	aged                                                                        atomic.Uint64 // found, and too old to be served
}

// New returns an empty Cache in front of s. Without Run it learns of changes by its TTL alone.
func New(s *store.Store, o Options) *Cache {
	o.setDefaults()
	c := &Cache{store: s, options: o, start: time.Now(), stream: newStream()}
	if o.Now != nil {
		c.start = o.Now()
	}
	c.grants = newClockCache(o.Keys, moveCached)
	c.refusals = newClockCache(o.Unknown, moveValue[rejection])
	c.profiles = newClockCache(maxProfiles, moveValue[*keys.Profile])
	c.gather = func(f func()) { time.AfterFunc(refreshGather, f) }
	c.callers = newCallers(o.UnknownLookups)
	return c
}

// now is the time since the cache was made, by a clock that nobody sets.
func (c *Cache) now() int64 {
	if c.options.Now == nil {
		return int64(time.Since(c.start))
	}
	return int64(c.options.Now().Sub(c.start))
}

// Find returns what may be said at once about the secret with the digest d, whatever the key's
// status: its Grant, ErrUnknown, a *CorruptError, or ErrNotCached when the store has to be asked.
// It neither waits nor allocates.
func (c *Cache) Find(d keys.Digest) (keys.Grant, error) {
	if e, shared := c.grants.get(d); e != nil {
		if age := c.now() - e.at.Load(); e.generation.Load() == c.stream.generation.Load() && age < int64(c.options.TTL) {
			g := e.grant(shared)
			if age >= int64(c.options.TTL-c.options.TTL/refreshPart) && !e.refreshing.Swap(true) {
				c.refreshSoon(store.LookupRequest{Digest: d, ID: g.ID(), RecordHash: e.recordHash})
			}
			return g, nil
		}
		c.counts.aged.Add(1)
		return keys.Grant{}, ErrNotCached
	}
	if r, _ := c.refusals.get(d); r != nil && r.err != ErrNotCached {
		ttl := c.options.TTL
		if r.err != keys.ErrUnknown {
			ttl = corruptTTL
		}
		if c.fresh(r.at, r.generation, ttl) {
			c.counts.refusals.Add(1)
			return keys.Grant{}, r.err
		}
	}
	return keys.Grant{}, ErrNotCached
}

func (c *Cache) fresh(at int64, generation uint32, ttl time.Duration) bool {
	return generation == c.stream.generation.Load() && c.now()-at < int64(ttl)
}

// Lookup is LookupFor a caller about whom nothing is known.
func (c *Cache) Lookup(ctx context.Context, d keys.Digest) (keys.Grant, error) {
	return c.LookupFor(ctx, d, keys.Caller{})
}

// LookupFor is Find that asks the store when it has to, once for all that ask at the same time. It
// waits for that no longer than Timeout, nor past the deadline of ctx; one that is cancelled
// meanwhile may wait for the reading's end. Errors: ErrUnknown; a *CorruptError; any other, among
// them ErrBusy and ErrStoreDown, says that the store did not answer and that the key cannot be
// served without it.
func (c *Cache) LookupFor(ctx context.Context, d keys.Digest, from keys.Caller) (keys.Grant, error) {
	g, err := c.Find(d)
	if err != ErrNotCached {
		return g, err
	}
	// Only secrets that are not known to be a key's are subject to the cap, so that a scan cannot
	// keep a customer's key from being read again.
	if !from.Verified && !c.ours(d) && !c.callers.may(from, c.now()) {
		c.counts.busy.Add(1)
		return keys.Grant{}, keys.ErrBusy
	}
	if g, err = c.loadOnce(ctx, d, from); err == nil || keys.AboutKey(err) {
		return g, err
	}
	// Not the grant that was there before the wait: a message may have taken it away since.
	if e, shared := c.grants.peek(d); e != nil {
		if old := e.grant(shared); !c.stale(e, c.options.StaleFor(old.API)) {
			c.counts.stale.Add(1)
			return old, nil
		}
	}
	return keys.Grant{}, err
}

// loadOnce calls load, once for all that ask at the same time. Where it ends before ctx does, which
// is the rule, the first of them calls it himself, which saves a goroutine.
func (c *Cache) loadOnce(ctx context.Context, d keys.Digest, from keys.Caller) (keys.Grant, error) {
	load := func() (any, error) { return c.load(d, from) }
	if end, ok := ctx.Deadline(); ctx.Err() == nil && (!ok || time.Until(end) > c.options.Timeout) {
		g, err, _ := c.flights.Do(string(d[:]), load)
		return g.(keys.Grant), err
	}
	select {
	case r := <-c.flights.DoChan(string(d[:]), load):
		return r.Val.(keys.Grant), r.Err
	case <-ctx.Done():
		return keys.Grant{}, fmt.Errorf("keys: store: %w", ctx.Err())
	}
}

// ours reports whether a secret is known to be a key's, or was until a change of the key.
func (c *Cache) ours(d keys.Digest) bool {
	if e, _ := c.grants.peek(d); e != nil {
		return true
	}
	r, _ := c.refusals.peek(d)
	return r != nil && r.err == ErrNotCached
}

// load reads a record for a caller and keeps what it says. It takes no longer than the time of a
// reading.
func (c *Cache) load(d keys.Digest, from keys.Caller) (g keys.Grant, err error) {
	// The reading that the caller just missed may have ended meanwhile.
	if g, err = c.Find(d); err != ErrNotCached {
		return g, err
	}
	if e, _ := c.grants.peek(d); e != nil {
		c.counts.revalidations.Add(1)
	} else {
		c.counts.misses.Add(1)
		defer func() {
			if errors.Is(err, keys.ErrUnknown) {
				c.callers.vain(from, c.now())
			}
		}()
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.options.Timeout)
	defer cancel()
	f := c.fence(d)
	for read := range maxReads {
		changes := f.current()
		at, generation := c.now(), c.stream.generation.Load()
		r := c.vouched(ctx, c.read(ctx, d, read > 0))
		if c.afterRead != nil {
			c.afterRead(d, read)
		}
		var kept bool
		if g, kept = c.keep(f, changes, d, r, at, generation); kept {
			return g, r.Err
		}
		err = r.Err
		c.counts.overtaken.Add(1)
	}
	return g, err
}

// read asks the store. With anew the record is decoded although it may be the one that is here.
func (c *Cache) read(ctx context.Context, d keys.Digest, anew bool) store.LookupResult {
	o := store.LookupRequest{Digest: d}
	if e, shared := c.grants.peek(d); e != nil {
		old := e.grant(shared)
		o.ID = old.ID()
		if !anew {
			o.RecordHash = e.recordHash
		}
	}
	return c.store.LookupMany(ctx, []store.LookupRequest{o}, c.options.Breaker)[0]
}

// vouched is what a reading said, unless that counts for nothing. Of a cluster the node that has
// the record may have been emptied, and not the one that leads to it.
func (c *Cache) vouched(ctx context.Context, r store.LookupResult) store.LookupResult {
	if c.options.Vouch == nil || r.Absent == "" {
		return r
	}
	if err := c.options.Vouch(ctx, r.Absent); err != nil {
		return store.LookupResult{Err: err}
	}
	return r
}

// StoreEmptied has every key read again at its next use: until the store knows it again, it is
// served no longer than while the store is away.
func (c *Cache) StoreEmptied() { c.newGeneration() }

// profile returns the profile of k, which it shares with other keys.
func (c *Cache) profile(k *keys.Key) *keys.Profile {
	sum := keys.ProfileSum(k)
	if p, _ := c.profiles.get(sum); p != nil {
		return *p
	}
	made := keys.NewProfile(k)
	c.profiles.put(sum, func(p **keys.Profile, _ *nothingShared) { *p = made })
	return made
}

// keep stores what a reading found that began at a moment of a generation, and returns it if it is
// a grant, unless a message about the digest came after the reading began: then what was read may
// be older than the change.
func (c *Cache) keep(f *fence, changes uint64, d keys.Digest, r store.LookupResult, at int64, generation uint32) (g keys.Grant, kept bool) {
	if r.Key != nil {
		g = *keys.NewGrantOf(r.Key, c.profile(r.Key))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changes != changes {
		return g, false
	}
	e, shared := c.grants.peek(d)
	switch {
	case r.Unchanged:
		if e == nil || e.recordHash != r.RecordHash {
			return keys.Grant{}, false // it was dropped meanwhile
		}
		g = e.grant(shared)
		e.readAt(at, generation)
	case r.Key != nil:
		if e != nil {
			g.Noted = &e.noted // it is the same key
		}
		c.refusals.delete(d)
		c.grants.put(d, func(e *cached, shared *sharedValues) {
			e.write(&g, shared)
			e.recordHash = r.RecordHash
			e.readAt(at, generation)
			g = e.grant(shared)
		})
	case keys.AboutKey(r.Err):
		c.grants.delete(d)
		c.refusals.put(d, func(kept *rejection, _ *nothingShared) { *kept = rejection{r.Err, at, generation} })
	}
	return g, true
}

// forget drops all that is known of d, and makes readings under way start again.
func (c *Cache) forget(d keys.Digest) {
	f := c.fence(d)
	f.mu.Lock()
	f.changes++
	if c.ours(d) {
		c.grants.delete(d)
		c.refusals.put(d, func(kept *rejection, _ *nothingShared) { kept.err = ErrNotCached })
	} else {
		c.refusals.delete(d)
	}
	f.mu.Unlock()
	c.flights.Forget(string(d[:]))
}

// fence returns the fence of d. Digests that share one cost each other a second reading now and
// then.
func (c *Cache) fence(d keys.Digest) *fence { return &c.fences[d[0]] }

func (f *fence) current() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Stats are the counts of a Cache since it was made, and its state.
type Stats struct {
	Hits          uint64 // grants served at once
	Refusals      uint64 // refusals served at once
	Misses        uint64 // readings of secrets that were not known
	Revalidations uint64 // readings of keys whose grant was too old
	Refreshes     uint64 // readings of keys in use, before their grant was too old
	Stale         uint64 // grants served although too old, because the store did not answer
	Overtaken     uint64 // readings discarded because a change came meanwhile
	Busy          uint64 // look-ups refused with ErrBusy
	Evictions     uint64 // grants dropped for room
	Changes       uint64 // messages about changes
	Keys          int    // grants held
	Unknown       int    // refusals held
	Generation    uint32
	Stream        StreamStatus
}

// Stats returns the counts and the state of this moment.
func (c *Cache) Stats() Stats {
	grants, n := c.grants.stats(), &c.counts
	aged := n.aged.Load()
	return Stats{
		Hits: max(grants.hits, aged) - aged, Refusals: n.refusals.Load(), Misses: n.misses.Load(),
		Revalidations: n.revalidations.Load(), Refreshes: n.refreshes.Load(), Stale: n.stale.Load(), Overtaken: n.overtaken.Load(),
		Busy: n.busy.Load(), Evictions: grants.dropped, Changes: n.changes.Load(),
		Keys: grants.size, Unknown: int(c.refusals.size.Load()),
		Generation: c.stream.generation.Load(), Stream: c.Stream(),
	}
}
