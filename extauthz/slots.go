package extauthz

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

// slotHolder holds slots of requests under way, or releases them: hold 0. Neither call waits.
// counters.Leases is one for those in the store, limits.Local for those of this process.
type slotHolder interface {
	Hold(limitID, slot string, hold time.Duration)
}

const (
	// maxRequests bounds the requests whose slots are known by the request's id, some 250 bytes
	// each.
	maxRequests = 100_000
	// sweepRequests is how many there are at least when those whose time is over are looked for.
	sweepRequests = 1024
)

// slots knows which requests that were let through here hold a slot, by the request's id, of APIs
// whose proxy makes it: a request that is checked once more gives back the slot of its first try,
// and an access-log entry without our metadata, as Envoy writes it for a client who left while the
// answer was on its way, ends the request that it names. It also knows of which APIs an access log
// arrives.
type slots struct {
	holders []slotHolder

	mu       sync.Mutex
	requests map[string]heldSlot
	sweepAt  int

	apis  sync.Map // of *apiSlots, by name
	stats func() counters.SlotStats
	share expiredShare
}

type heldSlot struct {
	limitID, slot string
	until         time.Time
}

func newSlots(spender Spender, local *limits.Local) *slots {
	s := &slots{requests: map[string]heldSlot{}, sweepAt: sweepRequests}
	if l, ok := spender.(interface{ Slots() counters.SlotStats }); ok {
		s.stats = l.Slots
	}
	if h, ok := spender.(slotHolder); ok {
		s.holders = append(s.holders, h)
	}
	if local != nil {
		s.holders = append(s.holders, local)
	}
	return s
}

// earlier returns the slot that an earlier try of the request holds, "" if none is known.
func (s *slots) earlier(requestID string) string {
	if requestID == "" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[requestID].slot
}

// took notes the slot of a request that is let through.
func (s *slots) took(requestID, limitID, slot string, hold time.Duration, now time.Time) {
	if requestID == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) >= s.sweepAt {
		for id, held := range s.requests {
			if !held.until.After(now) {
				delete(s.requests, id)
			}
		}
		s.sweepAt = max(sweepRequests, 2*len(s.requests))
	}
	if len(s.requests) < maxRequests {
		// Copies: each is a part of a larger text, which it would keep.
		s.requests[strings.Clone(requestID)] = heldSlot{strings.Clone(limitID), strings.Clone(slot), now.Add(hold)}
	}
}

// ended forgets a request, and returns the slot that it held.
func (s *slots) ended(requestID string) (heldSlot, bool) {
	if requestID == "" {
		return heldSlot{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held, ok := s.requests[requestID]
	delete(s.requests, requestID)
	return held, ok
}

func (s *slots) hold(limitID, slot string, hold time.Duration) {
	for _, h := range s.holders {
		h.Hold(limitID, slot, hold)
	}
}

// noteSlot remembers the slot that a decision has taken.
func (a *Authorizer) noteSlot(ctx context.Context, check *policy.Check) {
	limitID, slot, ok := check.Slot()
	if !ok {
		return
	}
	rules, now := check.API().Slots(), time.Now()
	a.slots.took(check.RequestID(), limitID, slot, rules.MaxDuration, now)
	if !rules.WithoutLog && a.slots.unlogged(check.API().Name(), now) {
		a.Trouble(ctx, "requests under way are limited, and no access log has told of the end of one: each counts for max_duration",
			slog.String("api", check.API().Name()), slog.Duration("max_duration", rules.MaxDuration))
	}
}

// apiSlots is what is known of one API's slots.
type apiSlots struct {
	first  time.Time   // when one was taken first
	logged atomic.Bool // an access-log entry with our metadata was seen
	told   atomic.Bool
}

// logPatience is how long after the first slot the first entry of an access log is waited for.
const logPatience = 30 * time.Second

// unlogged reports, once for each API, that no access log tells of the end of its requests.
func (s *slots) unlogged(api string, now time.Time) bool {
	known, ok := s.apis.Load(api)
	if !ok {
		known, _ = s.apis.LoadOrStore(api, &apiSlots{first: now})
	}
	of := known.(*apiSlots)
	return !of.logged.Load() && now.Sub(of.first) >= logPatience && !of.told.Swap(true)
}

// saw notes an entry with our metadata. The API must be one of the policy's.
func (s *slots) saw(api *policy.API, now time.Time) {
	known, ok := s.apis.Load(api.Name())
	if !ok {
		known, _ = s.apis.LoadOrStore(api.Name(), &apiSlots{first: now})
	}
	known.(*apiSlots).logged.Store(true)
}

// Abandon releases what an allowed request holds whose answer is not sent.
func (a *Authorizer) Abandon(check *policy.Check) {
	if limitID, slot, ok := check.Slot(); ok {
		a.slots.ended(check.RequestID())
		a.slots.hold(limitID, slot, 0)
	}
}

// followSlot releases the slot of a request that has ended, or holds on to that of one which goes
// on for as long again.
func (a *Authorizer) followSlot(e *AccessLogEntry) {
	api := a.Policy().API(e.API)
	if api != nil {
		a.slots.saw(api, time.Now())
	}
	switch {
	case e.SlotID != "" && !e.Periodic:
		a.slots.hold(cmp.Or(e.LimitID, e.KeyID), e.SlotID, 0)
		a.slots.forget(e.RequestID, e.SlotID)
	case e.SlotID != "" && api != nil:
		a.slots.hold(cmp.Or(e.LimitID, e.KeyID), e.SlotID, api.Slots().MaxDuration)
	case e.DecisionID == "" && !e.Periodic:
		// Our answer did not reach the proxy: its client had left.
		if held, ok := a.slots.ended(e.RequestID); ok {
			a.slots.hold(held.limitID, held.slot, 0)
		}
	}
}

// forget forgets a request if that is the slot which it holds: a later try may hold another.
func (s *slots) forget(requestID, slot string) {
	if requestID == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.requests[requestID].slot == slot {
		delete(s.requests, requestID)
	}
}

// SlotTrouble says what keeps slots from being released, "" where nothing does.
type SlotTrouble struct {
	API     string `json:"api,omitempty"` // "" for all
	Problem string `json:"problem"`
}

// Problems of SlotTrouble.
const (
	SlotsNoLog   = "no_log"  // no access log tells of the end of the API's requests
	SlotsExpired = "expired" // more than 1 % of all slots end by themselves
	SlotsDenied  = "denied"  // the store's user may not take any
)

// SlotTroubles returns what is wrong with how requests under way are followed: APIs that limit them
// and of which no access-log entry has arrived, and slots that end by themselves.
func (a *Authorizer) SlotTroubles() (all []SlotTrouble) {
	for _, api := range a.Policy().APIs() {
		if !api.LimitsConcurrency() || api.Slots().WithoutLog {
			continue
		}
		if of, ok := a.slots.apis.Load(api.Name()); !ok || !of.(*apiSlots).logged.Load() {
			all = append(all, SlotTrouble{api.Name(), SlotsNoLog})
		}
	}
	over, first := a.slots.share.over(a.slots.stats, time.Now())
	if over {
		all = append(all, SlotTrouble{"", SlotsExpired})
	}
	if first {
		a.Trouble(context.Background(), "more than 1 % of the slots of requests under way have ended by themselves within a minute: entries of the access log are lost, or requests last longer than max_duration")
	}
	return all
}

// expiredShare watches how many slots end by themselves, minute by minute.
type expiredShare struct {
	mu     sync.Mutex
	since  time.Time
	before counters.SlotStats
	bad    bool
}

const (
	expiredSpan  = time.Minute
	expiredLeast = 10  // slots that ended by themselves in a span, before that is worth a word
	expiredPart  = 100 // one of so many that were taken is too many
)

// over reports whether in the last whole span more than one of expiredPart slots ended by itself,
// and whether that is new.
func (s *expiredShare) over(stats func() counters.SlotStats, now time.Time) (bad, first bool) {
	if stats == nil {
		return false, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.since) >= expiredSpan {
		n := stats()
		ended, taken := n.Ended-s.before.Ended, n.Taken-s.before.Taken
		was := s.bad
		s.bad = !s.since.IsZero() && ended >= expiredLeast && ended*expiredPart > taken
		first = s.bad && !was
		s.since, s.before = now, n
	}
	return s.bad, first
}
