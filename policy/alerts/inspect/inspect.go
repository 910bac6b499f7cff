// Package inspect looks at all keys of the store now and then, and raises what is to be told of
// them whether they are used or not: that one will expire, should be rotated, or is not used.
package inspect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

const (
	// Interval is how often all keys are looked at, by one of all servers.
	Interval = time.Hour
	// tryInterval is how often a server asks whether it is time.
	tryInterval = time.Minute
	// turn is for how long a server that dies keeps others from looking. One that looks asks for
	// more time with each page.
	turn     = time.Minute
	turnName = "inspect"
	// perPage keys are read at once, and then none for pagePause, so that a million keys are some
	// minutes of little work and no moment of much.
	perPage   = 500
	pagePause = 100 * time.Millisecond
	// mostRaised bounds the alerts of one look, for who switches them on where ten thousand keys
	// are unused. The others follow in the next.
	mostRaised = 1000
)

// Lister lists keys. store.Store is one.
type Lister interface {
	List(ctx context.Context, f store.Filter, cursor string, limit int) (page []*keys.Key, next string, err error)
}

// Turns tells servers who does what one of them is to do. outbox.Outbox is one.
type Turns interface {
	Turn(ctx context.Context, name, token string, hold time.Duration) (mine bool, now time.Time, err error)
}

// Announcer raises alerts, and reports false for one that was raised before.
type Announcer interface {
	Announce(ctx context.Context, a *alerts.Alert) (isNew bool, err error)
}

// Inspector looks at all keys. Any number of servers may run one on the same store. One goroutine
// uses it.
type Inspector struct {
	policies  func() *policy.Set
	keys      Lister
	turns     Turns
	announcer Announcer

	page, most int // perPage and mostRaised
	ticks      func() (<-chan time.Time, func())
	pause      func(ctx context.Context)
}

// New returns an Inspector.
func New(policies func() *policy.Set, k Lister, t Turns, a Announcer) *Inspector {
	return &Inspector{
		policies: policies, keys: k, turns: t, announcer: a, page: perPage, most: mostRaised,
		ticks: func() (<-chan time.Time, func()) {
			t := time.NewTicker(tryInterval)
			return t.C, t.Stop
		},
		pause: func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-time.After(pagePause):
			}
		},
	}
}

// Run looks when it is time, until ctx ends. failed is told of a store that does not answer.
func (i *Inspector) Run(ctx context.Context, failed func(error)) {
	ticks, stop := i.ticks()
	defer stop()
	for {
		if err := i.Look(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

// errTurnLost says that another server looks now.
var errTurnLost = errors.New("another server looks")

// Look looks at all keys of APIs whose policy asks for it, unless a server has within the last
// Interval.
func (i *Inspector) Look(ctx context.Context) error {
	l := look{Inspector: i, token: rand.Text(), left: i.most} // its own turn of before is another's
	if !i.wanted() {
		return nil
	}
	if err := l.hold(ctx, turn); errors.Is(err, errTurnLost) {
		return nil
	} else if err != nil {
		return fmt.Errorf("alerts: inspect: %w", err)
	}
	for _, api := range i.policies().APIs() {
		if err := l.api(ctx, api.Name()); errors.Is(err, errTurnLost) {
			return nil
		} else if err != nil {
			return fmt.Errorf("alerts: inspect: %w", err)
		}
	}
	if err := l.hold(ctx, Interval); err != nil && !errors.Is(err, errTurnLost) {
		return fmt.Errorf("alerts: inspect: %w", err)
	}
	return nil
}

func (i *Inspector) wanted() bool {
	for _, api := range i.policies().APIs() {
		if api.Alerts().OfKeys() {
			return true
		}
	}
	return false
}

// look is one of all keys.
type look struct {
	*Inspector
	token string
	left  int // alerts that may still be raised
	now   time.Time
}

func (l *look) hold(ctx context.Context, d time.Duration) error {
	mine, now, err := l.turns.Turn(ctx, turnName, l.token, d)
	if err == nil && !mine {
		err = errTurnLost
	}
	l.now = now
	return err
}

// api looks at the keys of an API.
func (l *look) api(ctx context.Context, name string) error {
	for cursor := ""; ; {
		api := l.policies().API(name)
		if api == nil || !api.Alerts().OfKeys() || l.left <= 0 {
			return nil
		}
		page, next, err := l.keys.List(ctx, store.Filter{API: name, Status: []keys.Status{keys.Active}}, cursor, l.page)
		var corrupt *keys.CorruptError
		if err != nil && !errors.As(err, &corrupt) { // its next request says so
			return err
		}
		for _, k := range page {
			if err := l.key(ctx, k, api.Alerts()); err != nil {
				return err
			}
		}
		if next == "" || l.left <= 0 {
			return nil
		}
		cursor = next
		l.pause(ctx)
		if err := l.hold(ctx, turn); err != nil {
			return err
		}
	}
}

func (l *look) key(ctx context.Context, k *keys.Key, rules *policy.Alerts) error {
	for _, a := range alerts.OfKey(k, rules, l.now) {
		if l.left <= 0 {
			return nil
		}
		isNew, err := l.announcer.Announce(ctx, a)
		if err != nil {
			return err
		}
		if isNew {
			l.left--
		}
	}
	return nil
}
