package extauthz_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

// underWay is a small API that lets one request of a key be under way.
type underWay struct {
	*extauthztest.Stack
	secret string
	client authv3.AuthorizationClient
}

func newUnderWay(t *testing.T, concurrency string, change ...func(*extauthz.Config)) *underWay {
	t.Helper()
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		for _, f := range change {
			f(c)
		}
	}, extauthztest.SmallFile("{name: basic,", "{name: basic, concurrent: 1,", "requests: 5,", "requests: 1000,",
		"plans:\n", concurrency+"\nplans:\n", "quota_exceeded]", "quota_exceeded, concurrency_exceeded]"),
		// Its requests' ids are read, so those of the first API are there to be taken for what they
		// are not.
		extauthztest.SmallFile("api: small", "api: other", "small.test", "other.test", "{name: basic,", "{name: basic, concurrent: 1,",
			"plans:\n", "concurrency: {request_id: trusted}\nplans:\n", "quota_exceeded]", "quota_exceeded, concurrency_exceeded]"))
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	return &underWay{s, secret, authv3.NewAuthorizationClient(s.Dial(t))}
}

// ask sends a check, and returns the reason and the slot.
func (u *underWay) ask(t *testing.T, requestID string) (reason, slot string) {
	t.Helper()
	resp, err := u.client.Check(extauthztest.Within(t), extauthztest.Get("/items/1", map[string]string{
		"authorization": "Bearer " + u.secret, "x-request-id": requestID,
	}))
	if err != nil {
		t.Fatal(err)
	}
	meta := resp.GetDynamicMetadata().GetFields()
	return meta["reason"].GetStringValue(), meta["slot_id"].GetStringValue()
}

// allowed asks until the request is allowed: that its slot is free takes a moment.
func (u *underWay) allowed(t *testing.T, requestID string) (slot string) {
	t.Helper()
	extauthztest.Eventually(t, "a free slot for "+requestID, func() bool {
		reason, taken := u.ask(t, requestID)
		slot = taken
		return reason == "allowed"
	})
	return slot
}

func (u *underWay) refused(t *testing.T, requestID string) {
	t.Helper()
	u.SettleSlots(t)
	if reason, _ := u.ask(t, requestID); reason != "concurrency_exceeded" {
		t.Fatalf("%s: %s", requestID, reason)
	}
}

// ended is the entry of a request that has ended.
func ended(requestID, slot string) *extauthz.AccessLogEntry {
	return &extauthz.AccessLogEntry{API: "small", KeyID: "key_small", DecisionID: "d", Reason: "allowed", RequestID: requestID, SlotID: slot, Code: 200}
}

// The entry of a request that has ended releases its slot, one of a request that goes on does not.
func TestAccessLogReleasesSlots(t *testing.T) {
	u := newUnderWay(t, "")
	slot := u.allowed(t, "r1")
	u.refused(t, "r2")
	goesOn := ended("r1", slot)
	goesOn.Periodic = true
	u.Authorizer.Observed(goesOn)
	u.AwaitSlots(t, 1)
	u.refused(t, "r2")
	u.Authorizer.Observed(ended("r1", slot))
	u.AwaitSlots(t, 0)
	u.allowed(t, "r2")
}

// Entries that are wrong or of others release nothing, and make nothing in the store.
func TestForgedEntriesReleaseNothing(t *testing.T) {
	for _, concurrency := range []string{"", "concurrency: {request_id: trusted}"} {
		u := newUnderWay(t, concurrency)
		slot := u.allowed(t, "r1")
		guess := strings.Repeat("0", len(slot))
		for _, e := range []*extauthz.AccessLogEntry{
			ended("r1", guess),
			{API: "small", KeyID: "key_other", DecisionID: "d", Reason: "allowed", SlotID: slot},
			{API: "nobody's", KeyID: "key_small", DecisionID: "d", Reason: "allowed", SlotID: slot, Periodic: true},
			{RequestID: "r1", Periodic: true},
			{RequestID: "r2"},
			{DecisionID: "d", Reason: "allowed", RequestID: "r1"},
			{},
		} {
			u.Authorizer.Observed(e)
		}
		u.refused(t, "r3")
	}
}

// A client who leaves while the answer is on its way makes an entry without our metadata, with the
// request's id: it releases the slot if the proxy makes these ids. Else a client, who can choose
// his own, could release the slot of another request.
func TestEntryWithoutMetadata(t *testing.T) {
	trusted := newUnderWay(t, "concurrency: {request_id: trusted}")
	trusted.allowed(t, "r1")
	trusted.Authorizer.Observed(&extauthz.AccessLogEntry{RequestID: "r1"})
	trusted.AwaitSlots(t, 0)
	trusted.allowed(t, "r2")

	forged := newUnderWay(t, "")
	forged.allowed(t, "r1")
	forged.Authorizer.Observed(&extauthz.AccessLogEntry{RequestID: "r1"})
	forged.refused(t, "r2")
	forged.refused(t, "r1") // nor is it the same request
}

// A request that is checked once more has the slot of its first try; the entry of the first does
// not release that of the second.
func TestRequestThatIsCheckedAgain(t *testing.T) {
	u := newUnderWay(t, "concurrency: {request_id: trusted}")
	first := u.allowed(t, "r1")
	second := u.allowed(t, "r1")
	if first == second {
		t.Fatal("both have one slot")
	}
	u.Authorizer.Observed(ended("r1", first))
	u.refused(t, "r2")
	u.Authorizer.Observed(&extauthz.AccessLogEntry{RequestID: "r1"}) // the client of the second has left
	u.allowed(t, "r2")
}

// leaving is a Spender whose caller leaves as soon as it has spent.
type leaving struct {
	extauthz.Spender
	hold func(limitID, slot string, hold time.Duration)
	mu   sync.Mutex
	now  context.CancelFunc // of the caller; nil if he stays
}

func (l *leaving) Spend(ctx context.Context, s *limits.Spend) (limits.Result, error) {
	res, err := l.Spender.Spend(ctx, s)
	l.mu.Lock()
	leave := l.now
	l.mu.Unlock()
	if leave != nil {
		leave()
		<-ctx.Done()
	}
	return res, err
}

func (l *leaving) Hold(limitID, slot string, hold time.Duration) { l.hold(limitID, slot, hold) }

func (l *leaving) set(leave context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = leave
}

// A client who leaves before there is an answer holds no slot.
func TestCancelledCheckHoldsNoSlot(t *testing.T) {
	l := &leaving{}
	u := newUnderWay(t, "", func(c *extauthz.Config) {
		l.Spender, l.hold = c.Limits, c.Limits.(interface {
			Hold(limitID, slot string, hold time.Duration)
		}).Hold
		c.Limits = l
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.set(cancel)
	if _, err := u.client.Check(ctx, extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + u.secret})); err == nil {
		t.Fatal("want the check cancelled")
	}
	l.set(nil)
	u.allowed(t, "r1")
}

// A flood beyond the places costs the store a call every 20 ms, whatever there is asked.
func TestFloodBeyondThePlaces(t *testing.T) {
	const callers, span = 32, 600 * time.Millisecond
	u := newUnderWay(t, "")
	_, entries := extauthztest.SmallKey()
	store := extauthztest.NewRedis(t, "redis")
	u.Use(t, store, entries)
	u.allowed(t, "r0")
	u.refused(t, "r1") // so that the script is there
	calls := func() int {
		t.Helper()
		info, err := store.InfoMap(extauthztest.Within(t), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(info["Commandstats"]["cmdstat_evalsha"], "calls=%d", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before, began := calls(), time.Now()
	var asked atomic.Int64
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for time.Since(began) < span {
				if reason, _ := u.ask(t, "r2"); reason != "concurrency_exceeded" {
					t.Errorf("%s", reason)
					return
				}
				asked.Add(1)
			}
		})
	}
	work.Wait()
	took := time.Since(began)
	made := calls() - before
	t.Logf("%d checks in %v: %d calls of the store", asked.Load(), took, made)
	if most := int(took/(20*time.Millisecond)) + 2; made > most {
		t.Errorf("%d calls, want %d at most", made, most)
	}
	if asked.Load() < 4*int64(made) { // a loaded machine asks less
		t.Errorf("%d checks are no flood", asked.Load())
	}
}

// Until an access log has told of an API's requests, and where slots end by themselves, that is
// said.
func TestSlotTroubles(t *testing.T) {
	u := newUnderWay(t, "")
	other := extauthz.SlotTrouble{API: "other", Problem: extauthz.SlotsNoLog}
	want := []extauthz.SlotTrouble{{API: "small", Problem: extauthz.SlotsNoLog}, other}
	if got := u.Authorizer.SlotTroubles(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	registry := prometheus.NewRegistry()
	extauthz.RegisterSlots(registry, u.Authorizer.SlotTroubles)
	mustTell(t, registry, `tollgate_concurrency_problem{api="other",problem="no_log"} 1`, `tollgate_concurrency_problem{api="small",problem="no_log"} 1`)
	u.Authorizer.Observed(&extauthz.AccessLogEntry{API: "unknown", DecisionID: "d", Reason: "allowed"})
	if got := u.Authorizer.SlotTroubles(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	u.Authorizer.Observed(ended("r1", ""))
	if got := u.Authorizer.SlotTroubles(); !slices.Equal(got, want[1:]) {
		t.Errorf("%v", got)
	}
	without := newUnderWay(t, "concurrency: {without_log: ttl}")
	if got := without.Authorizer.SlotTroubles(); !slices.Equal(got, want[1:]) {
		t.Errorf("%v", got)
	}
}

// A minute in which more than one of a hundred slots ends by itself is told, in the next one.
func TestExpiredSlots(t *testing.T) {
	var counts counters.SlotStats
	over := extauthz.ExpiredSlots(func() counters.SlotStats { return counts })
	now := time.Unix(1_800_000_000, 0)
	for i, step := range []struct {
		taken, ended uint64
		want, first  bool
	}{
		{1000, 500, false, false}, // before the first look
		{1000, 10, false, false},  // just one of a hundred
		{1000, 11, true, true},
		{1000, 11, true, false},
		{5, 5, false, false}, // too few to tell
		{50, 10, true, true},
		{0, 0, false, false},
	} {
		counts.Taken += step.taken
		counts.Ended += step.ended
		now = now.Add(time.Minute)
		if got, first := over(now); got != step.want || first != step.first {
			t.Errorf("%d: %+v: %v, %v", i, step, got, first)
		}
		counts.Ended += 100 // within the minute
		if got, first := over(now.Add(59 * time.Second)); got != step.want || first {
			t.Errorf("%d: within the minute: %v, %v", i, got, first)
		}
		counts.Ended -= 100
	}
}
