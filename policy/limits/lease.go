package limits

import "time"

// What bounds a lease. The script holds the other bounds: 2 % of what is left, and nothing of the last 100 units.
const (
	// rateSpan is the time whose spends a lease may be as large as.
	rateSpan = time.Minute
	// idleAfter is when units that are not spent go back: a key that is quiet so long is not likely to need them soon.
	idleAfter = 10 * time.Second
	// few units are not worth a call: they wait fewAfter to be spent. So a key that is used every quarter of a minute
	// is not asked about each time.
	few      = 16
	fewAfter = time.Minute
	// afterEdge is how long after the end of a lease Redis is asked for the next one: a lease ends early by what the call
	// that took it lasted. If that was longer, Redis is still in the old window, and is asked once more at its end.
	afterEdge = 10 * time.Millisecond
	// recheck is how long counters that were read are shown, and how long a refusal of a window longer than a minute is
	// believed at first; each time it proves true that doubles, up to recheckMost.
	recheck     = time.Second
	recheckMost = 8 * time.Second
)

// entry is what one replica knows and holds of one limit id. All times but those of counts are of this process's
// monotonic clock. Whoever uses it holds the lock of its shard.
type entry struct {
	id     string
	layout *layout

	// What Redis said last, and when. It holds until the first window ends, counted from before Redis was asked, so that
	// it ends here before it does there.
	counts []count // nil before the first answer; a new slice with each
	asked  time.Duration
	until  time.Duration
	clock  int64 // Redis' clock less the monotonic one, ns

	// The lease: units that are charged to the windows of counts, and which Redis believes to be held.
	rest     int64 // not spent
	used     int64 // spent, which Redis does not know yet
	low      int64 // renewed when less is left; 0: when too little is left
	owed     *settlement
	asking   bool  // a call that wants units is queued or under way
	expected int64 // of what that call wants, units that nobody waits for yet
	renewing *call // that call, if nobody waits for it

	refused      int64 // the least cost that was refused; -1: none
	refusedUntil time.Duration
	refusedFor   time.Duration // that it was believed last

	last              time.Duration // of the last Spend or Try
	span              int64         // number of the rateSpan that current counts
	current, previous int64         // units spent in it, and in the one before
	gone              bool          // no longer in the table; what arrives goes back
}

// source says what answered.
type source uint8

const (
	fromStore source = iota // nothing here can answer
	fromLease
	fromRefusal
	fromReading
)

// answer takes the cost from the lease, or finds a refusal or a fresh reading. It changes nothing if it returns fromStore.
func (e *entry) answer(cost int64, readOnly, exact bool, now time.Duration) source {
	if e.counts == nil || now >= e.until || exact && e.rest > 0 {
		return fromStore
	}
	switch {
	case e.rest > 0 && cost <= e.rest:
		if !readOnly {
			e.rest -= cost
			e.used += cost
			e.note(now, cost)
		}
		e.last = now
		return fromLease
	case e.refused >= 0 && cost >= e.refused && now < e.refusedUntil:
		e.last = now
		return fromRefusal
	case readOnly && !exact && now < e.asked+recheck:
		e.last = now
		return fromReading
	}
	return fromStore
}

// renews reports whether it is time to ask the store for more, while what is left is spent.
func (e *entry) renews() bool {
	return e.low > 0 && !e.asking && e.rest < e.low
}

// write writes what answer found.
func (e *entry) write(into *Result, from source, cost int64, now time.Duration) {
	into.Allowed = from == fromLease
	into.Now = time.Unix(0, e.clock+int64(now)).UTC()
	into.States = into.States[:0]
	denied := false
	for i := range e.counts {
		s := State{Spent: e.counts[i].spent - e.rest, Reset: time.Unix(e.counts[i].end, 0).UTC()}
		denied = denied || e.layout.windows[i].Denies(s, cost)
		into.States = append(into.States, s)
	}
	if from == fromReading {
		into.Allowed = !denied
	}
}

// note counts a spend for lately.
func (e *entry) note(now time.Duration, cost int64) {
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

// lately returns about how much was spent in the rateSpan before now: of the whole one before the running one, the part
// that is still within it.
func (e *entry) lately(now time.Duration) int64 {
	left := int64(rateSpan - now%rateSpan)
	switch int64(now / rateSpan) {
	case e.span:
		return e.current + int64(float64(e.previous)*float64(left)/float64(rateSpan))
	case e.span + 1:
		return int64(float64(e.current) * float64(left) / float64(rateSpan))
	}
	return 0
}

// wants returns how many units a call of this cost should lease. A key that was quiet leases few, or nothing: it may
// stay so.
func (e *entry) wants(now time.Duration, cost int64) int64 {
	quiet := now - e.last
	if e.counts == nil || quiet >= fewAfter {
		return 0
	}
	spent := e.lately(now) + min(cost, MaxLimit)
	if quiet >= idleAfter {
		return min(2*spent, few)
	}
	return max(min(2*spent, few), min(spent, MaxLimit/4))
}

// settlement takes what the next call has to settle: what is owed of an earlier lease, else the running one. keep leaves
// what is not spent where it is, if the lease still runs.
func (e *entry) settlement(now time.Duration, keep bool) settlement {
	if e.owed != nil {
		s := *e.owed
		e.owed = nil
		return s
	}
	s := settlement{units: e.used, counts: e.counts}
	if !keep || now >= e.until {
		s.back = e.rest
		s.units += e.rest
		e.rest = 0
	}
	e.used = 0
	return s
}

// pending is how many units there are to settle.
func (e *entry) pending() int64 {
	n := e.rest + e.used
	if e.owed != nil {
		n += e.owed.units
	}
	return n
}

// landed takes in the answer to a call that was sent at asked and answered at now; answers arrive in the order in which
// Redis judged. It returns how many units it stranded: charged, and never given back.
func (e *entry) landed(c *call, asked, now time.Duration) (stranded int64) {
	if c.asks {
		e.asking, e.expected, e.renewing = false, 0, nil
	}
	if c.err != nil {
		e.low = 0 // what is left of the lease is spent before Redis is asked again
		return 0
	}
	if e.counts != nil && !sameStarts(e.counts, c.counts) {
		stranded = e.owe(settlement{units: e.rest + e.used, back: e.rest, counts: e.counts})
		e.rest, e.used = 0, 0
	}
	e.rest += c.granted
	e.counts, e.asked, e.until = c.counts, asked, c.earliestEnd(asked)
	e.clock = c.now*int64(time.Millisecond) - int64(now)
	if c.asks {
		e.low = 0
		if c.granted > 0 {
			e.low = max(c.granted/8, 1)
		}
	}
	e.remember(c, asked)
	if c.allowed && !c.readOnly {
		e.note(now, c.cost)
	}
	if c.done != nil {
		e.last = now
	}
	return stranded
}

// doubt has the store asked again in a second.
func (e *entry) doubt() {
	e.until = min(e.until, e.asked+recheck)
	e.refusedUntil = min(e.refusedUntil, e.until)
}

// owe keeps units to settle for the next call. Where there are some already, those of this one are stranded.
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

func sameStarts(a, b []count) bool {
	for i := range a {
		if a[i].start != b[i].start {
			return false
		}
	}
	return true
}

// earliestEnd returns when the first window of the answer ends, by the monotonic clock, if Redis judged at asked. It
// judged later; its clock is told in whole milliseconds, rounded down.
func (c *call) earliestEnd(asked time.Duration) time.Duration {
	end := c.counts[0].end
	for _, n := range c.counts[1:] {
		end = min(end, n.end)
	}
	const longest = int64(1 << 42) // ms, some 139 years
	return asked + time.Duration(min(end*1000-c.now-1, longest))*time.Millisecond
}

// remember keeps or drops the refusal. A window of a minute or less that is spent stays so until it ends, but for what
// other replicas give back, which is little. One that is longer is asked again, less often each time. Either ends with the
// first of all windows, whose counter would be shown.
func (e *entry) remember(c *call, asked time.Duration) {
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
		if w.Per <= Minute && w.Denies(State{Spent: e.counts[i].spent}, c.cost) {
			e.refusedUntil = e.until
		}
	}
}

func deniesAny(windows []Window, counts []count, cost int64) bool {
	for i, w := range windows {
		if w.Denies(State{Spent: counts[i].spent}, cost) {
			return true
		}
	}
	return false
}

// prepare decides what a call that goes to the store takes along. A lease that a spend does not fit in goes back in the
// same step, so that the store judges by all that is left.
func (e *entry) prepare(c *call, now time.Duration) verdict {
	if c.exact {
		e.low = 0 // nor is anything leased when the window ends
	}
	if !c.exact && !c.readOnly && e.overtakes(c, now) {
		return sendNow
	}
	if e.asking && !c.exact {
		if !c.readOnly && !c.deferred && e.expected >= c.cost && c.cost > 0 {
			e.expected -= c.cost
			c.deferred = true
			return sendAgain
		}
		return sendNow // beside the call that wants units
	}
	if !c.exact && !c.readOnly {
		c.want = e.wants(now, c.cost)
	}
	if c.want > 0 {
		c.asks, e.asking, e.expected = true, true, c.want
	}
	c.settle = e.settlement(now, c.readOnly && !c.exact)
	return sendNow
}

// renewal is a call that only leases, while what is left of the lease is spent.
func (e *entry) renewal(now time.Duration) *call {
	c := &call{id: e.id, layout: e.layout, entry: e, asks: true, want: e.wants(now, 0)}
	e.asking, e.expected, e.renewing = true, c.want, c
	c.settle = e.settlement(now, true)
	return c
}

// withdraw returns the renewal if it is queued, and keeps it from being sent. Else it returns nil.
func (e *entry) withdraw() *call {
	r := e.renewing
	if r == nil || !r.state.CompareAndSwap(queued, left) {
		return nil
	}
	e.renewing = nil
	return r
}

// overtakes has a call do what a queued renewal was to do, and reports whether there was one. What was left to be spent
// meanwhile goes back too: the call does not fit in it.
func (e *entry) overtakes(c *call, now time.Duration) bool {
	r := e.withdraw()
	if r == nil {
		return false
	}
	c.asks, c.want, c.settle = true, r.want, r.settle
	if e.owed == nil && sameStarts(r.settle.counts, e.counts) {
		s := e.settlement(now, false)
		c.settle.units += s.units
		c.settle.back += s.back
	}
	return true
}

// worthAhead reports whether the lease has ended with its window, and the key is so busy that it will need the next one:
// that it is likely to spend twice before the first window ends again. One that was quiet for as long as that is not.
func (e *entry) worthAhead(now time.Duration) bool {
	if e.counts == nil || e.low == 0 || e.asking || now < e.until+afterEdge {
		return false
	}
	first := e.counts[0].end - e.counts[0].start
	for _, n := range e.counts[1:] {
		first = min(first, n.end-n.start)
	}
	if now-e.last >= time.Duration(first)*time.Second {
		return false
	}
	return float64(e.lately(now))*min(1, float64(first)/rateSpan.Seconds()) >= 2
}

// lost is how many units may stay charged although nobody spends them: all that a call was about whose answer is lost, unless
// it was not run; what it was to give back, if it was not; and its cost where the caller had left before the answer came.
func (c *call) lost() int64 {
	var cost int64
	if !c.readOnly {
		cost = c.cost
	}
	switch {
	case c.err != nil && c.unrun:
		return c.settle.back
	case c.err != nil:
		return c.want + c.settle.back + cost
	case c.allowed && c.unheard:
		return cost
	}
	return 0
}
