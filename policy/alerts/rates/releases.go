package rates

import (
	"context"
	"fmt"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
)

// Releases raises that requests under way end without a word, so that their places are held until
// they end by themselves. One goroutine uses it.
type Releases struct {
	Policies  func() *policy.Set
	Announcer Announcer
	// Lost reports whether that happens too often at the moment.
	Lost func() bool
	Now  func() time.Time
}

// Run looks every ten seconds until ctx ends. failed is told of a store that does not answer.
func (r *Releases) Run(ctx context.Context, failed func(error)) { every(ctx, r.Look, failed) }

// Look tells, for each API whose policy asks for it, that releases are lost, if they are.
func (r *Releases) Look(ctx context.Context) error {
	if !r.Lost() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for _, api := range r.Policies().APIs() {
		if !api.Alerts().ReleasesLost {
			continue
		}
		if _, err := r.Announcer.Announce(ctx, alerts.LostReleases(api.Name(), r.Now())); err != nil {
			return fmt.Errorf("alerts: releases: %w", err)
		}
	}
	return nil
}

// every does something every ten seconds until ctx ends.
func every(ctx context.Context, do func(context.Context) error, failed func(error)) {
	t := time.NewTicker(lookInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := do(ctx); err != nil && ctx.Err() == nil {
				failed(err)
			}
		}
	}
}
