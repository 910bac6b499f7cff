// Package limits counts what an API key spends in clock-aligned windows, and says when a request no longer fits.
//
// Store counts exactly, for any number of replicas, in a Redis script. Leases stands in front of it: it answers most
// requests from units that it took ahead or from refusals that it remembers, and groups the others, so that concurrent
// ones share a trip and a script. Local counts in this process, for plans that choose failure_mode: local while Redis
// cannot be reached. The arithmetic of windows (Window, Tightest, RetryAfter) is pure and needs none of them.
package limits

import (
	"errors"
	"fmt"
	"time"
)

// Spend is one request's step: take Cost units from every one of Windows, or from none of them. ID is the limit id
// whose counters it uses; it is never empty. Cost is 0 or more. ReadOnly spends nothing, and asks whether Cost would
// be allowed now. No Windows means no limit. Exact forbids Leases to lease units in advance. Nothing keeps a Spend or its
// Windows after the call that it was given to.
type Spend struct {
	ID       string
	Windows  []Window
	Cost     int64
	ReadOnly bool
	Exact    bool
}

// Result is the answer to a Spend. Now is the clock that judged it. States has one entry for each of Spend.Windows, in
// their order: after the step if it was allowed, else (and for ReadOnly) unchanged.
type Result struct {
	Allowed bool
	Now     time.Time
	States  []State
}

// validate returns what is wrong with the Spend. Nothing invalid is ever sent to the store, nor allowed.
func (s *Spend) validate() error {
	if s.ID == "" {
		return errors.New("limits: empty limit id")
	}
	if s.Cost < 0 {
		return fmt.Errorf("limits: cost %d is negative", s.Cost)
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

// field names the window's counter. The unit is part of it, because the counts of two units cannot be compared. The
// anchor is not: a changed anchor goes on with what the month has counted (Window.holds).
func (w Window) field() string { return w.Per.String() + ":" + w.Name }
