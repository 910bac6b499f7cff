package usage

import (
	"strings"
	"time"

	"tollgate/policy"
)

// Subject is whose usage a count is: a key's, all of an API's, or that of the keys of an API which
// were too many to be told apart.
type Subject struct {
	API    string
	Key    string // id; "" for one of an API
	Others bool
}

// RouteHour is what was decided about requests to one route in one hour.
type RouteHour struct {
	Route string // "" if none matched, or none is told
	Hour  Hour
	Decided
}

// ReasonCount counts decisions by their reason, but those that allowed; and those that only
// shadow_mode allowed, by their ShadowReason.
type ReasonCount struct {
	Reason string
	N      uint64
}

// shadowPrefix begins the names under which requests are counted that passed in spite of a reason.
const shadowPrefix = "shadow:"

// ShadowReason is the name under which requests are counted that passed in spite of a reason.
func ShadowReason(r policy.Reason) string { return shadowPrefix + r.String() }

// CutShadow returns the reason of such a name, and whether it is one.
func CutShadow(name string) (reason string, shadow bool) {
	return strings.CutPrefix(name, shadowPrefix)
}

// RouteSeen is what the log said of requests to one route.
type RouteSeen struct {
	Route string
	Seen
}

// Delta is what one subject did on one day, to be added to what is known.
type Delta struct {
	Subject
	Team    string
	Day     Day
	List    bool // the key may not be on the list of those used on that day
	Decided []RouteHour
	Reasons []ReasonCount
	Seen    []RouteSeen
}

// Clone returns a delta that shares nothing with a Batch.
func (d *Delta) Clone() *Delta {
	c := &Delta{}
	c.Merge(d)
	return c
}

// Merge adds another delta of the same subject and day, of which it keeps nothing but names of
// routes.
func (d *Delta) Merge(o *Delta) {
	if d.Day == 0 {
		d.Subject, d.Team, d.Day = o.Subject.clone(), string([]byte(o.Team)), o.Day
	}
	d.List = d.List || o.List
	for i := range o.Decided {
		h := &o.Decided[i]
		d.addDecided(h.Route, h.Hour, h.Decided)
	}
	for _, r := range o.Reasons {
		d.addReason(r.Reason, r.N)
	}
	for i := range o.Seen {
		d.addSeen(o.Seen[i].Route, &o.Seen[i].Seen)
	}
}

func (s Subject) clone() Subject {
	s.Key = string([]byte(s.Key))
	return s
}

func (d *Delta) addDecided(route string, hour Hour, n Decided) {
	for i := range d.Decided {
		if h := &d.Decided[i]; h.Hour == hour && h.Route == route {
			h.Add(n)
			return
		}
	}
	d.Decided = append(d.Decided, RouteHour{route, hour, n})
}

func (d *Delta) addReason(reason string, n uint64) {
	for i := range d.Reasons {
		if d.Reasons[i].Reason == reason {
			d.Reasons[i].N += n
			return
		}
	}
	d.Reasons = append(d.Reasons, ReasonCount{reason, n})
}

func (d *Delta) addSeen(route string, s *Seen) {
	for i := range d.Seen {
		if d.Seen[i].Route == route {
			d.Seen[i].Seen.Add(s)
			return
		}
	}
	d.Seen = append(d.Seen, RouteSeen{route, *s})
}

// Batch is what Take has taken. It may be used again for the next Take once Release was called.
type Batch struct {
	Deltas []Delta // of keys, and of each API

	tables []*table // that the deltas refer to
	apis   map[subjectDay]*apiSum

	// Room that the deltas share.
	decided []RouteHour
	reasons []ReasonCount
	seen    []RouteSeen
}

type subjectDay struct {
	Subject
	day Day
}

// apiSum is what all keys of an API did on a day.
type apiSum struct {
	Delta
	places map[routeHour]int // in Decided, where there can be many
}

type routeHour struct {
	route string
	hour  Hour
}

func (a *apiSum) add(d *Delta) {
	for i := range d.Decided {
		h := &d.Decided[i]
		place, known := a.places[routeHour{h.Route, h.Hour}]
		if !known {
			a.places[routeHour{h.Route, h.Hour}] = len(a.Decided)
			a.Decided = append(a.Decided, *h)
			continue
		}
		a.Decided[place].Add(h.Decided)
	}
	for _, r := range d.Reasons {
		a.addReason(r.Reason, r.N)
	}
	for i := range d.Seen {
		a.addSeen(d.Seen[i].Route, &d.Seen[i].Seen)
	}
}

// Groups is in how many parts Take takes all keys.
const Groups = 10

// Take moves into b, which must be empty, what the keys of one of Groups have done, and what was
// decided about the hot keys of all; a negative group stands for all keys. Each request is taken
// once, for its key and for its API. now is the time.
func (c *Counter) Take(b *Batch, group int, now time.Time) {
	day := DayOf(now)
	if b.apis == nil {
		b.apis = map[subjectDay]*apiSum{}
	}
	for i := range c.shards {
		s := &c.shards[i]
		if group >= 0 && i%Groups != group%Groups {
			s.mu.Lock()
			b.addHot(s.live)
			s.mu.Unlock()
			continue
		}
		fresh := c.newTable(day)
		s.mu.Lock()
		taken := s.live
		s.live = fresh
		s.mu.Unlock()
		b.tables = append(b.tables, taken)
		for i := range uint32(taken.entries.n) {
			b.add(taken, taken.entries.at(i), true)
		}
	}
	for _, d := range b.apis {
		b.Deltas = append(b.Deltas, d.Delta)
	}
}

// addHot takes what was decided about hot keys and leaves their entries, for what they will do.
func (b *Batch) addHot(t *table) {
	for _, place := range t.hot {
		e := t.entries.at(place)
		b.add(t, e, false)
		e.hits = 0
		for c := &e.first; ; c = t.more.at(c.next - 1) {
			c.n = 0
			if c.next == 0 {
				break
			}
		}
	}
	t.hot = t.hot[:0]
}

// add adds what an entry holds, as a delta for each day; withSeen says whether what the log said is
// taken too.
func (b *Batch) add(t *table, e *entry, withSeen bool) {
	for day, found := e.earliest(t, 0, withSeen); found; day, found = e.earliest(t, day+1, withSeen) {
		d := Delta{Subject: Subject{API: e.api.Name()}, Day: day}
		b.decided, b.reasons, b.seen = withRoom(b.decided), withRoom(b.reasons), withRoom(b.seen)
		d.Decided, d.Reasons, d.Seen = b.decided[len(b.decided):], b.reasons[len(b.reasons):], b.seen[len(b.seen):]
		d.fill(t, e, withSeen)
		b.addToAPI(&d)
		if e.kind == ofNobody {
			continue
		}
		b.decided, b.reasons, b.seen = beyond(b.decided, d.Decided), beyond(b.reasons, d.Reasons), beyond(b.seen, d.Seen)
		d.Others = e.kind == ofOthers
		if e.kind == ofKey {
			d.Key, d.Team = e.id(), e.team()
			if t.day == 0 {
				t.day = day
			}
			d.List = len(d.Decided) > 0 && !(e.isListed && day == t.day)
			e.isListed = e.isListed || d.List && day == t.day
		}
		b.Deltas = append(b.Deltas, d)
	}
}

// withRoom returns a list to whose end most deltas can be appended in place.
func withRoom[T any](list []T) []T {
	if cap(list)-len(list) >= 8 {
		return list
	}
	return make([]T, 0, max(2*cap(list), 256)) // the deltas keep the one before
}

// beyond returns the list with what was appended to its end, unless that has moved elsewhere.
func beyond[T any](list, part []T) []T {
	if cap(part) == cap(list)-len(list) {
		return list[:len(list)+len(part)]
	}
	return list
}

// fill reads the day's cells.
func (d *Delta) fill(t *table, e *entry, withSeen bool) {
	for c := &e.first; c.n > 0; c = t.more.at(c.next - 1) {
		if c.hour.Day() == d.Day {
			d.addCell(c)
		}
		if c.next == 0 {
			break
		}
	}
	for i := e.seen; withSeen && i > 0; {
		c := t.seen.at(i - 1)
		if Day(c.day) == d.Day {
			s := c.sum()
			d.addSeen(c.route.Name, &s)
		}
		i = c.next
	}
}

func (d *Delta) addCell(c *cell) {
	route, n := "", Decided{Denied: uint64(c.n)}
	if c.route != nil {
		route = c.route.Name
	}
	if c.reason == policy.Allowed {
		n = Decided{Allowed: uint64(c.n)}
		if c.route != nil && (c.shadow == policy.Allowed || c.shadow.Limited()) {
			n.Cost = uint64(c.n) * uint64(c.route.Cost)
		}
		if c.shadow != policy.Allowed {
			d.addReason(ShadowReason(c.shadow), uint64(c.n))
		}
	} else {
		d.addReason(c.reason.String(), uint64(c.n))
	}
	d.addDecided(route, c.hour, n)
}

func (c *seenCell) sum() Seen {
	s := Seen{BytesIn: c.bytesIn, BytesOut: c.bytesOut, Millis: c.millis, MaxMillis: uint64(c.maxMillis), Slow: uint64(c.slow)}
	for i, n := range c.status {
		s.Status[i] = uint64(n)
	}
	return s
}

// earliest returns the first day, not before from, on which an entry has counted anything.
func (e *entry) earliest(t *table, from Day, withSeen bool) (first Day, found bool) {
	note := func(day Day) {
		if day >= from && (!found || day < first) {
			first, found = day, true
		}
	}
	for c := &e.first; c.n > 0; c = t.more.at(c.next - 1) {
		note(c.hour.Day())
		if c.next == 0 {
			break
		}
	}
	for i := e.seen; withSeen && i > 0; i = t.seen.at(i - 1).next {
		note(Day(t.seen.at(i - 1).day))
	}
	return first, found
}

func (b *Batch) addToAPI(d *Delta) {
	of := subjectDay{Subject{API: d.API}, d.Day}
	sum := b.apis[of]
	if sum == nil {
		sum = &apiSum{Delta: Delta{Subject: of.Subject, Day: d.Day}, places: map[routeHour]int{}}
		b.apis[of] = sum
	}
	sum.add(d)
}

// Release empties a batch whose deltas are no longer needed, and gives its memory back for
// counting.
func (c *Counter) Release(b *Batch) {
	for _, t := range b.tables {
		t.empty()
		c.spare.Put(t)
	}
	clear(b.tables)
	clear(b.Deltas)
	clear(b.apis)
	clear(b.decided)
	clear(b.reasons)
	clear(b.seen)
	b.tables, b.Deltas = b.tables[:0], b.Deltas[:0]
	b.decided, b.reasons, b.seen = b.decided[:0], b.reasons[:0], b.seen[:0]
}
