package server

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/extauthz"
	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

// rights tries, before the first request does, whether the store's user may look up keys and count
// requests: after an update a user of before may lack a right, and a server that refuses every
// request must not replace one that does not. Each is tried until it has succeeded once; later the
// breaker tells.
type rights struct {
	keys   *store.Store
	counts *counters.Store

	// limitsSlots says whether requests take slots, by the policies in force.
	limitsSlots func() bool

	lookedUp, counted, tookSlot bool // of try alone
	lookUp, count, slot         atomic.Pointer[error]
}

// probeID names a key and counters that there cannot be: no id has a dot.
const probeID = "tollgate.probe"

// try asks for what has not succeeded yet. It is called by one goroutine.
func (r *rights) try(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if !r.lookedUp {
		r.lookedUp = note(&r.lookUp, r.tryLookUp(ctx))
	}
	if !r.counted {
		_, err := r.counts.Spend(ctx, &limits.Spend{ID: probeID, Cost: 1, Exact: true,
			Windows: []limits.Window{{Name: "probe", Limit: 1 << 50, Per: limits.Day}}})
		r.counted = note(&r.count, err)
	}
	if !r.tookSlot && r.limitsSlots() {
		_, err := r.counts.Spend(ctx, &limits.Spend{ID: probeID, Slot: limits.Slot{ID: "probe:", Places: 1, Hold: time.Millisecond}})
		r.tookSlot = note(&r.slot, err)
	}
}

// slotTroubles adds to those of requests under way that the user may not follow any.
func (r *rights) slotTroubles(others []extauthz.SlotTrouble) []extauthz.SlotTrouble {
	if r.slot.Load() != nil {
		others = append(others, extauthz.SlotTrouble{Problem: extauthz.SlotsDenied})
	}
	return others
}

// tryLookUp reads the place of a secret that nobody has, and the record of a key that there is not.
func (r *rights) tryLookUp(ctx context.Context) error {
	_, err := r.keys.Lookup(ctx, keys.Digest{})
	if err == nil || keys.AboutKey(err) {
		_, err = r.keys.ReadAll(ctx, []string{probeID})
	}
	return err
}

// note keeps what the user may not do, and reports whether it may all of it. Another error is no
// answer: what the store itself does not do, its standing says.
func note(to *atomic.Pointer[error], err error) (may bool) {
	// Within a script, Redis says it in other words, or the script cannot read what nobody has
	// written.
	var broken *limits.BrokenError
	if redis.HasErrorPrefix(err, "NOPERM") || err != nil && strings.Contains(err.Error(), "can't run this command") || errors.As(err, &broken) || errors.Is(err, counters.ErrSlotsDenied) {
		to.Store(&err)
		return false
	}
	to.Store(nil)
	return err == nil
}

// missing is what the user may not do of an operation, nil where nothing is known of that.
func (r *rights) missing(o connect.Operation) error {
	found := map[connect.Operation]*atomic.Pointer[error]{connect.LookUp: &r.lookUp, connect.Spend: &r.count}[o]
	if found == nil || found.Load() == nil {
		return nil
	}
	return *found.Load()
}
