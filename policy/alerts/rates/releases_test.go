package rates_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/alerts/rates"
)

// While releases are lost, somebody is told once in a quarter of a day, by one of two servers, if
// the policy asks for it.
func TestReleasesLost(t *testing.T) {
	w := newWorld(t, "")
	lost := false
	var away error
	server := func() *rates.Releases {
		a := &outbox.Announcer{Outbox: raiser(func(ctx context.Context, n *outbox.Notice) (outbox.Raised, error) {
			if away != nil {
				return outbox.Before, away
			}
			return w.box.Raise(ctx, n)
		}), Ways: []string{outbox.Webhook}, Told: func(a *alerts.Alert) { w.told = append(w.told, a.Type+" "+a.API) }}
		return &rates.Releases{Policies: func() *policy.Set { return w.set }, Announcer: a, Lost: func() bool { return lost }, Now: func() time.Time { return w.now }}
	}
	a, b := server(), server()
	look := func() {
		t.Helper()
		w.must(a.Look(t.Context()))
		w.must(b.Look(t.Context()))
	}
	w.limitConcurrency("alerts: {releases_lost: true}")
	look()
	w.mustTell()
	lost = true
	away = errors.New("away")
	if err := a.Look(t.Context()); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	away = nil
	look()
	w.wait(5 * time.Hour)
	look()
	w.mustTell("releases.lost jobs")
	w.wait(time.Hour)
	look()
	w.mustTell("releases.lost jobs")
	w.wait(alerts.Quiet)
	w.limitConcurrency("")
	look()
	w.mustTell()
	ended, end := context.WithCancel(t.Context())
	end()
	a.Run(ended, func(err error) { t.Error(err) })
}

type raiser func(ctx context.Context, n *outbox.Notice) (outbox.Raised, error)

func (r raiser) Raise(ctx context.Context, n *outbox.Notice) (outbox.Raised, error) { return r(ctx, n) }
