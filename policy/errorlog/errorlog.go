// Package errorlog samples the requests of an API that were refused or that failed, so that people
// can see some of each kind, and how many more there were. A Log holds them in memory until Take
// takes them; package journal keeps them in Redis. Nothing here does I/O, waits, or holds anything
// secret: no path, no query, no header but the request's id.
//
// Of each key and reason the first request of a period is told of, and the others are counted. A
// period lasts from one Take to the next: a second, or as long as nothing can be written.
package errorlog

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
)

const (
	// PerPeriod is how many requests of an API are told of in a period, and failedPerPeriod how
	// many of them may have failed: whoever can write an access log hides no refusals behind those.
	// The others are counted by their reason.
	PerPeriod       = 100
	failedPerPeriod = PerPeriod / 2
	// reasons is more than there are; the last is that of requests that failed.
	reasons  = 32
	upstream = policy.Reason(reasons - 1)
)

// Log samples in memory. It is safe for concurrent use. An API takes 60 KB at most, and twice that
// while what was taken is on its way.
type Log struct {
	seed maphash.Seed
	find FindRoute
	now  func() time.Time

	mu   sync.Mutex // of who adds to apis
	apis atomic.Pointer[map[string]*apiLog]

	sampled, others, ignored atomic.Uint64
}

// FindRoute returns what the access log's names mean: nil where the policies in force do not know
// them.
type FindRoute func(api, route string) (*policy.API, *policy.Route)

// apiLog is what an API has in the period.
type apiLog struct {
	name string
	live atomic.Pointer[period]
	mu   sync.Mutex // of who adds to live, or takes it

	// What no entry tells of, by reason: how many, and since when, Unix ms.
	others [reasons]atomic.Uint64
	since  [reasons]atomic.Int64
}

// New returns a Log. now is the clock.
func New(find FindRoute, now func() time.Time) *Log {
	l := &Log{seed: maphash.MakeSeed(), find: find, now: now}
	l.apis.Store(&map[string]*apiLog{})
	return l
}

// Refused notes a decision that is Done. One that allows, or that no API has made, is not kept. It
// costs no memory and waits for nobody where its key has had another for the same reason in the
// period.
func (l *Log) Refused(c *policy.Check) {
	api, d := c.API(), c.Decision()
	if api == nil || d.Allow {
		return
	}
	id := ""
	if k := c.Key(); k != nil {
		id = k.ID()
	}
	a, hash := l.of(api.Name()), l.hash(id, d.Reason)
	if l.count(a, hash, id, d.Reason, c.Now()) {
		return
	}
	told := c.Refusal()
	e := Entry{
		API: a.name, Key: strings.Clone(id), Time: c.Now(), Reason: d.Reason.String(), Code: d.Status,
		Address: told.Address, Decision: strings.Clone(d.ID), Request: plainID(told.RequestID), Handle: strings.Clone(told.Handle),
	}
	if route := c.Route(); route != nil {
		e.Route = route.Name
	}
	l.keep(a, hash, d.Reason, e)
}

// Failure is what the access log says of an allowed request that was answered with 5xx. The texts
// are copied.
type Failure struct {
	API, Route        string
	Key               string // id; "" for a request without a key
	Decision, Request string
	Code              int
	Client            netip.Addr // invalid where it is not known
	Ended             time.Time
}

// clockSlack is how far the time of an access log may be from ours.
const clockSlack = 5 * time.Minute

// Failed notes a request that failed. It reports false for one that names no API, route, key or
// decision that there can be, which is counted as ignored: whoever reaches the port of the access
// log can write such entries. Whether there is such a key is looked up before it is written.
func (l *Log) Failed(f *Failure) bool {
	api, route := l.find(f.API, f.Route)
	if route == nil || f.Key != "" && keys.IDProblem(f.Key) != "" || f.Code < 500 || f.Code > 599 || f.Decision == "" || !isPlain(f.Decision) {
		l.ignored.Add(1)
		return false
	}
	at := f.Ended
	if now := l.now(); at.Sub(now).Abs() > clockSlack {
		at = now
	}
	a, hash := l.of(api.Name()), l.hash(f.Key, upstream)
	if !l.count(a, hash, f.Key, upstream, at) {
		request := ""
		if !api.MayHoldKey(f.Request) { // a client may have chosen it
			request = plainID(f.Request)
		}
		l.keep(a, hash, upstream, Entry{
			API: a.name, Key: strings.Clone(f.Key), Time: at, Reason: Upstream, Route: route.Name, Code: f.Code,
			Address: api.ErrorLog().Addresses.Text(f.Client), Decision: plainID(f.Decision), Request: request,
		})
	}
	return true
}

// of returns what an API has. There are as many as policies have named.
func (l *Log) of(name string) *apiLog {
	if a := (*l.apis.Load())[name]; a != nil {
		return a
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known := *l.apis.Load()
	if known[name] != nil {
		return known[name]
	}
	a := &apiLog{name: strings.Clone(name)}
	a.live.Store(&period{})
	more := maps.Clone(known)
	more[a.name] = a
	l.apis.Store(&more)
	return a
}

func (l *Log) hash(id string, r policy.Reason) uint32 {
	return uint32(maphash.String(l.seed, id)) + uint32(r)*0x9e3779b9
}

// count counts a request that is not told of: there is an entry for its key and reason, or no room
// for more. It reports false if one is to be added. It takes no lock.
func (l *Log) count(a *apiLog, hash uint32, id string, r policy.Reason, at time.Time) bool {
	for {
		p := a.live.Load()
		s := p.find(hash, id, r)
		switch {
		case s == nil && p.hasRoom(r):
			return false
		case s == nil:
			l.countOther(a, r, 1, at)
			return true
		case s.more.Add(1) > 0:
			l.sampled.Add(1)
			return true
		}
		// It was taken meanwhile; then there is another period.
	}
}

// countOther counts requests that no entry tells of.
func (l *Log) countOther(a *apiLog, r policy.Reason, n uint64, at time.Time) {
	a.since[r].CompareAndSwap(0, at.UnixMilli())
	a.others[r].Add(n)
	l.others.Add(n)
}

// keep adds an entry, unless somebody else was faster.
func (l *Log) keep(a *apiLog, hash uint32, r policy.Reason, e Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.live.Load()
	switch s := p.find(hash, e.Key, r); {
	case s != nil:
		s.more.Add(1) // nobody can take it meanwhile
		l.sampled.Add(1)
	case !p.hasRoom(r):
		l.countOther(a, r, 1, e.Time)
	default:
		p.add(hash, &slot{reason: r, entry: e})
	}
}

// NotKept takes an entry back that was taken and cannot be kept because there are too many: it is
// counted with the others of its API.
func (l *Log) NotKept(e *Entry) {
	for r := range policy.Reason(reasons) {
		if nameOf(r) == e.Reason {
			l.countOther(l.of(e.API), r, 1+e.More, e.Time)
		}
	}
}

func nameOf(r policy.Reason) string {
	if r == upstream {
		return Upstream
	}
	return r.String()
}

// Take ends the period and returns what it has, by time within each API. It goes on for the APIs
// that are left out.
func (l *Log) Take(leaveOut func(api string) bool) (all []Entry) {
	now := l.now()
	apis := *l.apis.Load()
	for _, name := range slices.Sorted(maps.Keys(apis)) {
		if leaveOut != nil && leaveOut(name) {
			continue
		}
		first := len(all)
		all = apis[name].take(all, now)
		slices.SortStableFunc(all[first:], func(a, b Entry) int { return a.Time.Compare(b.Time) })
	}
	return all
}

func (a *apiLog) take(all []Entry, now time.Time) []Entry {
	if p := a.live.Load(); p.n.Load() > 0 {
		a.mu.Lock()
		a.live.Store(&period{})
		a.mu.Unlock()
		for i := range p.places {
			if s := p.places[i].Load(); s != nil {
				all = append(all, s.take(now))
			}
		}
	}
	for r := range a.others {
		if n := a.others[r].Swap(0); n > 0 {
			since := now
			if ms := a.since[r].Swap(0); ms != 0 { // else the one who counts them had said so to the period before
				since = time.UnixMilli(ms).UTC()
			}
			all = append(all, Entry{API: a.name, Time: since, Reason: nameOf(policy.Reason(r)), More: n, Until: later(now, since), Others: true})
		}
	}
	return all
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Stats are counts since the start.
type Stats struct {
	Sampled uint64 // requests that are counted with an entry of their key and reason
	Others  uint64 // requests that are counted for their API, because there were too many to be told apart
	Ignored uint64 // entries of the access log that name what there cannot be
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	return Stats{Sampled: l.sampled.Load(), Others: l.others.Load(), Ignored: l.ignored.Load()}
}
