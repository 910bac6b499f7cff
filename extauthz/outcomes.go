package extauthz

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy"
)

// outcomes counts decisions by API, route, plan and reason, and what access logs say of allowed
// requests by API and route. All these names are of policies, and only what happens takes room: 150
// bytes for a pair of route and plan, and 2 KB for a route of which a log tells. What a policy no
// longer has is forgotten at the second load after that, so that a scrape still sees the last of
// it.
type outcomes struct {
	reasons []policy.Reason
	current atomic.Pointer[outcomeTable]

	mu       sync.Mutex
	decided  map[decidedName]*decidedCounts
	observed map[observedName]*observedCounts

	decisions, requests, durations *prometheus.Desc
}

// decidedName names counts of decisions: plan is "" where no key was known or the API has no plans,
// route where none matched, api where none was found.
type decidedName struct{ api, route, plan string }

type decidedCounts []atomic.Uint64 // by reason

type observedName struct{ api, route string }

type observedCounts struct {
	codes [len(statusClasses)]atomic.Uint64
	took  *histogram
}

// statusClasses are what the label code says; the first is of a request that got no response.
var statusClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// requestBounds are the classic buckets of how long requests take.
var requestBounds = [...]time.Duration{
	10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second,
}

// outcomeTable finds the counts of a policy set by the indexes of its parts, without hashing names.
type outcomeTable struct {
	set  *policy.Set
	apis []apiOutcomes // by API.Index
}

type apiOutcomes struct {
	plans    int
	decided  []atomic.Pointer[decidedCounts] // by route and, within it, by plan; none is the first
	observed []atomic.Pointer[observedCounts]
}

func newOutcomes() *outcomes {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &outcomes{
		reasons: policy.Reasons(), decided: map[decidedName]*decidedCounts{}, observed: map[observedName]*observedCounts{},
		decisions: desc("tollgate_decisions_total", "Decisions by API, route, plan of the key and reason; reason allowed lets the request pass. A label is empty where nothing is known.", "api", "route", "plan", "reason"),
		requests:  desc("tollgate_requests_observed_total", "Allowed requests that an access log has told the end of, by the class of their HTTP status; none got no response.", "api", "route", "code"),
		durations: desc("tollgate_request_duration_seconds", "How long allowed requests took, as access logs say: from their arrival at the proxy to the last byte of the response.", "api", "route"),
	}
}

// follow prepares for a set that is about to be in force.
func (o *outcomes) follow(set *policy.Set) {
	t := &outcomeTable{set: set, apis: make([]apiOutcomes, len(set.APIs()))}
	for i, api := range set.APIs() {
		routes, plans := api.Size()
		t.apis[i] = apiOutcomes{
			plans: plans, decided: make([]atomic.Pointer[decidedCounts], (routes+1)*(plans+1)),
			observed: make([]atomic.Pointer[observedCounts], routes),
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.current.Swap(t)
	if before == nil {
		return
	}
	for name := range o.decided {
		if !has(before.set, name.api, name.route, name.plan) && !has(set, name.api, name.route, name.plan) {
			delete(o.decided, name)
		}
	}
	for name := range o.observed {
		if !has(before.set, name.api, name.route, "") && !has(set, name.api, name.route, "") {
			delete(o.observed, name)
		}
	}
}

// has reports whether a set has what is named.
func has(set *policy.Set, api, route, plan string) bool {
	a, r := set.Find(api, route)
	return api == "" || a != nil && (route == "" || r != nil) && (plan == "" || set.KnowsPlan(api, plan) == nil)
}

// decision counts what a check has ended with, of a request that was decided by that set.
func (o *outcomes) decision(set *policy.Set, check *policy.Check) {
	api, route, plan, reason := check.API(), check.Route(), check.Plan(), check.Decision().Reason
	name := decidedName{}
	t := o.current.Load()
	if api == nil || t == nil || t.set != set { // or the set was replaced meanwhile
		if api != nil {
			name.api = api.Name()
		}
		(*o.decidedBy(name.of(check)))[reason].Add(1)
		return
	}
	at, place := &t.apis[api.Index()], 0
	if route != nil {
		place = (route.Index + 1) * (at.plans + 1)
	}
	if plan != nil {
		place += plan.Index + 1
	}
	counts := at.decided[place].Load()
	if counts == nil {
		name.api = api.Name()
		counts = o.decidedBy(name.of(check))
		at.decided[place].Store(counts)
	}
	(*counts)[reason].Add(1)
}

// of adds the names of the route and the plan.
func (n decidedName) of(check *policy.Check) decidedName {
	if r := check.Route(); r != nil {
		n.route = r.Name
	}
	if check.Plan() != nil {
		n.plan = strings.Clone(check.Key().Plan) // else it keeps what it is a part of
	}
	return n
}

func (o *outcomes) decidedBy(name decidedName) *decidedCounts {
	o.mu.Lock()
	defer o.mu.Unlock()
	counts := o.decided[name]
	if counts == nil {
		made := make(decidedCounts, len(o.reasons))
		counts = &made
		o.decided[name] = counts
	}
	return counts
}

// total returns how many decisions are counted.
func (o *outcomes) total() (n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, counts := range o.decided {
		for reason := range *counts {
			n += (*counts)[reason].Load()
		}
	}
	return n
}

// finished counts what an access log says of the end of an allowed request. Names that the set does
// not have are left out: whoever reaches the port can write any.
func (o *outcomes) finished(set *policy.Set, e *AccessLogEntry) {
	api, route := set.Find(e.API, e.Route)
	if route == nil {
		return
	}
	var counts *observedCounts
	if t := o.current.Load(); t != nil && t.set == set {
		at := &t.apis[api.Index()].observed[route.Index]
		if counts = at.Load(); counts == nil {
			counts = o.observedOf(observedName{api.Name(), route.Name})
			at.Store(counts)
		}
	} else {
		counts = o.observedOf(observedName{api.Name(), route.Name})
	}
	class := e.Code / 100
	if class < 0 || class >= len(counts.codes) {
		class = 0
	}
	counts.codes[class].Add(1)
	counts.took.observe(e.Duration)
}

func (o *outcomes) observedOf(name observedName) *observedCounts {
	o.mu.Lock()
	defer o.mu.Unlock()
	counts := o.observed[name]
	if counts == nil {
		counts = &observedCounts{took: newHistogram(requestBounds[:])}
		o.observed[name] = counts
	}
	return counts
}

// Describe implements prometheus.Collector.
func (o *outcomes) Describe(out chan<- *prometheus.Desc) {
	out <- o.decisions
	out <- o.requests
	out <- o.durations
}

// Collect implements prometheus.Collector.
func (o *outcomes) Collect(out chan<- prometheus.Metric) {
	o.mu.Lock()
	decided, observed := maps.Clone(o.decided), maps.Clone(o.observed)
	o.mu.Unlock()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for name, counts := range decided {
		for _, reason := range o.reasons {
			if n := (*counts)[reason].Load(); n > 0 {
				counter(o.decisions, n, name.api, name.route, name.plan, reason.String())
			}
		}
	}
	for name, counts := range observed {
		for class, code := range statusClasses {
			if n := counts.codes[class].Load(); n > 0 {
				counter(o.requests, n, name.api, name.route, code)
			}
		}
		out <- counts.took.metric(o.durations, name.api, name.route)
	}
}
