package journal_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

func backends(t *testing.T, run func(t *testing.T, c redis.UniversalClient)) {
	t.Run("redis", func(t *testing.T) {
		run(t, redistest.Start(t, redistest.SocketOnly).Admin)
	})
	t.Run("embedded", func(t *testing.T) {
		c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { _ = c.Close() })
		run(t, c)
	})
}

// world is an API, some of whose requests fail, on a clock ahead of Redis'.
type world struct {
	*testing.T
	client  redis.UniversalClient
	set     *policy.Set
	decider *policy.Decider
	log     *errorlog.Log
	options journal.Options
	writer  *journal.Writer
	reader  *journal.Reader
	ahead   atomic.Int64 // ms
	keys    map[string]string
	looked  error // why keys cannot be looked up
}

func newWorld(t *testing.T, c redis.UniversalClient, change ...func(*journal.Options)) *world {
	t.Helper()
	text, err := os.ReadFile("../../../testdata/small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set, err := policyfile.Compile(policyfile.File{Name: "small.yaml", Data: text})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, client: c, set: set, reader: journal.NewReader(c), keys: map[string]string{}}
	w.options = journal.Options{Offset: func() time.Duration { return time.Duration(w.ahead.Load()) * time.Millisecond }}
	for _, f := range change {
		f(&w.options)
	}
	w.decider = policy.NewDecider(keys.NewHasher([]byte("pepper")), nil, w.now)
	w.restart()
	return w
}

// restart is another server.
func (w *world) restart() {
	w.log = errorlog.New(w.set.Find, w.now)
	w.writer = w.newWriter(w.client)
}

func (w *world) newWriter(c redis.UniversalClient) *journal.Writer {
	return journal.NewWriter(c, w.log, w.apisOf, w.options)
}

func (w *world) apisOf(_ context.Context, ids []string) ([]string, error) {
	apis := make([]string, len(ids))
	for i, id := range ids {
		apis[i] = w.keys[id]
	}
	return apis, w.looked
}

func (w *world) now() time.Time {
	return time.Now().Add(time.Duration(w.ahead.Load()) * time.Millisecond).Truncate(time.Millisecond).UTC()
}

func (w *world) wait(d time.Duration) { w.ahead.Add(d.Milliseconds()) }

// refuse has a key's request refused, or that of a key that nobody knows, and returns the id of the
// decision.
func (w *world) refuse(id string) string {
	w.Helper()
	r := &policy.Request{
		HTTP: true, Method: "GET", Host: "jobs.example.com", Target: "/v1/jobs/17?api_key=SECRET", Peer: netip.MustParseAddr("203.0.113.77"),
		Headers: []policy.Header{{Name: "authorization", Value: "Bearer " + keys.Seal("jb_", "ASecretOfTheErrorLogsTests0")}, {Name: "x-request-id", Value: "5a0c0f5e-0000-4000-8000-0000000000aa"}},
	}
	c := &policy.Check{}
	wait := w.decider.Begin(c, w.set, r)
	if id == "" {
		wait = c.Found(keys.Grant{}, keys.ErrUnknown)
	} else if wait == policy.WaitKey {
		wait = c.Found(*keys.NewGrant(&keys.Key{ID: id, API: "jobs", Name: "n", Plan: "free", LimitID: id, Status: keys.Inactive}), nil)
	}
	if wait != policy.Done {
		w.Fatalf("waits for %v", wait)
	}
	w.log.Refused(c)
	return c.Decision().ID
}

// fail has a key's request fail.
func (w *world) fail(id string) {
	w.Helper()
	if !w.log.Failed(&errorlog.Failure{API: "jobs", Route: "job", Key: id, Decision: fmt.Sprintf("failed_%s", id), Code: 503, Ended: w.now()}) {
		w.Fatalf("%s is not taken", id)
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) tick() {
	w.Helper()
	w.must(w.writer.Tick(w.Context()))
}

// ask returns the entries that answer a question about the API.
func (w *world) ask(q journal.Question) *journal.Answer {
	w.Helper()
	q.API = "jobs"
	a, err := w.reader.Ask(w.Context(), q)
	w.must(err)
	return a
}

// mustHave wants these decisions, in this order.
func (w *world) mustHave(q journal.Question, decisions ...string) {
	w.Helper()
	var got []string
	for _, e := range w.ask(q).Entries {
		got = append(got, e.Decision)
	}
	if fmt.Sprint(got) != fmt.Sprint(decisions) {
		w.Errorf("%+v: decisions %q, want %q", q, got, decisions)
	}
}

// names returns the keys of Redis.
func (w *world) names() []string { return w.client.Keys(w.Context(), "*").Val() }
