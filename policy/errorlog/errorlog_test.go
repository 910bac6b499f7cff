package errorlog_test

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/errorlog"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// What is kept of each kind of refusal, and that nothing of the request's target is.
func TestRefusals(t *testing.T) {
	handle := keys.NewHasher([]byte("pepper")).Handle(secret())
	known := errorlog.Entry{Key: "key_0001", Route: "job"}
	for _, c := range []struct {
		request *policy.Request
		key     keys.Grant
		err     error
		want    errorlog.Entry
	}{
		{request(func(r *policy.Request) { r.Headers = r.Headers[1:] }), keys.Grant{}, nil, errorlog.Entry{Reason: "missing_credential", Code: 401, Route: "job"}},
		{request(func(r *policy.Request) { r.Headers[0].Value += "~" }), keys.Grant{}, nil, errorlog.Entry{Reason: "malformed_credential", Code: 401, Route: "job"}},
		{request(), keys.Grant{}, keys.ErrUnknown, errorlog.Entry{Reason: "unknown_key", Code: 401, Route: "job", Handle: handle}},
		{request(), keys.Grant{}, keys.ErrBusy, errorlog.Entry{Reason: "lookup_refused", Code: 503, Route: "job", Handle: handle}},
		{request(), keys.Grant{}, errors.New("away"), errorlog.Entry{Reason: "undecided", Code: 503, Route: "job", Handle: handle}},
		{request(), grant("key_0001", func(k *keys.Key) { k.Status = keys.Revoked }), nil, errorlog.Entry{Reason: "revoked_key", Code: 401, Route: "job", Handle: handle}},
		{request(), grant("key_0001", inactive), nil, errorlog.Entry{Reason: "inactive_key", Code: 401}},
		{request(), grant("key_0001", func(k *keys.Key) { k.ExpiresAt = noon().Add(-time.Hour) }), nil, errorlog.Entry{Reason: "expired_key", Code: 401}},
		{request(), grant("key_0001", func(k *keys.Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }), nil, errorlog.Entry{Reason: "address_denied", Code: 403}},
		{request(), grant("key_0001", func(k *keys.Key) { k.Scopes = []string{"submit"} }), nil, errorlog.Entry{Reason: "scope_denied", Code: 403}},
		{request(func(r *policy.Request) { r.Target = "/nowhere?api_key=SECRET" }), grant("key_0001"), nil, errorlog.Entry{Reason: "route_denied", Code: 403, Key: "key_0001"}},
		{request(), grant("key_0001"), nil, errorlog.Entry{Reason: "undecided", Code: 503}}, // its limits
	} {
		w := newWorld(t)
		check := w.check(c.request, c.key, c.err)
		w.log.Refused(check)
		got, want := w.take(1)[0], c.want
		if want.Route == "" && want.Key == "" {
			want.Key, want.Route = known.Key, known.Route
		}
		want.API, want.Time, want.Address, want.Request = "jobs", noon(), "203.0.113.77", "5a0c0f5e-0000-4000-8000-0000000000aa"
		want.Decision = check.Decision().ID
		if got.Handle != "" && want.Reason == "malformed_credential" {
			want.Handle = got.Handle // of what was presented
		}
		if got != want {
			t.Errorf("%s\nwant %s", &got, &want)
		}
		if text := got.Pack(); strings.Contains(text, "SECRET") || strings.Contains(text, secret()) || strings.Contains(text, "/v1") {
			t.Errorf("it holds a part of the request: %s", text)
		}
	}
}

// What lets a request pass, and what belongs to no API, is not kept.
func TestWhatIsNoRefusal(t *testing.T) {
	w := newWorld(t)
	w.log.Refused(w.check(request(func(r *policy.Request) { r.Target = "/health" }), keys.Grant{}, nil))
	w.log.Refused(w.check(request(func(r *policy.Request) { r.Host = "other.example.com" }), keys.Grant{}, nil))
	w.take(0)
}

// The policy says what is kept of addresses; a client may write anything in its request id.
func TestWhatClientsSend(t *testing.T) {
	for form, want := range map[string]string{"full": "203.0.113.77", "network": "203.0.113.0/24", "none": ""} {
		w := newWorld(t, "error_log: {addresses: "+form+"}")
		w.log.Refused(w.refused("key_0001"))
		w.log.Failed(failure("key_0001"))
		for _, e := range w.take(2) {
			if e.Address != want {
				t.Errorf("%s: %q, want %q", form, e.Address, want)
			}
		}
	}
	for id, want := range map[string]string{
		"":                      "",
		"1-67891233-abcdef_.:+": "1-67891233-abcdef_.:+",
		strings.Repeat("x", 64): strings.Repeat("x", 64),
		strings.Repeat("x", 65): "",
		"/v1?api_key=SECRET":    "",
		"a b":                   "",
		"a\x1b[31m":             "",
		"é":                     "",
	} {
		w := newWorld(t)
		w.log.Refused(w.check(request(func(r *policy.Request) { r.Headers[1].Value = id }), grant("key_0001", inactive), nil))
		if got := w.take(1)[0].Request; got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

// A client may name its request as its key.
func TestRequestIDHoldsNoKey(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{secret(), "r:" + secret(), "jb_ofAnotherForm1234567"} {
		w.log.Refused(w.check(request(func(r *policy.Request) { r.Headers[1].Value = id }), grant("key_0001", inactive), nil))
		if got := w.take(1)[0].Request; got != "" {
			t.Errorf("refused: the request is %q", got)
		}
		f := failure("key_0001")
		f.Request = id
		w.log.Failed(f)
		if got := w.take(1)[0].Request; got != "" {
			t.Errorf("failed: the request is %q", got)
		}
	}
}

// A second has one entry of each key and reason, and the number of the others.
func TestOneOfEachKeyAndReason(t *testing.T) {
	w := newWorld(t)
	var last time.Time
	for range 5 {
		for range 10 {
			w.log.Refused(w.refused("key_0001"))
			w.log.Refused(w.refused("key_0002"))
			w.log.Refused(w.check(request(), keys.Grant{}, keys.ErrUnknown))
			f := failure("key_0001")
			f.Ended = w.now()
			w.log.Failed(f)
			w.wait(10 * time.Millisecond)
		}
		w.wait(900 * time.Millisecond)
		for _, e := range w.take(4) {
			if e.More != 9 || !e.Until.Equal(w.now()) || e.Time.Before(last) {
				t.Errorf("%s", &e)
			}
		}
		last = w.now()
	}
	w.take(0)
	if s := w.log.Stats(); s != (errorlog.Stats{Sampled: 5 * 4 * 9}) {
		t.Errorf("%+v", s)
	}
}

// An API has a hundred entries in a second, of which fifty may be of failures; all others are
// counted by their reason.
func TestTooMany(t *testing.T) {
	w := newWorld(t)
	for i := range 70 {
		w.log.Failed(failure(fmt.Sprintf("key_f%03d", i)))
	}
	w.wait(time.Millisecond)
	for i := range 200 {
		for range 3 {
			w.log.Refused(w.refused(fmt.Sprintf("key_r%03d", i)))
		}
	}
	w.wait(999 * time.Millisecond)
	got := w.take(102)
	if total(got) != 670 {
		t.Errorf("the entries stand for %d requests", total(got))
	}
	want := []errorlog.Entry{
		{API: "jobs", Time: noon().Add(time.Millisecond), Reason: "inactive_key", More: 450, Until: w.now(), Others: true},
		{API: "jobs", Time: noon(), Reason: errorlog.Upstream, More: 20, Until: w.now(), Others: true},
	}
	for _, e := range got {
		for _, w := range want {
			if e.Others && e.Reason == w.Reason && e != w {
				t.Errorf("%s, want %s", &e, &w)
			}
		}
	}
	if s := w.log.Stats(); s.Others != 470 || s.Sampled != 100 {
		t.Errorf("%+v", s)
	}
	// What Redis has no room for is counted with them.
	w.log.NotKept(&errorlog.Entry{API: "jobs", Time: noon(), Reason: "rate_limited", More: 6})
	w.log.NotKept(&errorlog.Entry{API: "jobs", Time: noon(), Reason: errorlog.Upstream})
	for _, e := range w.take(2) {
		if n := map[string]uint64{"rate_limited": 7, errorlog.Upstream: 1}[e.Reason]; !e.Others || e.More != n {
			t.Errorf("%s", &e)
		}
	}
}

// Whatever comes at once, and is taken meanwhile, is told of or counted.
func TestNothingIsLost(t *testing.T) {
	w := newWorld(t)
	var checks []*policy.Check
	for i := range 120 {
		checks = append(checks, w.refused(fmt.Sprintf("key_%04d", i)))
	}
	const each, workers = 5000, 4
	var work, taking sync.WaitGroup
	for n := range workers {
		work.Go(func() {
			for i := range each {
				if (i+n)%7 == 0 {
					w.log.Failed(failure(fmt.Sprintf("key_%04d", i%90)))
				} else {
					w.log.Refused(checks[(i*i+n)%len(checks)])
				}
			}
		})
	}
	done := make(chan bool)
	var got uint64
	taking.Go(func() {
		for {
			select {
			case <-done:
				got += total(w.log.Take(nil))
				return
			default:
				got += total(w.log.Take(nil))
			}
		}
	})
	work.Wait()
	close(done)
	taking.Wait()
	if got != workers*each {
		t.Errorf("%d of %d", got, workers*each)
	}
}

// In a flood, a refusal costs no memory and waits for nobody: not for who adds or takes entries.
func TestFloodsCostNothing(t *testing.T) {
	w := newWorld(t)
	kept := w.refused("key_0000")
	for i := range errorlog.PerPeriod {
		w.log.Refused(w.refused(fmt.Sprintf("key_%04d", i)))
	}
	beyond, failed := w.refused("key_beyond"), failure("key_beyond")
	w.log.WhileLocked("jobs", func() {
		n := testing.AllocsPerRun(1000, func() {
			w.log.Refused(kept)
			w.log.Refused(beyond)
			w.log.Failed(failed)
		})
		if n > 0 && !keystest.RaceDetector {
			t.Errorf("%v allocations", n)
		}
	})
	got := w.take(errorlog.PerPeriod + 2)
	if total(got) < errorlog.PerPeriod+3000 {
		t.Errorf("they stand for %d requests", total(got))
	}
}

// An API takes 60 KB at most, however many keys have errors of however many kinds.
func TestMemory(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 60)
	var checks []*policy.Check
	for i := range 2000 {
		r := request(func(r *policy.Request) {
			r.Headers[1].Value, r.Peer = long, netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")
		})
		checks = append(checks, w.check(r, grant("key_"+long[:56]+fmt.Sprintf("%04d", i), inactive), nil))
	}
	bytes := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := bytes()
	for range 50 {
		for _, c := range checks {
			w.log.Refused(c)
		}
	}
	used := bytes() - before
	t.Logf("%d bytes", used)
	if used > 60<<10 {
		t.Errorf("%d bytes, want 60 KB at most", used)
	}
	runtime.KeepAlive(checks)
	w.take(errorlog.PerPeriod + 1)
}

// What an access log says is believed only as far as there can be such a thing.
func TestFailuresThatCannotBe(t *testing.T) {
	w := newWorld(t)
	for _, change := range []func(*errorlog.Failure){
		func(f *errorlog.Failure) { f.API = "other" },
		func(f *errorlog.Failure) { f.Route = "none" },
		func(f *errorlog.Failure) { f.Key = "key_}{x" },
		func(f *errorlog.Failure) { f.Key = "/unknown_key" },
		func(f *errorlog.Failure) { f.Code = 499 },
		func(f *errorlog.Failure) { f.Code = 600 },
		func(f *errorlog.Failure) { f.Decision = "" },
		func(f *errorlog.Failure) { f.Decision = "?api_key=SECRET" },
	} {
		f := failure("key_0001")
		change(f)
		if w.log.Failed(f) {
			t.Errorf("%+v is taken", f)
		}
	}
	w.take(0)
	if s := w.log.Stats(); s.Ignored != 8 {
		t.Errorf("%+v", s)
	}
	for _, ended := range []time.Time{noon().Add(-time.Hour), noon().Add(time.Hour), {}} {
		f := failure("")
		f.Ended, f.Request = ended, "a b"
		want := errorlog.Entry{API: "jobs", Time: noon(), Reason: errorlog.Upstream, Route: "job", Code: 503, Address: "203.0.113.77", Decision: f.Decision}
		if !w.log.Failed(f) {
			t.Errorf("%+v is not taken", f)
		}
		if got := w.take(1)[0]; got != want {
			t.Errorf("%s, want %s", &got, &want)
		}
	}
}

func TestPacking(t *testing.T) {
	for _, e := range []errorlog.Entry{
		{Time: noon(), Reason: "rate_limited"},
		{Time: noon().Add(7 * time.Millisecond), Reason: errorlog.Upstream, Route: "job", Code: 503, Address: "2001:db8::/48", Decision: "d", Request: "q", Handle: "h", More: 1 << 60, Until: noon().Add(time.Second)},
	} {
		text := e.Pack()
		if !strings.HasPrefix(text, fmt.Sprintf(`{"t":%d,`, e.Time.UnixMilli())) {
			t.Errorf("%s does not begin with its time", text)
		}
		if got, err := errorlog.Unpack(text); err != nil || got != e {
			t.Errorf("%s: %v, want %s", &got, err, &e)
		}
	}
	for _, text := range []string{"", "{}", "[]", `{"t":"SECRET"}`, `{"t":1}`, "SECRET"} {
		if _, err := errorlog.Unpack(text); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestReasons(t *testing.T) {
	all := errorlog.Reasons()
	if len(all) != len(policy.Reasons())-1 || all[len(all)-1] != errorlog.Upstream {
		t.Errorf("%q", all)
	}
	if last := policy.Reason(len(policy.Reasons()) - 1); last >= errorlog.UpstreamPlace || errorlog.UpstreamPlace >= errorlog.ReasonCount {
		t.Errorf("there is no room for %s", last)
	}
}

func BenchmarkRefused(b *testing.B) {
	for _, kind := range []string{"alike", "others"} {
		b.Run(kind, func(b *testing.B) {
			w := newWorld(b)
			for i := range errorlog.PerPeriod {
				w.log.Refused(w.refused(fmt.Sprintf("key_%04d", i)))
			}
			check := w.refused(map[string]string{"alike": "key_0000", "others": "key_beyond"}[kind])
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					w.log.Refused(check)
				}
			})
		})
	}
}

// Requests that are only counted have a time, also where a Take comes between the two steps.
func TestCountAtTheEndOfAPeriod(t *testing.T) {
	w := newWorld(t)
	w.log.CountLate("jobs", errorlog.UpstreamPlace)
	w.wait(time.Second)
	got := w.log.Take(nil)
	if len(got) != 1 || got[0].More != 1 || !got[0].Time.Equal(w.now()) || got[0].Until.Before(got[0].Time) {
		t.Errorf("%v", got)
	}
}
