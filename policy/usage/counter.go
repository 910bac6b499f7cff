// Package usage counts what was done with each key: decisions, exactly, and what the proxy's access
// log says of the requests that were allowed. Counter counts in memory, where a decision costs next
// to nothing; package ledger adds that to what Redis holds, and reads it. Nothing here does I/O.
//
// Times are those of this server's clock, in UTC. A request counts in the hour of its decision,
// what the log says of it on the day on which it began.
package usage

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
)

const (
	// shardCount is a power of two. A thousand cores would seldom wait for each other.
	shardCount = 64
	// DefaultKeys is how many keys a Counter tells apart between two flushes where nothing else is
	// said.
	DefaultKeys = 1_000_000
)

// Counter counts in memory until Take takes it. It is safe for concurrent use.
type Counter struct {
	seed    maphash.Seed
	most    int // of each kind of cell, in a shard
	find    FindRoute
	shards  [shardCount]shard
	spare   sync.Pool // of *table
	others  atomic.Uint64
	ignored atomic.Uint64
}

// FindRoute returns what the log's names mean: nil where the policies in force do not know them.
type FindRoute func(api, route string) (*policy.API, *policy.Route)

type shard struct {
	mu   sync.Mutex
	live *table
	_    [48]byte // so that shards do not share a cache line
}

// NewCounter returns a Counter that tells at most so many keys apart between two flushes,
// DefaultKeys if most is 0. Each takes 70 bytes, and 70 more if the log tells of it. What keys
// beyond them do is counted for their API.
func NewCounter(most int, find FindRoute) *Counter {
	if most <= 0 {
		most = DefaultKeys
	}
	c := &Counter{seed: maphash.MakeSeed(), most: (most + shardCount - 1) / shardCount, find: find}
	for i := range c.shards {
		c.shards[i].live = c.newTable(0)
	}
	return c
}

func (c *Counter) newTable(day Day) *table {
	t, _ := c.spare.Get().(*table)
	if t == nil {
		t = &table{hash: c.hash}
	}
	t.day = day
	return t
}

func (c *Counter) hash(k kind, text string) uint32 {
	return uint32(maphash.String(c.seed, text)) + uint32(k)*0x9e3779b9
}

func (c *Counter) shardOf(hash uint32) *shard { return &c.shards[hash>>16%shardCount] }

// Decided counts a decision. key is nil where none is known, and then only API and reason count,
// and the route if the request was allowed; route is nil if none matched. It keeps parts of the
// key's text until they are taken.
func (c *Counter) Decided(api *policy.API, key *keys.Grant, route *policy.Route, reason policy.Reason, at time.Time) {
	c.decided(api, key, route, outcome{reason: reason}, at)
}

// Shadowed is Decided of a request that was allowed only because of shadow_mode, and would have
// been denied for a reason. It spent of its limits if these are the reason.
func (c *Counter) Shadowed(api *policy.API, key *keys.Grant, route *policy.Route, reason policy.Reason, at time.Time) {
	c.decided(api, key, route, outcome{shadow: reason}, at)
}

// outcome is what a decision came to: the reason, and that of which there was only a shadow, else
// Allowed.
type outcome struct{ reason, shadow policy.Reason }

func (c *Counter) decided(api *policy.API, key *keys.Grant, route *policy.Route, of outcome, at time.Time) {
	if key == nil {
		if of.reason != policy.Allowed {
			route = nil
		}
		c.decidedAbout(ofNobody, api, route, of, at)
		return
	}
	id := key.ID()
	hash := c.hash(ofKey, id)
	s := c.shardOf(hash)
	s.mu.Lock()
	t := s.live
	e, place := t.find(hash, ofKey, id)
	if e == nil && t.entries.n < c.most {
		e, place = t.add(hash, entry{
			text: key.Texts[:int(key.IDBytes)+int(key.NameBytes)+int(key.TeamBytes)], api: api,
			idBytes: key.IDBytes, teamStart: key.NameBytes, teamBytes: key.TeamBytes,
		})
	}
	counted := e != nil && t.count(e, route, HourOf(at), of, c.most)
	if counted {
		t.heat(e, place)
	}
	s.mu.Unlock()
	if !counted {
		c.others.Add(1)
		c.decidedAbout(ofOthers, api, route, of, at)
	}
}

// decidedAbout counts for an API what is not counted for a key.
func (c *Counter) decidedAbout(k kind, api *policy.API, route *policy.Route, of outcome, at time.Time) {
	s, t, e, place := c.lockAPI(k, api)
	defer s.mu.Unlock()
	t.count(e, route, HourOf(at), of, noBound)
	t.heat(e, place)
}

// noBound is for entries of APIs, which have as many cells as the API has routes and reasons.
const noBound = 1 << 30

// lockAPI returns an entry of an API, in a shard that the caller unlocks.
func (c *Counter) lockAPI(k kind, api *policy.API) (*shard, *table, *entry, uint32) {
	name := api.Name()
	hash := c.hash(k, name)
	s := c.shardOf(hash)
	s.mu.Lock()
	t := s.live
	e, place := t.find(hash, k, name)
	if e == nil {
		e, place = t.add(hash, entry{text: name, api: api, idBytes: uint8(len(name)), kind: k})
	}
	return s, t, e, place
}

// Finished is what the access log says of an allowed request. The texts are copied.
type Finished struct {
	API, Route string
	Key, Team  string    // "" for a request without a key
	Start      time.Time // when the request began
	Status     int       // HTTP status, 0 if there was none
	BytesIn    uint64    // of the request's body
	BytesOut   uint64    // of the answer's body
	Took       time.Duration
}

// Finished adds what the log says of a request. It reports false for one that names no key, API or
// route that there can be, which is counted as ignored: whoever reaches the port can write such
// entries. What names a key without usage on its day is dropped later, by the ledger.
func (c *Counter) Finished(f *Finished) bool {
	api, route := c.find(f.API, f.Route)
	if route == nil || f.Key != "" && keys.IDProblem(f.Key) != "" || len(f.Team) > keys.MaxNameBytes {
		c.ignored.Add(1)
		return false
	}
	slow := f.Took > api.Usage().SlowAfter
	day := DayOf(f.Start)
	if f.Key != "" && c.finishedBy(api, route, day, f, slow) {
		return true
	}
	k := ofNobody
	if f.Key != "" {
		k = ofOthers
		c.others.Add(1)
	}
	s, t, e, place := c.lockAPI(k, api)
	defer s.mu.Unlock()
	t.observe(e, route, day, f, slow, noBound)
	t.heat(e, place)
	return true
}

// finishedBy adds to what a key did, if there is room for it.
func (c *Counter) finishedBy(api *policy.API, route *policy.Route, day Day, f *Finished, slow bool) bool {
	hash := c.hash(ofKey, f.Key)
	s := c.shardOf(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.live
	e, _ := t.find(hash, ofKey, f.Key)
	if e == nil {
		if t.entries.n >= c.most {
			return false
		}
		e, _ = t.add(hash, entry{
			text: strings.Clone(f.Key + f.Team), api: api, idBytes: uint8(len(f.Key)), teamBytes: uint8(len(f.Team)),
		})
	}
	return t.observe(e, route, day, f, slow, c.most)
}

// Stats are counts since the start.
type Stats struct {
	Others  uint64 // requests counted for an API because there were too many keys
	Ignored uint64 // entries of the log that name what there cannot be
	Keys    int    // touched since they were last taken
}

// Stats returns the counts.
func (c *Counter) Stats() Stats {
	s := Stats{Others: c.others.Load(), Ignored: c.ignored.Load()}
	for i := range c.shards {
		shard := &c.shards[i]
		shard.mu.Lock()
		s.Keys += shard.live.entries.n - shard.live.apis
		shard.mu.Unlock()
	}
	return s
}
