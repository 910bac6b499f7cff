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
// nothing, and asks whether Cost would be allowed now. No Windows means no limit. Exact forbids
// leasing units. Nothing keeps a Spend or its Windows after the call that it was given to.
type Spend struct {
	ID       string
	Windows  []Window
	Cost     int64
	ReadOnly bool
	Exact    bool
}

// Result is the answer to a Spend. Now is the clock that judged it. States has one entry for each
// of Spend.Windows, in their order: after the step if it was allowed, else (and for ReadOnly)
// unchanged.
type Result struct {
	Allowed bool
	Now     time.Time
	States  []State
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
