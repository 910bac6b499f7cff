package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"tollgate/policy/alerts"
	"tollgate/policy/alerts/outbox"
)

// raiser answers as a Redis would.
type raiser struct {
	got    outbox.Raised
	err    error
	notice *outbox.Notice
}

func (r *raiser) Raise(_ context.Context, n *outbox.Notice) (outbox.Raised, error) {
	r.notice = n
	return r.got, r.err
}

// What is raised is told and counted by whoever has raised it, by API and type, whether there is
// room for its messages or not; what was raised before, or cannot be, is neither.
func TestAnnounce(t *testing.T) {
	r, told := &raiser{}, 0
	a := &outbox.Announcer{Outbox: r, Told: func(*alerts.Alert) { told++ }}
	of := &alerts.Alert{Type: alerts.KeyUnused, API: "jobs", Key: "key_0001", Marks: []string{"m"}, Until: time.Unix(1, 0), At: time.Unix(0, 0)}
	for _, c := range []struct {
		got   outbox.Raised
		err   error
		isNew bool
	}{{outbox.Told, nil, true}, {outbox.Before, nil, false}, {outbox.Before, errors.New("away"), false}, {outbox.NoRoom, nil, true}} {
		r.got, r.err = c.got, c.err
		if isNew, err := a.Announce(t.Context(), of); isNew != c.isNew || !errors.Is(err, c.err) {
			t.Errorf("%+v: %v, %v", c, isNew, err)
		}
	}
	if got := fmt.Sprint(a.Stats()); told != 2 || got != "{map[{jobs key.unused}:2] 1}" {
		t.Errorf("%d told, %s", told, got)
	}
	if r.notice.Body != nil || r.notice.ID != of.ID() || r.notice.Marks[0] != "m" || !r.notice.Until.Equal(of.Until) {
		t.Errorf("%+v", r.notice)
	}
	a.Ways = []string{outbox.Slack}
	if _, err := a.Announce(t.Context(), of); err != nil || string(r.notice.Body) != string(of.Message()) || fmt.Sprint(r.notice.To) != "[slack]" {
		t.Errorf("%+v, %v", r.notice, err)
	}
}
