package counters

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"tollgate/policy/limits"
)

// Slots of requests under way. One is taken in the step that spends the windows, so that a request
// which gets none is charged nothing; spend.lua counts those that are not released and not at their
// end. Released, or held on, they are in the background, many in a round trip. An answer that is
// lost or that its caller did not wait for may have taken a slot: that one is released at once.

// ErrSlotsDenied says that the store's user may count, and not take slots. Nothing was spent.
var ErrSlotsDenied = errors.New("NOPERM: the user may not take slots (tollgate store acl server)")

// slotCounts counts what becomes of slots.
type slotCounts struct {
	taken, full, held, released, gone, ended, lost atomic.Uint64
}

// SlotStats are counts since the start, of this process; Ended are found by whichever process next
// needs their place.
type SlotStats struct {
	Taken    uint64 // slots that a request got
	Full     uint64 // requests that got none, as the store said
	Held     uint64 // times that a slot was held on
	Released uint64 // slots released in time
	Gone     uint64 // slots to be released or held on that had ended by themselves, or were released already
	Ended    uint64 // slots that ended by themselves, as far as their places were needed
	Lost     uint64 // slots that the store could not be told of; they end by themselves
}

// Slots returns the counts.
func (l *Leases) Slots() SlotStats {
	s := &l.slots
	return SlotStats{
		Taken: s.taken.Load(), Full: s.full.Load(), Held: s.held.Load(), Released: s.released.Load(),
		Gone: s.gone.Load(), Ended: s.ended.Load(), Lost: s.lost.Load(),
	}
}

// Release releases a slot of a limit id, soon. It does not wait. A slot that there is not is none
// of its business.
func (l *Leases) Release(limitID, slot string) { l.Hold(limitID, slot, 0) }

// Hold has a slot that is still held end no earlier than hold from now, whole milliseconds; 0
// releases it. It does not wait.
func (l *Leases) Hold(limitID, slot string, hold time.Duration) {
	if limitID == "" || slot == "" || hold < 0 || hold > limits.MaxHold {
		return
	}
	l.addBackground(&operation{
		id: strings.Clone(limitID), layout: l.noWindows, holds: true,
		slot: limits.Slot{ID: strings.Clone(slot), Hold: hold},
	})
}

// took counts what an answer says of slots.
func (s *slotCounts) took(c *operation) {
	switch {
	case c.slot.ID == "":
	case c.holds && c.err != nil:
		s.lost.Add(1)
	case c.holds && !c.found:
		s.gone.Add(1)
	case c.holds && c.slot.Hold == 0:
		s.released.Add(1)
	case c.holds:
		s.held.Add(1)
	case c.err != nil:
	case c.full:
		s.full.Add(1)
	case c.allowed:
		s.taken.Add(1)
	}
	if c.ended > 0 {
		s.ended.Add(uint64(c.ended))
	}
}

// mayHoldUnseen reports whether the operation may have taken a slot that its caller does not know
// of.
func (c *operation) mayHoldUnseen() bool {
	if c.err != nil {
		return !c.notRun
	}
	return c.allowed && c.abandoned
}
