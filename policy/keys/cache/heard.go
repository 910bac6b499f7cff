package cache

import (
	"context"
	"log/slog"
	"time"

	"tollgate/policy/keys/store"
)

// confirmPause is how much time lies between two confirmations of what was heard, at least.
const confirmPause = store.HeartbeatInterval / 50

// confirming is what a server knows of what it has said.
type confirming struct {
	heard  int64 // -1: it has to be said again
	at     int64 // cache time; 0: nothing was said
	waits  bool  // for the end of a pause
	failed bool
}

// hearOf notes that a change was heard of, and has it said. The latest is the one that came last: a
// clock of the store that was ahead for a while must not confirm what comes after.
func (c *Cache) hearOf(made time.Time) {
	if !made.IsZero() {
		c.stream.latest.Store(made.UnixMilli())
	}
	c.stream.wake()
}

// wake has what was heard said.
func (s *stream) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// confirm says which changes were heard of, if that is new or it is time to say it again.
func (c *Cache) confirm(ctx context.Context, s *confirming) {
	now, latest := c.now(), c.stream.latest.Load()
	comes, passed := s.at == 0, time.Duration(now-s.at)
	switch {
	case c.options.Server == "", !comes && latest == s.heard && passed < store.Present:
		return
	case !comes && passed < confirmPause:
		if !s.waits {
			s.waits = true
			time.AfterFunc(confirmPause-passed, c.stream.wake)
		}
		return
	}
	s.waits = false
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	err := c.store.ConfirmChanges(ctx, c.options.Server, latest, c.options.Longest(), comes)
	s.at, s.heard = max(now, 1), latest
	if err != nil {
		s.heard = -1
		if !s.failed && ctx.Err() == nil {
			c.options.Log.Warn("nobody who revokes a key is told that this server has heard of it", slog.Any("error", err))
		}
	}
	s.failed = err != nil
}

// storeTime returns the time of the store, where changes are confirmed by it. Without it the server
// has heard of nothing.
func (c *Cache) storeTime(ctx context.Context) time.Time {
	if c.options.Server == "" {
		return time.Time{}
	}
	ctx, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	now, err := c.store.Time(ctx)
	if err != nil {
		return time.Time{}
	}
	return now
}

// leave takes the server out of those that have to confirm.
func (c *Cache) leave(ctx context.Context) {
	if c.options.Server == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatTimeout)
	defer cancel()
	_ = c.store.ForgetServer(ctx, c.options.Server) // it is forgotten all the same, later
}
