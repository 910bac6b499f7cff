// Package networks knows from which networks keys are used, and raises that one is used from
// another. A request costs a look into a table in memory; what is not in it is looked up in Redis
// later.
package networks

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/keys"
)

const (
	lookInterval = 10 * time.Second
	lookTimeout  = 8 * time.Second
	// tableSize is how many pairs of a key and a network are remembered for a day, of 8 bytes each.
	// What another has replaced is looked up again.
	tableSize = 1 << 17
	// maxWaiting bounds what waits to be looked up, of some 300 bytes each. Another is passed over,
	// counted, and looked up after its next use.
	maxWaiting = 10_000
	// mostRaised bounds the alerts of one look. The others follow in the next.
	mostRaised = 100
)

// Announcer raises alerts, and reports false for one that was raised before.
type Announcer interface {
	Announce(ctx context.Context, a *alerts.Alert) (isNew bool, err error)
}

// Networks hears from where keys are used. It is safe for concurrent use.
type Networks struct {
	policies  func() *policy.Set
	known     *Known
	announcer Announcer
	seed      maphash.Seed
	table     []atomic.Uint64 // hashes of what was seen today

	mu      sync.Mutex
	waiting map[sighting]*keys.Key
	passed  atomic.Uint64
	full    atomic.Uint64
}

// sighting is a use of a key, or of one that shares its limits, from a network.
type sighting struct {
	limitID string
	network netip.Prefix
}

// New returns Networks.
func New(policies func() *policy.Set, k *Known, a Announcer) *Networks {
	return &Networks{
		policies: policies, known: k, announcer: a, seed: maphash.MakeSeed(),
		table: make([]atomic.Uint64, tableSize), waiting: map[sighting]*keys.Key{},
	}
}

// Stats are counts since the start.
type Stats struct {
	Passed uint64 // uses that were not looked up, because too many others waited
	Full   uint64 // networks that are not told of, because their key has too many others
}

// Stats returns the counts.
func (n *Networks) Stats() Stats { return Stats{n.passed.Load(), n.full.Load()} }

// Saw notes that a key was used from an address, if that is known. It never waits for the store.
func (n *Networks) Saw(k *keys.Grant, client netip.Addr, at time.Time) {
	if !client.IsValid() {
		return
	}
	network := alerts.NetworkOf(client)
	hash := n.hash(k.LimitID(), network.Addr(), at)
	place := &n.table[hash%tableSize]
	if place.Load() == hash {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) >= maxWaiting {
		n.passed.Add(1)
		return
	}
	place.Store(hash)
	s := sighting{strings.Clone(k.LimitID()), network}
	n.waiting[s] = &keys.Key{ID: strings.Clone(k.ID()), API: k.API, Team: strings.Clone(k.Team()), Plan: k.Plan, LimitID: s.limitID}
}

// hash is never 0. It changes each day, so that Redis hears once a day of a network in use.
func (n *Networks) hash(limitID string, network netip.Addr, at time.Time) uint64 {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[:], maphash.String(n.seed, limitID))
	address := network.As16()
	copy(b[8:], address[:])
	binary.LittleEndian.PutUint64(b[24:], uint64(at.Unix()/(24*60*60)))
	return max(maphash.Bytes(n.seed, b[:]), 1)
}

// Run looks up every ten seconds until ctx ends. failed is told of a store that does not answer.
func (n *Networks) Run(ctx context.Context, failed func(error)) {
	t := time.NewTicker(lookInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := n.Look(ctx); err != nil && ctx.Err() == nil {
				failed(err)
			}
		}
	}
}

// Look looks up what waits. What it does not come to waits for the next time.
func (n *Networks) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	n.mu.Lock()
	waiting := n.waiting
	n.waiting = map[sighting]*keys.Key{}
	n.mu.Unlock()
	left := mostRaised
	for s, k := range waiting {
		if left <= 0 {
			break
		}
		raised, err := n.lookUp(ctx, s, k)
		if err != nil {
			n.again(waiting)
			return fmt.Errorf("alerts: networks: %w", err)
		}
		if raised {
			left--
		}
		delete(waiting, s)
	}
	n.again(waiting)
	return nil
}

// again keeps what was not looked up.
func (n *Networks) again(waiting map[sighting]*keys.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s, k := range waiting {
		if len(n.waiting) >= maxWaiting {
			n.passed.Add(1) // and looked up tomorrow, if it is not forgotten before
			continue
		}
		n.waiting[s] = k
	}
}

// lookUp notes the network, and tells of it first if it is new, so that a server that dies in
// between is no reason that nobody is told.
func (n *Networks) lookUp(ctx context.Context, s sighting, k *keys.Key) (raised bool, err error) {
	api := n.policies().API(k.API)
	if api == nil || !api.Alerts().NewNetworks.Told {
		return false, nil
	}
	network := s.network.String()
	found, err := n.known.Note(ctx, s.limitID, network, api.Alerts().NewNetworks.AfterDays, false)
	if err != nil {
		return false, err
	}
	switch found.State {
	case Full:
		n.full.Add(1)
	case Unknown:
		if raised, err = n.announcer.Announce(ctx, alerts.NewNetwork(k, network, found.Networks+1, found.Now)); err != nil {
			return false, err
		}
		_, err = n.known.Note(ctx, s.limitID, network, 0, true)
	}
	return raised, err
}
