package watch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/alerts/watch"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/policy/policyfile"
)

// world is an API whose plan has 1000 a month, and a key of it, on a real Redis.
type world struct {
	*testing.T
	records *store.Store
	counts  *counters.Store
	box     *outbox.Outbox
	set     *policy.Set
	told    []string
}

func newWorld(t *testing.T, quota string) *world {
	t.Helper()
	text, err := os.ReadFile("../../../testdata/small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set, err := policyfile.Compile(policyfile.File{Name: "small.yaml", Data: []byte("alerts: {quota: " + quota + "}\n" + string(text))})
	if err != nil {
		t.Fatal(err)
	}
	c := redistest.Start(t, redistest.SocketOnly).Admin
	w := &world{T: t, records: store.New(c), counts: counters.NewStore(c, nil), box: outbox.New(c, nil), set: set}
	w.create("key_0001")
	return w
}

func (w *world) create(id string) {
	w.Helper()
	k := keys.Key{ID: id, API: "jobs", Name: "n", Plan: "free", Team: "acme", LimitID: id, Status: keys.Active, AnchorDay: 1, Version: 1, Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.NewHasher([]byte("p")).Digest(id)}
	if err := w.records.Create(w.Context(), &k); err != nil {
		w.Fatal(err)
	}
}

func (w *world) watcher() *watch.Watcher {
	return &watch.Watcher{
		Policies: func() *policy.Set { return w.set }, Records: w.records, Counters: w.counts, Announcer: w.announcer(w.box),
	}
}

func (w *world) announcer(r outbox.Raiser) *outbox.Announcer {
	return &outbox.Announcer{Outbox: r, Ways: []string{outbox.Webhook}, Told: func(a *alerts.Alert) {
		w.told = append(w.told, fmt.Sprint(a.Key, " ", a.Details[0].Value, " ", a.Details[2].Value))
	}}
}

func (w *world) spend(id string, n int64) {
	w.Helper()
	windows := []limits.Window{{Name: "month", Limit: 1000, Per: limits.Month}}
	if res, err := w.counts.Spend(w.Context(), &limits.Spend{ID: id, Windows: windows, Cost: n}); err != nil || !res.Allowed {
		w.Fatal(res, err)
	}
}

func (w *world) look(x *watch.Watcher, key string) {
	w.Helper()
	x.Used("jobs", key)
	if err := x.Look(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (w *world) mustTell(want ...string) {
	w.Helper()
	if !slices.Equal(w.told, want) {
		w.Errorf("told %q, want %q", w.told, want)
	}
}

// Each threshold is told of once, by one of two servers, also by one that has just started.
func TestQuotaIsToldOfOnce(t *testing.T) {
	w := newWorld(t, "[50, 75, 90]")
	a, b := w.watcher(), w.watcher()
	first, second := w.announcer(w.box), w.announcer(w.box)
	a.Announcer, b.Announcer = first, second
	w.look(a, "key_0001")
	w.spend("key_0001", 499)
	w.look(a, "key_0001")
	w.mustTell()
	w.spend("key_0001", 1)
	w.look(a, "key_0001")
	w.look(b, "key_0001")
	w.look(w.watcher(), "key_0001")
	w.mustTell("key_0001 month 50")
	w.spend("key_0001", 450) // past two at once
	w.look(b, "key_0001")
	w.look(a, "key_0001")
	w.mustTell("key_0001 month 50", "key_0001 month 90")
	if got := fmt.Sprint(first.Stats(), second.Stats()); got != "{map[{jobs quota.reached}:1] 0} {map[{jobs quota.reached}:1] 0}" {
		w.Error(got)
	}
	all, err := w.box.List(t.Context())
	if err != nil || len(all) != 2 || !strings.Contains(string(all[0].Body)+string(all[1].Body), `"percent":90,"spent":950,"size":1000`) {
		t.Errorf("%+v, %v", all, err)
	}
}

// A key that nobody has used is not looked at, nor one of an API without alerts, and what there is
// no more, or never was, is in nobody's way.
func TestOnlyUsedKeys(t *testing.T) {
	w := newWorld(t, "[50]")
	w.create("key_0002")
	w.spend("key_0001", 600)
	w.spend("key_0002", 600)
	x := w.watcher()
	x.Used("others", "key_0001")
	w.look(x, "key_gone")
	w.mustTell()
	w.look(x, "key_0002")
	w.mustTell("key_0002 month 50")
	silent := newWorld(t, "[]")
	silent.spend("key_0001", 600)
	silent.look(silent.watcher(), "key_0001")
	silent.mustTell()
}

// leased answers as if servers held so many units.
type leased struct {
	*counters.Store
	held  int64
	looks int
}

func (l *leased) Peek(ctx context.Context, sp *limits.Spend) (limits.Result, []int64, error) {
	l.looks++
	res, held, err := l.Store.Peek(ctx, sp)
	for i := range held {
		held[i] = l.held
	}
	return res, held, err
}

// What is leased is not spent. It may be, without another word, so the key is looked at again; not
// for ever, because a server that has died gives nothing back.
func TestLeasesAreNotSpent(t *testing.T) {
	w := newWorld(t, "[50]")
	w.spend("key_0001", 510)
	l := &leased{Store: w.counts, held: 20}
	x := w.watcher()
	x.Counters = l
	w.look(x, "key_0001")
	w.mustTell()
	l.held = 0
	if err := x.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.mustTell("key_0001 month 50")
	l.held, l.looks = 20, 0
	w.look(x, "key_0001")
	for range 30 {
		if err := x.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if l.looks < 2 || l.looks > 12 {
		t.Errorf("%d looks", l.looks)
	}
}

// unreliable fails.
type unreliable struct {
	*outbox.Outbox
	err error
}

func (u *unreliable) Raise(ctx context.Context, n *outbox.Notice) (outbox.Raised, error) {
	if u.err != nil {
		return outbox.Before, u.err
	}
	return u.Outbox.Raise(ctx, n)
}

// While the store does not answer, keys wait for the next look.
func TestStoreIsAway(t *testing.T) {
	w := newWorld(t, "[50]")
	w.spend("key_0001", 600)
	x, u := w.watcher(), &unreliable{w.box, errors.New("away")}
	x.Announcer = w.announcer(u)
	x.Used("jobs", "key_0001")
	if err := x.Look(t.Context()); !errors.Is(err, u.err) {
		t.Errorf("%v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	u.err = nil
	if err := x.Look(ended); err == nil {
		t.Error("no error")
	}
	w.mustTell()
	if err := x.Look(t.Context()); err != nil {
		t.Error(err)
	}
	w.mustTell("key_0001 month 50")
	x.Run(ended, func(err error) { t.Error(err) })
}

// Memory is bounded, and what is passed over is counted.
func TestUsedIsBounded(t *testing.T) {
	w := newWorld(t, "[50]")
	x := w.watcher()
	for i := range 100_003 {
		x.Used("jobs", fmt.Sprint("key_", i))
	}
	x.Used("jobs", "key_7") // known, so nothing is passed over
	if got := x.Passed(); got != 3 {
		t.Errorf("%d passed", got)
	}
}

// A receiver that takes nothing for long makes nothing grow; what is raised is told all the same.
func TestNoRoom(t *testing.T) {
	w := newWorld(t, "[50]")
	w.spend("key_0001", 600)
	x := w.watcher()
	a := w.announcer(full{})
	x.Announcer = a
	w.look(x, "key_0001")
	w.mustTell("key_0001 month 50")
	if got := a.Stats(); got.NoRoom != 1 || got.Raised[outbox.Kind{API: "jobs", Type: alerts.QuotaReached}] != 1 {
		t.Errorf("%+v", got)
	}
}

type full struct{}

func (full) Raise(context.Context, *outbox.Notice) (outbox.Raised, error) { return outbox.NoRoom, nil }
