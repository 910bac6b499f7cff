package inspect_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/alerts/inspect"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
	"tollgate/policy/policyfile"
)

// world is an API and its keys on a real Redis, whose clock may be set forward.
type world struct {
	*testing.T
	client  redis.UniversalClient
	records *store.Store
	set     *policy.Set
	ahead   atomic.Int64 // ms
	told    []string
}

func newWorld(t *testing.T, rules string) *world {
	t.Helper()
	w := &world{T: t, client: redistest.Start(t, redistest.SocketOnly).Admin}
	w.records = store.New(w.client)
	w.load(rules)
	return w
}

// load has another policy in force.
func (w *world) load(rules string) {
	w.Helper()
	text, err := os.ReadFile("../../../testdata/small.yaml")
	w.must(err)
	w.set, err = policyfile.Compile(policyfile.File{Name: "small.yaml", Data: []byte(rules + "\n" + string(text))})
	w.must(err)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

const day = 24 * time.Hour

// create makes a key that is some days old and expires in some, 0 for never.
func (w *world) create(id string, old, expires int) {
	w.Helper()
	k := keys.Key{ID: id, API: "jobs", Name: "n", Plan: "free", Team: "acme", LimitID: id, Status: keys.Active, AnchorDay: 1, Version: 1, Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.NewHasher([]byte("p")).Digest(id)}
	k.CreatedAt = time.Now().Add(-time.Duration(old) * day).Add(-time.Minute).UTC()
	if expires > 0 {
		k.ExpiresAt = time.Now().Add(time.Duration(expires) * day).UTC()
	}
	w.must(w.records.Create(w.Context(), &k))
}

func (w *world) box() *outbox.Outbox {
	return outbox.New(w.client, func() time.Duration { return time.Duration(w.ahead.Load()) * time.Millisecond })
}

func (w *world) wait(d time.Duration) { w.ahead.Add(d.Milliseconds()) }

func (w *world) inspector() *inspect.Inspector {
	return w.inspectorWith(w.records, w.box(), w.announcer(w.box()))
}

func (w *world) inspectorWith(k inspect.Lister, t inspect.Turns, a inspect.Announcer) *inspect.Inspector {
	return inspect.New(func() *policy.Set { return w.set }, k, t, a).WithPause(func(context.Context) {})
}

func (w *world) announcer(r outbox.Raiser) *outbox.Announcer {
	return &outbox.Announcer{Outbox: r, Ways: []string{outbox.Webhook}, Told: func(a *alerts.Alert) { w.told = append(w.told, a.Key+" "+a.Type) }}
}

func (w *world) mustTell(want ...string) {
	w.Helper()
	slices.Sort(w.told)
	if !slices.Equal(w.told, want) {
		w.Errorf("told %q, want %q", w.told, want)
	}
	w.told = nil
}

const allRules = "alerts: {expiring_within_days: 14, rotate_after_days: 90, unused_for_days: 60}"

// Keys that nobody uses are told of too, each once, by one of two servers, however often they
// start.
func TestKeysAreToldOfOnce(t *testing.T) {
	w := newWorld(t, allRules)
	w.create("key_expiring", 1, 13)
	w.create("key_later", 1, 15)
	w.create("key_aged", 91, 0)
	w.create("key_unused", 61, 0)
	w.must(w.records.Touch(t.Context(), []store.Use{{ID: "key_aged", At: time.Now()}}))
	first := w.inspector()
	w.must(first.Look(t.Context()))
	w.mustTell("key_aged key.rotation_due", "key_expiring key.expiring", "key_unused key.unused")
	w.create("key_another", 200, 0)
	w.must(first.Look(t.Context()))
	w.must(w.inspector().Look(t.Context()))
	w.mustTell() // within the hour nobody looks
	w.wait(inspect.Interval)
	w.must(w.inspector().Look(t.Context()))
	w.must(first.Look(t.Context()))
	w.mustTell("key_another key.rotation_due", "key_another key.unused")
	w.wait(3 * day)
	w.must(first.Look(t.Context()))
	w.mustTell("key_later key.expiring")
	all, err := w.box().List(t.Context())
	w.must(err)
	if len(all) != 6 || !strings.Contains(string(all[0].Body), `"api":"jobs","team":"acme","key":"key_`) {
		t.Errorf("%d messages: %+v", len(all), all)
	}
}

// Nobody looks where no policy asks for it, and an API that does not is passed over.
func TestOnlyWhereAsked(t *testing.T) {
	w := newWorld(t, "alerts: {quota: [50]}")
	w.create("key_aged", 400, 0)
	w.must(w.inspector().Look(t.Context()))
	w.mustTell()
	if n := w.client.Exists(t.Context(), "tg:v1:alerts:{alerts}:turn:inspect").Val(); n != 0 {
		t.Error("it took a turn")
	}
	w.load("alerts: {rotate_after_days: 90}")
	w.must(w.inspector().Look(t.Context()))
	w.mustTell("key_aged key.rotation_due")
}

// A record that cannot be read is in nobody's way.
func TestCorruptRecord(t *testing.T) {
	w := newWorld(t, allRules)
	w.create("key_broken", 400, 0)
	w.create("key_aged", 91, 0)
	w.must(w.client.Set(t.Context(), "tg:v1:key:{key_broken}", "?", 0).Err())
	w.must(w.inspector().Look(t.Context()))
	w.mustTell("key_aged key.rotation_due", "key_aged key.unused")
}

// However many are due, a look raises so many; the next one the others. In between it gives others
// a rest, and asks for more time.
func TestMostRaised(t *testing.T) {
	w := newWorld(t, "alerts: {rotate_after_days: 90}")
	for i := range 13 {
		w.create(fmt.Sprintf("key_%06d", i), 91, 0)
	}
	pauses := 0
	i := w.inspector().WithBounds(4, 10).WithPause(func(context.Context) {
		pauses++
		if mine, _, err := w.box().Turn(t.Context(), "inspect", "another", time.Minute); err != nil || mine {
			t.Errorf("another server looks: %v", err)
		}
		w.wait(50 * time.Second) // more than a turn, all in all
	})
	w.must(i.Look(t.Context()))
	if len(w.told) != 10 || pauses != 2 {
		t.Errorf("%d raised, %d pauses", len(w.told), pauses)
	}
	w.told = nil
	w.wait(inspect.Interval)
	w.must(i.Look(t.Context()))
	w.mustTell("key_000010 key.rotation_due", "key_000011 key.rotation_due", "key_000012 key.rotation_due")
}

// unreliable stands for a store that fails at one of its tasks, as often as it is told to.
type unreliable struct {
	*world
	list, turn, raise int // the call that fails, from 1
	stolen            bool
}

var errAway = errors.New("away")

func (u *unreliable) fails(calls *int) bool {
	*calls--
	return *calls == 0
}

func (u *unreliable) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]*keys.Key, string, error) {
	if u.fails(&u.list) {
		return nil, "", errAway
	}
	return u.records.List(ctx, f, cursor, 1)
}

func (u *unreliable) Turn(ctx context.Context, name, token string, hold time.Duration) (bool, time.Time, error) {
	if u.fails(&u.turn) {
		if u.stolen {
			return false, time.Time{}, nil
		}
		return false, time.Time{}, errAway
	}
	return u.box().Turn(ctx, name, token, hold)
}

func (u *unreliable) Announce(ctx context.Context, a *alerts.Alert) (bool, error) {
	if u.fails(&u.raise) {
		return false, errAway
	}
	return u.announcer(u.box()).Announce(ctx, a)
}

// A look that fails is made again within a minute, by this server or another, and tells of what
// the first has not come to.
func TestStoreIsAway(t *testing.T) {
	for name, u := range map[string]*unreliable{
		"the list":      {list: 2},
		"the turn":      {turn: 1},
		"more time":     {turn: 2},
		"an hour":       {turn: 4},
		"the alert":     {raise: 2},
		"another looks": {turn: 2, stolen: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "alerts: {rotate_after_days: 90}")
			for i := range 3 {
				w.create(fmt.Sprint("key_000", i), 91, 0)
			}
			u.world = w
			i := w.inspectorWith(u, u, u)
			if err := i.Look(t.Context()); !errors.Is(err, errAway) && !u.stolen || u.stolen && err != nil {
				t.Errorf("%v", err)
			}
			w.wait(time.Minute)
			w.must(w.inspector().Look(t.Context()))
			w.mustTell("key_0000 key.rotation_due", "key_0001 key.rotation_due", "key_0002 key.rotation_due")
		})
	}
}

// Run looks at once and at each tick, and tells of a store that is away.
func TestRun(t *testing.T) {
	w := newWorld(t, "alerts: {rotate_after_days: 90}")
	w.create("key_0001", 91, 0)
	ctx, cancel := context.WithCancel(t.Context())
	u := &unreliable{world: w, turn: 3}
	ticks, told, done := make(chan time.Time), make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		w.inspectorWith(u, u, u).WithTicks(ticks).Run(ctx, func(err error) { told <- err })
	}()
	ticks <- time.Time{}
	if err := <-told; !errors.Is(err, errAway) {
		t.Errorf("%v", err)
	}
	cancel()
	<-done
	w.mustTell("key_0001 key.rotation_due")
	inspect.New(func() *policy.Set { return w.set }, w.records, w.box(), w.announcer(w.box())).Run(ctx, func(err error) { t.Error(err) })
}
