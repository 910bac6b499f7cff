// Package limits says what an API key may spend in clock-aligned windows, and when a request no
// longer fits: the arithmetic of windows (Window, Tightest, RetryAfter), the step that a request
// takes (Spend, Result), and Local, which counts in this process for plans with failure_mode local.
// It does no I/O: the counters that replicas share are in package counters, in the folder of that
// name.
package limits

import (
	"errors"
	"fmt"
	"time"
)

// Spend is one request's step: take Cost units from every one of Windows, or from none of them. ID
// is the limit id whose counters it uses; it is never empty. Cost is 0 or more. ReadOnly spends
// nothing, and asks whether Cost would be allowed now. No Windows and no Slot means no limit. Exact
// forbids leasing units. Nothing keeps a Spend or its Windows after the call that it was given to.
type Spend struct {
	ID       string
	Windows  []Window
	Cost     int64
	ReadOnly bool
	Exact    bool
	// Slot is taken in the same step, if the windows allow; the zero value is for none. A Spend
	// with one never leases, and is never ReadOnly.
	Slot Slot
}

// Slot is the place of one request among those of a limit id that are under way. It is held until
// it is released, or for Hold.
type Slot struct {
	// ID names the slot: unique, and not to be guessed, because whoever knows it can release it. ""
	// is no slot. What stands before a ":" in it names the request: where no place is free, one
	// that an earlier try of the same request took is, on whichever replica.
	ID string
	// Places is how many requests may be under way at once, 1 to MaxPlaces.
	Places int64
	// Hold is how long the slot is held if nobody releases it: 1 ms to MaxHold.
	Hold time.Duration
	// Earlier is the slot of an earlier try of the same request, which the step releases; "" for
	// none that is known.
	Earlier string
}

const (
	// MaxPlaces bounds how many slots a limit id has, and so what the store keeps of it.
	MaxPlaces = 10_000
	// MaxHold bounds how long a slot is held.
	MaxHold = 24 * time.Hour
)

// Result is the answer to a Spend. Now is the clock that judged it. States has one entry for each
// of Spend.Windows, in their order: after the step if it was allowed, else (and for ReadOnly)
// unchanged.
type Result struct {
	Allowed bool
	Now     time.Time
	States  []State
	// Full says that no slot was free, though the windows allowed.
	Full bool
	// InUse is how many slots are taken after the step, at most Slot.Places; 0 for a Spend without
	// one.
	InUse int64
}

// Validate returns what is wrong with the Spend. Nothing invalid is ever sent to the store, nor
// allowed.
func (s *Spend) Validate() error {
	if s.ID == "" {
		return errors.New("limits: empty limit id")
	}
	if s.Cost < 0 {
		return fmt.Errorf("limits: cost %d is negative", s.Cost)
	}
	if err := s.validateSlot(); err != nil {
		return err
	}
	for i, w := range s.Windows {
		if err := w.validate(); err != nil {
			return err
		}
		for _, other := range s.Windows[:i] {
			if other.Name == w.Name && other.Per == w.Per {
				return fmt.Errorf("limits: two windows named %q per %v", w.Name, w.Per)
			}
		}
	}
	return nil
}

func (s *Spend) validateSlot() error {
	switch t := &s.Slot; {
	case t.ID == "":
		return nil
	case s.ReadOnly:
		return errors.New("limits: a slot, and nothing to spend")
	case t.Places < 1 || t.Places > MaxPlaces:
		return fmt.Errorf("limits: %d slots, want 1 to %d", t.Places, int64(MaxPlaces))
	case t.Hold < time.Millisecond || t.Hold > MaxHold:
		return fmt.Errorf("limits: a slot held for %v, want 1ms to %v", t.Hold, MaxHold)
	}
	return nil
}

// Asks reports whether there is anything to ask the store.
func (s *Spend) Asks() bool { return len(s.Windows) > 0 || s.Slot.ID != "" }

func (w Window) validate() error {
	switch {
	case w.Name == "":
		return errors.New("limits: window without a name")
	case w.Per < Second || w.Per > Month:
		return fmt.Errorf("limits: window %q: unit %d is unknown", w.Name, w.Per)
	case w.Limit < 0 || w.Limit > MaxLimit:
		return fmt.Errorf("limits: window %q: limit %d is outside 0 to %d", w.Name, w.Limit, int64(MaxLimit))
	case w.Anchor < 0 || w.Anchor > 31:
		return fmt.Errorf("limits: window %q: anchor %d is outside 0 to 31", w.Name, w.Anchor)
	}
	return nil
}

// BrokenError says that the limits themselves are at fault, not the way to the store: an invalid
// Spend, a stored value that is no counter, an answer that cannot be right. Trying again does not
// help, and it must never be taken for a store that is away.
type BrokenError struct{ Err error }

// Error gives the reason.
func (e *BrokenError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *BrokenError) Unwrap() error { return e.Err }
