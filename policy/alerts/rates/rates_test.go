package rates_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/alerts/rates"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
	"tollgate/policy/policyfile"
	"tollgate/policy/usage"
)

// world is an API and servers on a real Redis, with a clock of their own.
type world struct {
	*testing.T
	records *store.Store
	box     *outbox.Outbox
	set     *policy.Set
	now     time.Time
	told    []string
	raises  int   // how often the store was asked to raise something
	away    error // why the store does not answer
}

func newWorld(t *testing.T, rules string) *world {
	t.Helper()
	c := redistest.Start(t, redistest.SocketOnly).Admin
	w := &world{T: t, records: store.New(c), box: outbox.New(c, nil), now: time.Now().Truncate(alerts.Quiet).Add(24 * time.Hour)}
	w.load(rules)
	return w
}

// load has another policy in force.
func (w *world) load(rules string) {
	w.Helper()
	w.compile(rules, strings.NewReplacer())
}

// limitConcurrency has one whose plan limits requests under way.
func (w *world) limitConcurrency(rules string) {
	w.Helper()
	w.compile(rules, strings.NewReplacer("- name: free", "- name: free\n  concurrent: 2", "[rate_limited,", "[concurrency_exceeded, rate_limited,"))
}

func (w *world) compile(rules string, change *strings.Replacer) {
	w.Helper()
	text, err := os.ReadFile("../../../testdata/small.yaml")
	w.must(err)
	w.set, err = policyfile.Compile(policyfile.File{Name: "small.yaml", Data: []byte(rules + "\n" + change.Replace(string(text)))})
	w.must(err)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) create(id string) {
	w.Helper()
	k := keys.Key{ID: id, API: "jobs", Name: "n", Plan: "free", Team: "acme", LimitID: id, Status: keys.Active, AnchorDay: 1, Version: 1, Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.NewHasher([]byte("p")).Digest(id)}
	w.must(w.records.Create(w.Context(), &k))
}

func (w *world) ReadAll(ctx context.Context, ids []string) ([]store.Found, error) {
	if w.away != nil {
		return nil, w.away
	}
	return w.records.ReadAll(ctx, ids)
}

func (w *world) Raise(ctx context.Context, n *outbox.Notice) (outbox.Raised, error) {
	w.raises++
	return w.box.Raise(ctx, n)
}

// server returns one of so many.
func (w *world) server(of int) *rates.Rates {
	a := &outbox.Announcer{Outbox: w, Ways: []string{outbox.Webhook}, Told: func(a *alerts.Alert) {
		text := fmt.Sprint(a.Type, " ", a.API, " ", a.Key)
		for _, d := range a.Details {
			text += fmt.Sprint(" ", d.Value)
		}
		w.told = append(w.told, text)
	}}
	return rates.New(func() *policy.Set { return w.set }, w, a, of, func() time.Time { return w.now })
}

func (w *world) wait(d time.Duration) { w.now = w.now.Add(d) }

func (w *world) look(r *rates.Rates) {
	w.Helper()
	w.must(r.Look(w.Context()))
}

func (w *world) mustTell(want ...string) {
	w.Helper()
	slices.Sort(w.told)
	if !slices.Equal(w.told, want) {
		w.Errorf("told %q, want %q", w.told, want)
	}
	w.told = nil
}

// ended says that so many requests of a key have ended, and so many of them with 5xx. The API has
// them too, as when usage is taken, unless alone is set.
func ended(r *rates.Rates, key string, n, failed uint64, alone ...bool) {
	seen := usage.RouteSeen{Route: "job"}
	seen.Status[usage.Status2xx], seen.Status[usage.Status5xx] = n-failed, failed
	if key != "" {
		r.Add(&usage.Delta{Subject: usage.Subject{API: "jobs", Key: key}, Seen: []usage.RouteSeen{seen}})
	}
	if len(alone) == 0 {
		r.Add(&usage.Delta{Subject: usage.Subject{API: "jobs"}, Seen: []usage.RouteSeen{seen}})
	}
}

// denied says that so many requests of a key, or of nobody, were refused for a reason.
func denied(r *rates.Rates, key, reason string, n uint64) {
	r.Add(&usage.Delta{Subject: usage.Subject{API: "jobs", Key: key}, Reasons: []usage.ReasonCount{{Reason: reason, N: n}}})
}

const errorRate = "alerts: {error_rate: {percent: 10, requests: 50}}"

// Somebody is told from the share on that the policy says, if there were enough requests, once in a
// quarter of a day, by one of two servers.
func TestErrorRate(t *testing.T) {
	w := newWorld(t, errorRate)
	w.create("key_0001")
	a, b := w.server(1), w.server(1)
	ended(a, "key_0002", 10_000, 1) // the API as a whole is well
	ended(b, "key_0002", 10_000, 1)
	ended(a, "key_0001", 49, 49)
	w.look(a)
	w.mustTell()
	ended(a, "key_0001", 451, 0)
	w.look(a)
	w.mustTell()
	ended(a, "key_0001", 1, 1)
	ended(b, "key_0001", 50, 50)
	w.look(a)
	w.mustTell()
	ended(a, "key_0001", 0, 0)
	ended(a, "key_0001", 1, 1)
	w.look(a)
	w.look(b)
	w.look(w.server(1))
	w.mustTell("error_rate.exceeded jobs key_0001 51 502 10 10")
	asked := w.raises
	ended(a, "key_0001", 100, 100)
	w.look(a)
	if w.raises != asked {
		t.Error("a server asks again what it has told")
	}
	w.wait(5 * time.Hour)
	ended(a, "key_0002", 10_000, 0)
	ended(a, "key_0001", 100, 100)
	w.look(a)
	w.mustTell()
	w.wait(time.Hour)
	ended(a, "key_0002", 10_000, 0)
	ended(a, "key_0001", 60, 60)
	w.look(a)
	w.mustTell("error_rate.exceeded jobs key_0001 60 60 10 10")
	all, err := w.box.List(t.Context())
	w.must(err)
	if len(all) != 2 || !strings.Contains(string(all[0].Body), `"data":{"api":"jobs","team":"acme","key":"key_0001","plan":"free","failed":51,"requests":502,"percent":10,"minutes":10}`) {
		t.Errorf("%d messages: %+v", len(all), all)
	}
}

// What was ten minutes ago is forgotten bit by bit.
func TestErrorsPass(t *testing.T) {
	w := newWorld(t, errorRate)
	r := w.server(1)
	ended(r, "", 40, 40)
	w.wait(alerts.RateSpan)
	ended(r, "", 9, 0)
	ended(r, "", 1, 1)
	w.look(r) // all of them are within ten minutes
	w.mustTell("error_rate.exceeded jobs  41 50 10 10")
	w.wait(alerts.Quiet)
	ended(r, "", 40, 40)
	w.wait(alerts.RateSpan * 3 / 2)
	ended(r, "", 29, 0)
	ended(r, "", 1, 1) // 21 of 50
	w.look(r)
	w.mustTell("error_rate.exceeded jobs  21 50 10 10")
	w.wait(alerts.Quiet)
	ended(r, "", 40, 40)
	w.wait(alerts.RateSpan * 3 / 2)
	ended(r, "", 27, 0)
	ended(r, "", 1, 1) // 48 are not enough
	w.look(r)
	ended(r, "", 100, 100)
	w.wait(2 * alerts.RateSpan)
	w.look(r) // nothing has ended in the last ten minutes
	w.mustTell()
}

// Where an application fails for everybody, that is told once, and of no key.
func TestWholeAPIFails(t *testing.T) {
	w := newWorld(t, errorRate)
	r := w.server(1)
	for i := range 20 {
		w.create(fmt.Sprintf("key_%04d", i))
		ended(r, fmt.Sprintf("key_%04d", i), 100, 50)
	}
	w.look(r)
	w.mustTell("error_rate.exceeded jobs  1000 2000 10 10")
}

const deniedSpike = "alerts: {denied_spike: {times: 5, requests: 100}}"

// begun returns a server that has run for long enough to know what is usual.
func (w *world) begun(of int) *rates.Rates {
	r := w.server(of)
	w.wait(2 * alerts.RateSpan)
	return r
}

// Somebody is told of many more refusals than before, once in a quarter of a day, and not of as
// many as ever.
func TestDeniedSpike(t *testing.T) {
	w := newWorld(t, deniedSpike)
	w.create("key_0001")
	w.create("key_0002")
	r := w.begun(1)
	denied(r, "key_0001", "rate_limited", 99)
	denied(r, "key_0002", "rate_limited", 30)
	w.look(r)
	w.mustTell()
	denied(r, "key_0001", "scope_denied", 1)
	w.look(r)
	w.mustTell("denied.spiked jobs key_0001 100 0 scope_denied 10")
	denied(r, "key_0001", "scope_denied", 1000)
	w.wait(alerts.RateSpan)
	denied(r, "key_0002", "rate_limited", 149)
	w.look(r)
	w.mustTell()
	denied(r, "key_0002", "rate_limited", 1)
	w.look(r)
	w.mustTell("denied.spiked jobs key_0002 150 30 rate_limited 10")
	w.wait(alerts.Quiet)
	for range 3 { // as many as ever
		denied(r, "key_0001", "rate_limited", 1000)
		w.look(r)
		w.wait(alerts.RateSpan)
	}
	w.mustTell("denied.spiked jobs key_0001 1000 0 rate_limited 10")
}

// Those without a valid key are the API's. What the store's trouble has refused, and what only
// shadow_mode let pass, is no client's doing.
func TestWhatCountsAsDenied(t *testing.T) {
	w := newWorld(t, deniedSpike)
	w.create("key_0001")
	r := w.begun(1)
	for _, reason := range []string{"undecided", "corrupt_key", "shadow:rate_limited", "unknown_key", "of a version to come"} {
		denied(r, "key_0001", reason, 1000)
	}
	for _, reason := range []string{"undecided", "rate_limited", "shadow:unknown_key"} {
		denied(r, "", reason, 1000)
	}
	r.Add(&usage.Delta{Subject: usage.Subject{API: "jobs", Others: true}, Reasons: []usage.ReasonCount{{Reason: "unknown_key", N: 1000}}})
	w.look(r)
	w.mustTell()
	r.Add(&usage.Delta{Subject: usage.Subject{API: "jobs"}, Reasons: []usage.ReasonCount{{Reason: "missing_credential", N: 10}, {Reason: "unknown_key", N: 80}, {Reason: "lookup_refused", N: 10}}})
	w.look(r)
	w.mustTell("denied.spiked jobs  100 0 unknown_key 10")
}

// A server that has just started does not know how many were refused before.
func TestStartIsNoSpike(t *testing.T) {
	w := newWorld(t, deniedSpike)
	r := w.server(1)
	w.wait(9 * time.Minute)
	denied(r, "", "unknown_key", 100)
	w.look(r)
	w.wait(time.Minute)
	denied(r, "", "unknown_key", 1000)
	w.look(r)
	w.mustTell()
	w.wait(alerts.RateSpan)
	denied(r, "", "unknown_key", 5000)
	w.look(r)
	w.mustTell("denied.spiked jobs  5000 1000 unknown_key 10")
}

// Of four servers each has a quarter of the requests.
func TestServersShareRequests(t *testing.T) {
	w := newWorld(t, "alerts: {error_rate: {percent: 10, requests: 50}, denied_spike: {times: 5, requests: 100}}")
	r := w.begun(4)
	ended(r, "", 12, 12)
	denied(r, "", "unknown_key", 24)
	w.look(r)
	w.mustTell()
	ended(r, "", 1, 1)
	denied(r, "", "unknown_key", 1)
	w.look(r)
	w.mustTell("denied.spiked jobs  25 0 unknown_key 10", "error_rate.exceeded jobs  13 13 10 10")
}

// Nothing is counted that no policy asks for, and what there is no more is in nobody's way.
func TestOnlyWhereAsked(t *testing.T) {
	w := newWorld(t, "alerts: {quota: [50]}")
	r := w.begun(1)
	ended(r, "key_0001", 100, 100)
	denied(r, "key_0001", "rate_limited", 1000)
	w.load(errorRate)
	r.Add(&usage.Delta{Subject: usage.Subject{API: "others", Key: "key_0001"}})
	denied(r, "key_0001", "rate_limited", 1000)
	w.look(r)
	w.mustTell()
	ended(r, "key_gone", 100, 100, true)
	w.look(r)
	w.mustTell()
	ended(r, "key_0001", 100, 100, true)
	w.load("alerts: {quota: [50]}")
	w.look(r)
	w.mustTell()
}

// While the store does not answer, what was to be told waits for the next look; however much it is,
// it comes a hundred at a time.
func TestStoreIsAway(t *testing.T) {
	w := newWorld(t, errorRate)
	r := w.server(1)
	for i := range 103 {
		w.create(fmt.Sprintf("key_%04d", i))
		ended(r, fmt.Sprintf("key_%04d", i), 100, 100, true)
	}
	w.away = errors.New("away")
	if err := r.Look(t.Context()); !errors.Is(err, w.away) {
		t.Errorf("%v", err)
	}
	w.mustTell()
	w.away = nil
	for _, want := range []int{100, 3, 0} {
		w.look(r)
		if len(w.told) != want {
			t.Errorf("%d told, want %d", len(w.told), want)
		}
		w.told = nil
	}
	ended, end := context.WithCancel(t.Context())
	end()
	r.Run(ended, func(err error) { t.Error(err) })
}

// Memory is bounded, what is passed over is counted, and who has done nothing for long makes room.
// The API as a whole always has room.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t, errorRate)
	r := w.server(1)
	for i := range 100_003 {
		ended(r, fmt.Sprint("key_", i), 1, 0, true)
	}
	ended(r, "key_7", 1, 0)
	if got := r.Passed(); got != 3 {
		t.Errorf("%d passed", got)
	}
	ended(r, "", 100, 100)
	w.look(r)
	w.mustTell("error_rate.exceeded jobs  100 101 10 10")
	w.wait(2 * alerts.RateSpan)
	ended(r, "key_another", 1, 0)
	if got := r.Passed(); got != 3 {
		t.Errorf("%d passed", got)
	}
}

// A clock that goes back loses nothing and invents nothing.
func TestClockGoesBack(t *testing.T) {
	w := newWorld(t, errorRate)
	r := w.server(1)
	ended(r, "", 49, 49)
	w.wait(-time.Hour)
	ended(r, "", 1, 1)
	w.look(r)
	w.mustTell("error_rate.exceeded jobs  50 50 10 10")
}
