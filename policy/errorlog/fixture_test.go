package errorlog_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/errorlog"
	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

// world is an API, a Log and a clock.
type world struct {
	testing.TB
	set     *policy.Set
	decider *policy.Decider
	log     *errorlog.Log
	clock   atomic.Int64 // Unix ms
}

func noon() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }

// newWorld has the API of testdata/small.yaml, with more lines.
func newWorld(t testing.TB, more ...string) *world {
	t.Helper()
	text, err := os.ReadFile("../../testdata/small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set, err := policyfile.Compile(policyfile.File{Name: "small.yaml", Data: append(text, "\n"+strings.Join(more, "\n")...)})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, set: set}
	w.clock.Store(noon().UnixMilli())
	w.decider = policy.NewDecider(keys.NewHasher([]byte("pepper")), nil, w.now)
	w.log = errorlog.New(set.Find, w.now)
	return w
}

func (w *world) now() time.Time { return time.UnixMilli(w.clock.Load()).UTC() }

func (w *world) wait(d time.Duration) { w.clock.Add(d.Milliseconds()) }

// secret is one of the API's form.
func secret() string { return keys.Seal("jb_", "ASecretOfTheErrorLogsTests0") }

// request holds a key in its query and in a header, and asks for what there is.
func request(change ...func(*policy.Request)) *policy.Request {
	r := &policy.Request{
		HTTP: true, Method: "GET", Host: "jobs.example.com", Target: "/v1/jobs/17?api_key=SECRET",
		Headers: []policy.Header{{Name: "authorization", Value: "Bearer " + secret()}, {Name: "x-request-id", Value: "5a0c0f5e-0000-4000-8000-0000000000aa"}},
		Peer:    netip.MustParseAddr("203.0.113.77"),
	}
	for _, c := range change {
		c(r)
	}
	return r
}

// grant is a key that may do all, changed.
func grant(id string, change ...func(*keys.Key)) keys.Grant {
	k := &keys.Key{ID: id, API: "jobs", Team: "red", Name: "n", Plan: "free", LimitID: id, Scopes: []string{"read", "submit"}, Status: keys.Active}
	for _, c := range change {
		c(k)
	}
	return *keys.NewGrant(k)
}

func inactive(k *keys.Key) { k.Status = keys.Inactive }

// check decides about a request whose key the store gives, or err. The limits are not reached.
func (w *world) check(r *policy.Request, k keys.Grant, err error) *policy.Check {
	w.Helper()
	c := &policy.Check{}
	wait := w.decider.Begin(c, w.set, r)
	if wait == policy.WaitKey {
		wait = c.Found(k, err)
	}
	if wait == policy.WaitLimits {
		wait = c.Spent(fmt.Errorf("the store is away"))
	}
	if wait != policy.Done {
		w.Fatalf("the decision waits for %v", wait)
	}
	return c
}

// refused is a refused request of a key.
func (w *world) refused(id string) *policy.Check {
	w.Helper()
	return w.check(request(), grant(id, inactive), nil)
}

func failure(key string) *errorlog.Failure {
	return &errorlog.Failure{API: "jobs", Route: "job", Key: key, Decision: "0123456789abcdef", Request: "r-1", Code: 503, Client: netip.MustParseAddr("203.0.113.77"), Ended: noon()}
}

// only takes the entries, of which there must be as many.
func (w *world) take(n int) []errorlog.Entry {
	w.Helper()
	got := w.log.Take(nil)
	if len(got) != n {
		w.Fatalf("%d entries, want %d: %v", len(got), n, got)
	}
	return got
}

// total is how many requests entries stand for.
func total(entries []errorlog.Entry) (n uint64) {
	for i := range entries {
		if n += entries[i].More; !entries[i].Others {
			n++
		}
	}
	return n
}
