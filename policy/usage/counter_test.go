package usage_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/usage"
)

// jobs is an API with six routes: job, which costs 1, submit, which costs 5, and r0 to r3.
func jobs() *policy.Set {
	routes := map[string]*policy.Route{"job": {Name: "job", Cost: 1}, "submit": {Name: "submit", Cost: 5}}
	for i := range 4 {
		name := fmt.Sprint("r", i)
		routes[name] = &policy.Route{Name: name, Cost: 1}
	}
	return policy.New(policy.Spec{Name: "jobs", Routes: routes, Usage: policy.DefaultUsage()})
}

func grant(id, team string) *keys.Grant {
	return keys.NewGrant(&keys.Key{ID: id, API: "jobs", Team: team, Name: "a name", LimitID: id})
}

func finished(key string, status int, took time.Duration) usage.Finished {
	return usage.Finished{API: "jobs", Route: "job", Key: key, Team: "team_a", Start: noon(), Status: status, BytesIn: 3, BytesOut: 5, Took: took}
}

func noon() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }

// tally adds deltas up, by subject and day, in a form that can be compared.
type tally map[string]uint64

func (y tally) add(d *usage.Delta) {
	of := fmt.Sprintf("%+v %s ", d.Subject, d.Day)
	for _, h := range d.Decided {
		at := fmt.Sprintf("%s%s %d ", of, h.Route, h.Hour.OfDay())
		y[at+"allowed"] += h.Allowed
		y[at+"denied"] += h.Denied
		y[at+"cost"] += h.Cost
	}
	for _, r := range d.Reasons {
		y[of+r.Reason] += r.N
	}
	for _, s := range d.Seen {
		at := of + s.Route + " "
		for class, n := range s.Status {
			y[at+usage.ClassName(class)] += n
		}
		y[at+"in"] += s.BytesIn
		y[at+"out"] += s.BytesOut
		y[at+"ms"] += s.Millis
		y[at+"max"] = max(y[at+"max"], s.MaxMillis)
		y[at+"slow"] += s.Slow
	}
}

func (y tally) take(c *usage.Counter, b *usage.Batch, group int) {
	c.Take(b, group, noon())
	for i := range b.Deltas {
		y.add(&b.Deltas[i])
	}
	c.Release(b)
}

func (y tally) mustBe(t *testing.T, want tally) {
	t.Helper()
	for _, m := range []tally{y, want} {
		for name, n := range m {
			if n == 0 {
				delete(m, name)
			}
		}
	}
	if reflect.DeepEqual(y, want) {
		return
	}
	for name := range want {
		if y[name] != want[name] {
			t.Errorf("%s: %d, want %d", name, y[name], want[name])
		}
	}
	for name := range y {
		if _, known := want[name]; !known {
			t.Errorf("%s: %d, want none", name, y[name])
		}
	}
}

// Whatever is counted, from whichever goroutine, in whichever part it is taken: nothing is lost and
// nothing is counted twice, for the keys and for the API.
func TestNothingIsLostAndNothingTwice(t *testing.T) {
	set := jobs()
	api, _ := set.Find("jobs", "job")
	c := usage.NewCounter(0, set.Find)
	reasons := []policy.Reason{policy.Allowed, policy.Allowed, policy.RateLimited, policy.ScopeDenied}
	routes := []string{"job", "submit", "r0", "r1", "r2", "r3", ""}
	var mu sync.Mutex
	want, got := tally{}, tally{}
	count := func(random *rand.Rand) {
		mine := tally{}
		for range 5_000 {
			id := fmt.Sprintf("key_%04d", random.IntN(300)*random.IntN(300)/300)
			_, route := set.Find("jobs", routes[random.IntN(len(routes))])
			reason, at := reasons[random.IntN(len(reasons))], noon().Add(time.Duration(random.IntN(20))*time.Hour)
			d := usage.Delta{Subject: usage.Subject{API: "jobs", Key: id}, Day: usage.DayOf(at)}
			key := grant(id, "team_a")
			if random.IntN(10) == 0 {
				key, d.Key = nil, ""
			}
			var decided usage.RouteHour
			decided.Hour = usage.HourOf(at)
			if route != nil && (key != nil || reason == policy.Allowed) {
				decided.Route = route.Name
			}
			if reason == policy.Allowed {
				decided.Allowed = 1
				if route != nil {
					decided.Cost = uint64(route.Cost)
				}
			} else {
				decided.Denied = 1
				d.Reasons = []usage.ReasonCount{{Reason: reason.String(), N: 1}}
			}
			d.Decided = []usage.RouteHour{decided}
			c.Decided(api, key, route, reason, at)
			if random.IntN(3) == 0 {
				f := finished(d.Key, 200+100*random.IntN(4), time.Duration(random.IntN(2000))*time.Millisecond)
				if !c.Finished(&f) {
					t.Error("an entry of the log is ignored")
				}
				seen := usage.RouteSeen{Route: "job", Seen: usage.Seen{BytesIn: 3, BytesOut: 5, Millis: uint64(f.Took.Milliseconds()), MaxMillis: uint64(f.Took.Milliseconds())}}
				seen.Status[usage.ClassOf(f.Status)] = 1
				if f.Took > time.Second {
					seen.Slow = 1
				}
				mine.add(&usage.Delta{Subject: d.Subject, Day: usage.DayOf(noon()), Seen: []usage.RouteSeen{seen}})
				if d.Key != "" {
					mine.add(&usage.Delta{Subject: usage.Subject{API: "jobs"}, Day: usage.DayOf(noon()), Seen: []usage.RouteSeen{seen}})
				}
			}
			mine.add(&d)
			if d.Key != "" {
				d.Key = ""
				mine.add(&d)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for name, n := range mine {
			if strings.HasSuffix(name, " max") {
				want[name] = max(want[name], n)
			} else {
				want[name] += n
			}
		}
	}
	counted := make(chan bool)
	var taking sync.WaitGroup
	taking.Go(func() {
		var b usage.Batch
		for group := 0; ; group++ {
			select {
			case <-counted:
				got.take(c, &b, -1)
				return
			default:
				got.take(c, &b, group%usage.Groups)
			}
		}
	})
	var counting sync.WaitGroup
	for i := range 4 {
		counting.Go(func() { count(rand.New(rand.NewPCG(1, uint64(i)))) })
	}
	counting.Wait()
	close(counted)
	taking.Wait()
	got.mustBe(t, want)
	if s := c.Stats(); s.Keys != 0 || s.Others != 0 || s.Ignored != 0 {
		t.Errorf("%+v", s)
	}
}

// A key that was touched already, and one in memory that is used again, costs no allocation.
func TestCountingAllocatesNothing(t *testing.T) {
	set := jobs()
	api, route := set.Find("jobs", "job")
	c, g := usage.NewCounter(0, set.Find), grant("key_0001", "team_a")
	f := finished("key_0001", 200, 0)
	n := testing.AllocsPerRun(1000, func() {
		c.Decided(api, g, route, policy.Allowed, noon())
		c.Decided(api, g, route, policy.RateLimited, noon())
		c.Decided(api, nil, route, policy.UnknownKey, noon())
		c.Finished(&f)
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
	// Nor do a thousand keys in every period, once there was one.
	var grants []*keys.Grant
	for i := range 1000 {
		grants = append(grants, grant(fmt.Sprintf("key_%04d", i), "team_a"))
	}
	var b usage.Batch
	n = testing.AllocsPerRun(20, func() {
		for _, g := range grants {
			c.Decided(api, g, route, policy.Allowed, noon())
		}
		c.Take(&b, -1, noon())
		c.Release(&b)
	})
	if n > 50 && !keystest.RaceDetector { // those of the sum for the API, and what a collection takes away
		t.Errorf("%v allocations for a thousand keys", n)
	}
}

// heap returns the bytes in use after f, less those before, and keeps what f returns.
func heap(f func() any) (bytes uint64) {
	measure := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := measure()
	kept := f()
	after := measure()
	runtime.KeepAlive(kept)
	return after - before
}

// A touched key takes at most 150 bytes of a server, also where the log tells of it.
func TestMemoryOfATouchedKey(t *testing.T) {
	set := jobs()
	api, route := set.Find("jobs", "job")
	for _, n := range []int{40_000, 70_000, 100_000} {
		grants := make([]*keys.Grant, n)
		for i := range grants {
			grants[i] = grant(fmt.Sprintf("key_%016x", i), "team_a")
		}
		for _, logged := range []bool{false, true} {
			bytes := heap(func() any {
				c := usage.NewCounter(0, set.Find)
				for _, g := range grants {
					c.Decided(api, g, route, policy.Allowed, noon())
					if logged {
						f := finished(g.ID(), 200, time.Second)
						c.Finished(&f)
					}
				}
				return c
			})
			each := float64(bytes) / float64(n)
			t.Logf("%d keys, access log %v: %.0f bytes each", n, logged, each)
			if each > 150 {
				t.Errorf("%d keys, access log %v: %.0f bytes each, want 150 at most", n, logged, each)
			}
		}
		runtime.KeepAlive(grants)
	}
}

// Keys beyond the bound are counted together, so that the sums stay exact, and that is counted.
func TestTooManyKeys(t *testing.T) {
	set := jobs()
	api, route := set.Find("jobs", "job")
	c := usage.NewCounter(64, set.Find)
	const n = 1000
	for i := range n {
		c.Decided(api, grant(fmt.Sprintf("key_%04d", i), "team_a"), route, policy.Allowed, noon())
		f := finished(fmt.Sprintf("key_%04d", i), 200, 0)
		c.Finished(&f)
	}
	var b usage.Batch
	c.Take(&b, -1, noon())
	var keyed, others, all, seen uint64
	for _, d := range b.Deltas {
		var m usage.Measures
		for _, h := range d.Decided {
			m.Decided.Add(h.Decided)
		}
		for _, s := range d.Seen {
			m.Seen.Add(&s.Seen)
		}
		switch {
		case d.Key != "":
			keyed += m.Allowed
		case d.Others:
			others += m.Allowed
		default:
			all, seen = m.Allowed, m.Observed()
		}
	}
	if keyed == 0 || keyed > 64 || keyed+others != n || all != n || seen != n {
		t.Errorf("%d for keys, %d for others, %d for the API, %d seen", keyed, others, all, seen)
	}
	if got := c.Stats().Others; got != 2*others {
		t.Errorf("%d counted as others, want %d decisions and as many entries of the log", got, others)
	}
}

// Who can write to the port of the access log creates nothing that no policy and no key could have.
func TestEntriesThatNameWhatThereIsNot(t *testing.T) {
	c := usage.NewCounter(0, jobs().Find)
	for _, change := range []func(f *usage.Finished){
		func(f *usage.Finished) { f.API = "other" },
		func(f *usage.Finished) { f.Route = "none" },
		func(f *usage.Finished) { f.Key = "key_}{x" },
		func(f *usage.Finished) { f.Key = "api/jobs" },
		func(f *usage.Finished) { f.Key = "key_" + strings.Repeat("x", 61) },
		func(f *usage.Finished) { f.Team = strings.Repeat("x", 129) },
	} {
		f := finished("key_0001", 200, 0)
		change(&f)
		if c.Finished(&f) {
			t.Errorf("%+v is taken", f)
		}
	}
	var b usage.Batch
	if c.Take(&b, -1, noon()); len(b.Deltas) > 0 || c.Stats().Ignored != 6 {
		t.Errorf("%+v, %+v", b.Deltas, c.Stats())
	}
}

// Values that no request has do not overflow what is added up.
func TestEntriesWithAbsurdValues(t *testing.T) {
	c := usage.NewCounter(0, jobs().Find)
	for range 3 {
		f := finished("key_0001", -7, 1<<62)
		f.BytesIn, f.BytesOut = 1<<64-1, 1<<64-1
		c.Finished(&f)
	}
	f := finished("key_0001", 99_999, -time.Hour)
	c.Finished(&f)
	var b usage.Batch
	c.Take(&b, -1, noon())
	i := slices.IndexFunc(b.Deltas, func(d usage.Delta) bool { return d.Key != "" })
	s := b.Deltas[i].Seen[0].Seen
	if s.Status[usage.StatusNone] != 4 || s.BytesIn > 4<<40 || s.MaxMillis > 99_999_999 || s.Millis > 3*99_999_999 || s.Slow != 3 {
		t.Errorf("%+v", s)
	}
}

// The hot keys come with every Take, the others once in as many as there are groups.
func TestHotKeysComeFirst(t *testing.T) {
	set := jobs()
	api, route := set.Find("jobs", "job")
	c := usage.NewCounter(0, set.Find)
	hot, cold := grant("key_hot1", ""), grant("key_cold", "")
	hots, colds, lists := 0, 0, 0
	var b usage.Batch
	for group := range 2 * usage.Groups {
		for range 20 {
			c.Decided(api, hot, route, policy.Allowed, noon())
		}
		if group == 0 {
			c.Decided(api, cold, route, policy.Allowed, noon())
		}
		c.Take(&b, group, noon())
		for _, d := range b.Deltas {
			switch d.Key {
			case "key_hot1":
				if hots++; d.Decided[0].Allowed != 20 {
					t.Errorf("%+v", d)
				}
				if d.List {
					lists++
				}
			case "key_cold":
				colds++
			}
		}
		c.Release(&b)
	}
	if hots != 2*usage.Groups || colds != 1 {
		t.Errorf("the hot key came %d times, the cold one %d times", hots, colds)
	}
	if lists < 2 || lists > 3 { // once, and once more after its turn
		t.Errorf("the hot key is to be put on its list %d times", lists)
	}
}

// What only shadow_mode let pass is counted as allowed, and once more for the reason. It has spent
// of its limits if these are the reason.
func TestShadowsAreCounted(t *testing.T) {
	set := jobs()
	api, submit := set.Find("jobs", "submit")
	c := usage.NewCounter(0, set.Find)
	key := grant("key_0001", "team_a")
	c.Decided(api, key, submit, policy.Allowed, noon())
	c.Shadowed(api, key, submit, policy.RateLimited, noon())
	c.Shadowed(api, key, submit, policy.ScopeDenied, noon())
	c.Shadowed(api, nil, submit, policy.UnknownKey, noon())
	var b usage.Batch
	got := tally{}
	got.take(c, &b, -1)
	want := tally{}
	hour := usage.RouteHour{Route: "submit", Hour: usage.HourOf(noon())}
	reason := func(r policy.Reason) usage.ReasonCount { return usage.ReasonCount{Reason: usage.ShadowReason(r), N: 1} }
	hour.Decided = usage.Decided{Allowed: 3, Cost: 10}
	ofKey := usage.Delta{Subject: usage.Subject{API: "jobs", Key: "key_0001"}, Day: usage.DayOf(noon()), Decided: []usage.RouteHour{hour},
		Reasons: []usage.ReasonCount{reason(policy.RateLimited), reason(policy.ScopeDenied)}}
	want.add(&ofKey)
	hour.Decided = usage.Decided{Allowed: 4, Cost: 10}
	want.add(&usage.Delta{Subject: usage.Subject{API: "jobs"}, Day: usage.DayOf(noon()), Decided: []usage.RouteHour{hour},
		Reasons: append(ofKey.Reasons, reason(policy.UnknownKey))})
	got.mustBe(t, want)
}
