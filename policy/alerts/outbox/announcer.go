package outbox

import (
	"context"
	"maps"
	"sync"

	"tollgate/policy/alerts"
)

// Raiser raises notices. An Outbox is one.
type Raiser interface {
	Raise(ctx context.Context, n *Notice) (Raised, error)
}

// Announcer raises alerts, each once over all servers, and tells of those that it has raised. It is
// safe for concurrent use.
type Announcer struct {
	Outbox Raiser
	// Ways are the ways out of messages; without one they are raised, told and not kept.
	Ways []string
	// Told is called for each that was raised.
	Told func(*alerts.Alert)

	mu     sync.Mutex
	raised map[Kind]uint64
	noRoom uint64
}

// Kind is what alerts are counted by.
type Kind struct{ API, Type string }

// AnnouncerStats are counts since the start.
type AnnouncerStats struct {
	Raised map[Kind]uint64
	NoRoom uint64 // messages that are not sent, because too many others waited
}

// Stats returns the counts.
func (a *Announcer) Stats() AnnouncerStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return AnnouncerStats{maps.Clone(a.raised), a.noRoom}
}

// Announce raises an alert. It reports false for one that was raised before.
func (a *Announcer) Announce(ctx context.Context, of *alerts.Alert) (isNew bool, err error) {
	n := Notice{ID: of.ID(), Marks: of.Marks, Until: of.Until, To: a.Ways}
	if len(a.Ways) > 0 {
		n.Body = of.Message()
	}
	got, err := a.Outbox.Raise(ctx, &n)
	if err != nil || got == Before {
		return false, err
	}
	a.mu.Lock()
	if a.raised == nil {
		a.raised = map[Kind]uint64{}
	}
	a.raised[Kind{of.API, of.Type}]++
	if got == NoRoom {
		a.noRoom++
	}
	a.mu.Unlock()
	a.Told(of)
	return true, nil
}
