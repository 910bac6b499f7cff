package counters

import (
	"time"

	"tollgate/policy/limits"
)

// A lease, as one replica sees it
//
// An entry is what this process knows of one limit id: the counters that Redis returned last, the
// units that it may spend without asking, and the cost that was refused last. Leased units are
// charged to all windows in Redis when they are leased, so no limit is exceeded whatever becomes of
// this process. Of them the entry has `unspent` left, and has spent `spent` that Redis does not
// know of: the next operation about the limit id settles both. What belongs to a window that has
// ended is `owed`.
//
//	 no entry ──first spend──▶ read ◀──── all spent, did not fit, or its window ended ───┐
//	    ▲                       │ units granted                                         │
//	    │                       ▼                                                       │
//	    │                     leased ───────────────────────────────────────────────────┤
//	    │   unspent            │  ▲                                                     │
//	    │   < renewBelow       ▼  │ units granted                                       │
//	    │                   renewing (spends go on) ────────────────────────────────────┘
//	    └── idle, or spent for other windows: what is left goes back
//
// One operation at a time wants units for an entry (leasing). Beside a renewal, which nobody waits
// for, spends that the units left can pay are answered at once; one that does not fit takes over
// what a queued renewal was to do, and spends that the units on their way will pay wait for these.
//
// Who owns what: an entry and all its fields belong to the shard that holds it, and its lock
// (leases.go) guards them, also those of an entry that is removed while an operation of it is under
// way. The operation itself belongs to the batches from add until its answer (batch.go). A slice of
// counts never changes once it is in an entry or an operation, so that both may refer to it. Redis
// judges the operations about one limit id one after another, and update sees their answers in that
// order.
//
// Times are of this process's monotonic clock. A lease ends with the first of its windows, counted
// from before Redis was asked: here it never ends later than there.

// What bounds a lease. The script holds the other bounds: 2 % of what is left, and nothing of the
// last 100 units.
const (
	// rateSpan is the time whose spends a lease may be as large as.
	rateSpan = time.Minute
	// idleAfter is when units that are not spent go back: a key that is quiet so long is not likely
	// to need them soon.
	idleAfter = 10 * time.Second
	// smallLease units are not worth an operation: they wait smallLeaseIdle to be spent. So a key
	// that is used every quarter of a minute is not asked about each time.
	smallLease     = 16
	smallLeaseIdle = time.Minute
	// afterWindowEnd is how long after the end of a lease Redis is asked for the next one: a lease
	// ends early by what the operation that took it lasted. If that was longer, Redis is still in
	// the old window, and is asked once more at its end.
	afterWindowEnd = 10 * time.Millisecond
	// recheckSlots is how long it is believed that no slot is free: so a flood of requests beyond
	// them costs the store 50 operations a second for each replica, and one that ends makes room
	// for the next soon.
	recheckSlots = 20 * time.Millisecond
	// recheck is how long counters that were read are shown, and how long a refusal of a window
	// longer than a minute is believed at first; each time it proves true that doubles, up to
	// recheckMost.
	recheck     = time.Second
	recheckMost = 8 * time.Second
)

// entry is what one replica knows and holds of one limit id. All times but those of counts are of
// this process's monotonic clock. The lock of its shard guards it.
type entry struct {
	id     string
	layout *layout

	// What Redis said last, and when. It holds until the first window ends, counted from before
	// Redis was asked, so that it ends here before it does there.
	counts []limits.Count // nil before the first answer; a new slice with each
	asked  time.Duration
	until  time.Duration
	clock  int64 // Redis' clock less the monotonic one, ns

	// The lease: units that are charged to the windows of counts, and which Redis believes to be
	// held.
	unspent    int64 // of it
	spent      int64 // of it, which Redis does not know yet
	renewBelow int64 // renewed when less is left; 0: when too little is left
	owed       *settlement
	leasing    bool       // an operation that wants units is queued or under way
	unclaimed  int64      // of what that operation wants, units that nobody waits for yet
	renewing   *operation // that operation, if nobody waits for it

	refused      int64 // the least cost that was refused; -1: none
	refusedUntil time.Duration
	refusedFor   time.Duration // that it was believed last
	inUse        int64         // slots, when one was refused last
	fullUntil    time.Duration // until when as many are believed to be in use

	lastUsed          time.Duration // of the last Spend or Try
	span              int64         // number of the rateSpan that current counts
	current, previous int64         // units spent in it, and in the one before
	removed           bool          // no longer in the table; what arrives goes back
}

// source says what answered.
type source uint8

const (
	fromStore source = iota // nothing here can answer
	fromLease
	fromRefusal
	fromFull
	fromReading
	sources
)

// answer takes the cost from the lease, or finds a refusal or a fresh reading. It changes nothing
// if it returns fromStore.
func (e *entry) answer(cost int64, readOnly, exact bool, slot *limits.Slot, now time.Duration) source {
	if e.counts == nil || now >= e.until || exact && e.unspent > 0 {
		return fromStore
	}
	switch {
	case e.unspent > 0 && cost <= e.unspent:
		if !readOnly {
			e.unspent -= cost
			e.spent += cost
			e.addSpend(now, cost)
		}
		e.lastUsed = now
		return fromLease
	case e.refused >= 0 && cost >= e.refused && now < e.refusedUntil:
		e.lastUsed = now
		return fromRefusal
	case slot.ID != "" && slot.Earlier == "" && slot.Places <= e.inUse && now < e.fullUntil:
		e.lastUsed = now
		return fromFull
	case readOnly && !exact && now < e.asked+recheck:
		e.lastUsed = now
		return fromReading
	}
	return fromStore
}

// renews reports whether it is time to ask the store for more, while what is left is spent.
func (e *entry) renews() bool {
	return e.renewBelow > 0 && !e.leasing && e.unspent < e.renewBelow
}

// write writes what answer found.
func (e *entry) write(into *limits.Result, from source, cost int64, now time.Duration) {
	into.Allowed, into.Full, into.InUse = from == fromLease, from == fromFull, 0
	if from == fromFull {
		into.InUse = e.inUse
	}
	into.Now = time.Unix(0, e.clock+int64(now)).UTC()
	into.States = into.States[:0]
	denied := false
	for i := range e.counts {
		s := limits.State{Spent: e.counts[i].Spent - e.unspent, Reset: time.Unix(e.counts[i].End, 0).UTC()}
		denied = denied || e.layout.windows[i].Denies(s, cost)
		into.States = append(into.States, s)
	}
	if from == fromReading {
		into.Allowed = !denied
	}
}

// addSpend counts a spend for recentSpend.
func (e *entry) addSpend(now time.Duration, cost int64) {
	span := int64(now / rateSpan)
	switch span {
	case e.span:
	case e.span + 1:
		e.previous, e.current = e.current, 0
	default:
		e.previous, e.current = 0, 0
	}
	e.span = span
	e.current += cost
}

// recentSpend estimates what was spent in the last rateSpan: all of the running span, and of the
// one before it the share that the last rateSpan still covers.
func (e *entry) recentSpend(now time.Duration) int64 {
	left := int64(rateSpan - now%rateSpan)
	switch int64(now / rateSpan) {
	case e.span:
		return e.current + int64(float64(e.previous)*float64(left)/float64(rateSpan))
	case e.span + 1:
		return int64(float64(e.current) * float64(left) / float64(rateSpan))
	}
	return 0
}

// wants returns how many units an operation of this cost should lease. A key that was quiet has a
// small lease, or none: it may stay quiet.
func (e *entry) wants(now time.Duration, cost int64) int64 {
	quiet := now - e.lastUsed
	if e.counts == nil || quiet >= smallLeaseIdle {
		return 0
	}
	spent := e.recentSpend(now) + min(cost, limits.MaxLimit)
	if quiet >= idleAfter {
		return min(2*spent, smallLease)
	}
	return max(min(2*spent, smallLease), min(spent, limits.MaxLimit/4))
}

// settlement takes what the next operation has to settle: what is owed of an earlier lease, else
// the running one. keep leaves what is not spent where it is, if the lease still runs.
func (e *entry) settlement(now time.Duration, keep bool) settlement {
	if e.owed != nil {
		s := *e.owed
		e.owed = nil
		return s
	}
	s := settlement{units: e.spent, counts: e.counts}
	if !keep || now >= e.until {
		s.back = e.unspent
		s.units += e.unspent
		e.unspent = 0
	}
	e.spent = 0
	return s
}

// pending is how many units there are to settle.
func (e *entry) pending() int64 {
	n := e.unspent + e.spent
	if e.owed != nil {
		n += e.owed.units
	}
	return n
}

// update takes in the answer to an operation that was sent at asked and answered at now; answers
// arrive in the order in which Redis judged. It returns how many units it stranded: charged, and
// never given back.
func (e *entry) update(c *operation, asked, now time.Duration) (stranded int64) {
	if c.leasing {
		e.leasing, e.unclaimed, e.renewing = false, 0, nil
	}
	if c.err != nil {
		e.renewBelow = 0 // what is left of the lease is spent before Redis is asked again
		return 0
	}
	if e.counts != nil && !sameStarts(e.counts, c.counts) {
		stranded = e.owe(settlement{units: e.unspent + e.spent, back: e.unspent, counts: e.counts})
		e.unspent, e.spent = 0, 0
	}
	e.unspent += c.granted
	e.counts, e.asked, e.until = c.counts, asked, c.earliestEnd(asked)
	e.clock = c.now*int64(time.Millisecond) - int64(now)
	if c.leasing {
		e.renewBelow = 0
		if c.granted > 0 {
			e.renewBelow = max(c.granted/8, 1)
		}
	}
	e.remember(c, asked)
	if c.full {
		// At least for as long again as the answer took: else a store that is slow is asked about
		// each.
		e.inUse, e.fullUntil = c.inUse, max(asked+recheckSlots, now+min(now-asked, recheckSlots))
	}
	if c.allowed && !c.readOnly {
		e.addSpend(now, c.cost)
	}
	if c.done != nil {
		e.lastUsed = now
	}
	return stranded
}

// distrust has the store asked again in a second.
func (e *entry) distrust() {
	e.until = min(e.until, e.asked+recheck)
	e.refusedUntil = min(e.refusedUntil, e.until)
}

// owe keeps units to settle for the next operation. Where there are some already, those of this one
// are stranded.
func (e *entry) owe(s settlement) (stranded int64) {
	if s.units == 0 {
		return 0
	}
	if e.owed != nil {
		return s.back
	}
	e.owed = &s
	return 0
}

func sameStarts(a, b []limits.Count) bool {
	for i := range a {
		if a[i].Start != b[i].Start {
			return false
		}
	}
	return true
}

// earliestEnd returns when the first window of the answer ends, by the monotonic clock, if Redis
// judged at asked. It judged later; its clock is told in whole milliseconds, rounded down.
func (c *operation) earliestEnd(asked time.Duration) time.Duration {
	if len(c.counts) == 0 {
		return asked + recheck // nothing but slots
	}
	end := c.counts[0].End
	for _, n := range c.counts[1:] {
		end = min(end, n.End)
	}
	const longest = int64(1 << 42) // ms, some 139 years
	return asked + time.Duration(min(end*1000-c.now-1, longest))*time.Millisecond
}

// remember keeps or drops the refusal. A window of a minute or less that is spent stays so until it
// ends, but for what other replicas give back, which is little. One that is longer is asked again,
// less often each time. Either ends with the first of all windows, whose counter would be shown.
func (e *entry) remember(c *operation, asked time.Duration) {
	if e.refused >= 0 && !deniesAny(e.layout.windows, e.counts, e.refused) {
		e.refused = -1
	}
	if c.allowed || !deniesAny(e.layout.windows, e.counts, c.cost) || e.refused >= 0 && e.refused < c.cost && asked < e.refusedUntil {
		return
	}
	switch {
	case e.refused != c.cost:
		e.refusedFor = recheck
	case asked >= e.refusedUntil: // else several were asked at once
		e.refusedFor = min(2*e.refusedFor, recheckMost)
	}
	e.refused, e.refusedUntil = c.cost, min(e.until, asked+e.refusedFor)
	for i, w := range e.layout.windows {
		if w.Per <= limits.Minute && w.Denies(limits.State{Spent: e.counts[i].Spent}, c.cost) {
			e.refusedUntil = e.until
		}
	}
}

func deniesAny(windows []limits.Window, counts []limits.Count, cost int64) bool {
	for i, w := range windows {
		if w.Denies(limits.State{Spent: counts[i].Spent}, cost) {
			return true
		}
	}
	return false
}

// prepare decides what an operation that goes to the store takes along. A lease that a spend does
// not fit in goes back in the same step, so that the store judges by all that is left.
func (e *entry) prepare(c *operation, now time.Duration) action {
	if c.exact {
		e.renewBelow = 0 // nor is anything leased when the window ends
	}
	if !c.exact && !c.readOnly && e.replacesRenewal(c, now) {
		return sendNow
	}
	if e.leasing && !c.exact {
		if !c.readOnly && !c.deferred && e.unclaimed >= c.cost && c.cost > 0 {
			e.unclaimed -= c.cost
			c.deferred = true
			return sendNext
		}
		return sendNow // beside the operation that wants units
	}
	if !c.exact && !c.readOnly {
		c.want = e.wants(now, c.cost)
	}
	if c.want > 0 {
		c.leasing, e.leasing, e.unclaimed = true, true, c.want
	}
	c.settle = e.settlement(now, c.readOnly && !c.exact)
	return sendNow
}

// renewal is an operation that only leases, while what is left of the lease is spent.
func (e *entry) renewal(now time.Duration) *operation {
	c := &operation{id: e.id, layout: e.layout, entry: e, leasing: true, want: e.wants(now, 0)}
	e.leasing, e.unclaimed, e.renewing = true, c.want, c
	c.settle = e.settlement(now, true)
	return c
}

// cancelRenewal returns the renewal if it is queued, and keeps it from being sent. Else it returns
// nil.
func (e *entry) cancelRenewal() *operation {
	r := e.renewing
	if r == nil || !r.state.CompareAndSwap(queued, gaveUp) {
		return nil
	}
	e.renewing = nil
	return r
}

// replacesRenewal has an operation do what a queued renewal was to do, and reports whether there
// was one. What was left to be spent meanwhile goes back too: the operation does not fit in it.
func (e *entry) replacesRenewal(c *operation, now time.Duration) bool {
	r := e.cancelRenewal()
	if r == nil {
		return false
	}
	c.leasing, c.want, c.settle = true, r.want, r.settle
	if e.owed == nil && sameStarts(r.settle.counts, e.counts) {
		s := e.settlement(now, false)
		c.settle.units += s.units
		c.settle.back += s.back
	}
	return true
}

// renewsAtWindowEnd reports whether the lease has ended with its window, and the key is so busy
// that it will need the next one: that it is likely to spend twice before the first window ends
// again. One that was quiet for as long as that is not.
func (e *entry) renewsAtWindowEnd(now time.Duration) bool {
	if e.counts == nil || e.renewBelow == 0 || e.leasing || now < e.until+afterWindowEnd {
		return false
	}
	first := e.counts[0].End - e.counts[0].Start
	for _, n := range e.counts[1:] {
		first = min(first, n.End-n.Start)
	}
	if now-e.lastUsed >= time.Duration(first)*time.Second {
		return false
	}
	return float64(e.recentSpend(now))*min(1, float64(first)/rateSpan.Seconds()) >= 2
}

// strandedUnits is how many units may stay charged although nobody spends them: all that an
// operation was about whose answer is lost, unless it was not run; what it was to give back, if it
// was not; and its cost where the caller had left before the answer came.
func (c *operation) strandedUnits() int64 {
	var cost int64
	if !c.readOnly {
		cost = c.cost
	}
	switch {
	case c.err != nil && c.notRun:
		return c.settle.back
	case c.err != nil:
		return c.want + c.settle.back + cost
	case c.allowed && c.abandoned:
		return cost
	}
	return 0
}
