package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect/redistest"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
)

// What is written is found: by key, by API, by reason, by time, by decision.
func TestWrittenAndRead(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		w.keys["key_0002"] = "jobs"
		first := w.refuse("key_0001")
		w.refuse("key_0001")
		w.wait(time.Minute)
		unknown := w.refuse("")
		w.wait(time.Minute)
		w.fail("key_0002")
		w.wait(time.Second)
		since := w.now()
		w.tick()
		w.wait(time.Minute)
		second := w.refuse("key_0001")
		w.tick()
		w.tick() // nothing

		w.mustHave(journal.Question{}, first, unknown, "failed_key_0002", second)
		w.mustHave(journal.Question{Key: "key_0001"}, first, second)
		w.mustHave(journal.Question{Key: "key_none"})
		w.mustHave(journal.Question{Reasons: []string{"unknown_key", errorlog.Upstream}}, unknown, "failed_key_0002")
		w.mustHave(journal.Question{Since: since}, first, second) // the first stands for one that came later
		w.mustHave(journal.Question{Most: 2}, "failed_key_0002", second)
		if a := w.ask(journal.Question{Most: 2}); !a.Cut {
			t.Errorf("%+v", a)
		}
		if a := w.ask(journal.Question{Most: 4}); a.Cut || a.Full || len(a.Others) > 0 || a.Entries[0].More != 1 || a.Entries[0].Key != "key_0001" || a.Entries[1].Key != "" || a.Entries[0].API != "jobs" {
			t.Errorf("%+v", a)
		}
		for _, d := range []string{first, unknown, "failed_key_0002", second} {
			if e, err := w.reader.Find(t.Context(), []string{"other", "jobs"}, d); err != nil || e == nil || e.Decision != d || e.API != "jobs" {
				t.Errorf("decision %s: %v, %v", d, e, err)
			}
		}
		for _, d := range []string{"0000000000000000", ""} {
			if e, err := w.reader.Find(t.Context(), []string{"other", "jobs"}, d); err != nil || e != nil {
				t.Errorf("decision %q: %v, %v", d, e, err)
			}
		}
		if e, err := w.reader.Latest(t.Context(), "jobs", "key_0001"); err != nil || e == nil || e.Decision != second {
			t.Errorf("latest: %v, %v", e, err)
		}
		if e, err := w.reader.Latest(t.Context(), "jobs", "key_none"); err != nil || e != nil {
			t.Errorf("latest of none: %v, %v", e, err)
		}
		if s := w.writer.Stats(); s != (journal.Stats{Written: 4}) {
			t.Errorf("%+v", s)
		}
		for _, name := range w.names() {
			if left := c.PTTL(t.Context(), name).Val(); left < 34*24*time.Hour || left > 35*24*time.Hour {
				t.Errorf("%s ends in %v", name, left)
			}
		}
	})
}

// Of a key, and of a reason without one, the last hundred are kept.
func TestEntriesOfAKey(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		var key, unknown []string
		for range 130 {
			key, unknown = append(key, w.refuse("key_0001")), append(unknown, w.refuse(""))
			w.wait(time.Second)
			w.tick()
		}
		w.mustHave(journal.Question{Key: "key_0001"}, key[30:]...)
		w.mustHave(journal.Question{Reasons: []string{"unknown_key"}}, unknown[30:]...)
		if a := w.ask(journal.Question{Key: "key_0001"}); !a.Full {
			t.Errorf("%+v", a)
		}
	})
}

// Over all servers, an API gets a hundred entries a second, and what is too much is counted.
func TestEntriesOfASecond(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		const servers, seconds, each = 5, 10, 90
		var logs []*errorlog.Log
		var writers []*journal.Writer
		for range servers {
			w.restart()
			logs, writers = append(logs, w.log), append(writers, w.writer)
		}
		began := time.Now()
		for second := range seconds {
			for s := range servers {
				w.log, w.writer = logs[s], writers[s]
				for i := range each {
					w.refuse(fmt.Sprintf("key_%02d_%03d", s, (second*each+i)%1000))
				}
				w.tick()
			}
			w.wait(time.Second)
		}
		w.wait(time.Minute)
		for s := range servers {
			w.log, w.writer = logs[s], writers[s]
			w.tick() // what was not kept
		}
		told, counted := 0, uint64(0)
		for _, e := range w.ask(journal.Question{}).Entries {
			if e.Others {
				counted += e.More
			} else {
				told++
			}
		}
		// Two seconds' worth can come at once.
		if most := (seconds+2)*100 + int(100*time.Since(began).Seconds()); told > most || told < seconds*100 {
			t.Errorf("%d entries in %d seconds, want %d to %d", told, seconds, seconds*100, most)
		}
		if told+int(counted) != servers*seconds*each {
			t.Errorf("%d told and %d counted of %d", told, counted, servers*seconds*each)
		}
		// A key's question says so, too.
		if a := w.ask(journal.Question{Key: "key_00_000"}); len(a.Others) == 0 {
			t.Errorf("%+v", a)
		}
	})
}

// An API has so many bytes, of which keys that have not failed for longest give theirs back.
func TestBytesOfAnAPI(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		const most = 200_000
		w := newWorld(t, c, func(o *journal.Options) { o.Bounds = journal.Bounds{Entries: 100, Bytes: most, PerSecond: 100} })
		last := ""
		for i := range 600 {
			last = w.refuse(fmt.Sprintf("key_%06d", i))
			w.wait(time.Millisecond)
			if i%10 == 9 {
				w.wait(time.Second)
				w.tick()
			}
			if i%100 == 99 {
				w.mustBeSized(most)
			}
		}
		got := w.ask(journal.Question{}).Entries
		if n := len(got); n < 100 || n > 300 || got[n-1].Decision != last {
			t.Errorf("%d entries are left, the last is %s, want %s", n, got[n-1].Decision, last)
		}
		if s := w.writer.Stats(); s.GivenBack < 300 || s.GivenBack+uint64(len(got)) != 600 || s.Written != 600 {
			t.Errorf("%+v", s)
		}
	})
}

// mustBeSized wants the sizes that are noted to be those of the lists, and to be at most this.
func (w *world) mustBeSized(most int) {
	w.Helper()
	sizes := w.client.HGetAll(w.Context(), "tg:v1:errors:{jobs}:sizes").Val()
	total := 0
	for member, text := range sizes {
		if member == "total" || member == "due" {
			continue
		}
		want := journal.PerList
		for _, e := range w.client.LRange(w.Context(), "tg:v1:errors:{jobs}:of:"+member, 0, -1).Val() {
			want += len(e) + journal.PerEntry
		}
		if text != fmt.Sprint(want) {
			w.Errorf("%s has %s bytes, noted are %d", member, text, want)
		}
		total += want
	}
	if sizes["total"] != fmt.Sprint(total) || total > most {
		w.Errorf("all have %d bytes, noted are %s, want %d at most", total, sizes["total"], most)
	}
	if n := w.client.ZCard(w.Context(), "tg:v1:errors:{jobs}").Val(); int(n) != len(sizes)-2 {
		w.Errorf("%d lists in the index, %d sizes", n, len(sizes)-2)
	}
}

// Sizes that were lost, or speak of lists that are gone, are set right.
func TestSizesAreSetRight(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		for range 3 {
			w.refuse("key_0001")
			w.refuse("key_0002")
			w.tick()
		}
		w.must(c.Del(t.Context(), "tg:v1:errors:{jobs}:sizes").Err())
		w.refuse("key_0001")
		w.refuse("key_0002")
		w.tick()
		w.mustBeSized(100_000)
		w.must(c.Del(t.Context(), "tg:v1:errors:{jobs}:of:key_0001").Err())
		w.refuse("key_0001")
		w.tick()
		w.mustBeSized(100_000)
	})
}

// What is older than the policy says is gone: entries of a key that has new ones, and of one that
// has not.
func TestOldEntries(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c, func(o *journal.Options) { o.Days = func(string) int { return 3 } })
		w.refuse("key_0001")
		w.refuse("key_0002")
		w.tick()
		w.wait(2 * 24 * time.Hour)
		second := w.refuse("key_0001")
		w.tick()
		w.wait(36 * time.Hour)
		third := w.refuse("key_0001")
		w.tick()
		w.mustHave(journal.Question{}, second, third)
		w.mustBeSized(100_000)
		if s := w.writer.Stats(); s.GivenBack != 1 {
			t.Errorf("%+v", s)
		}
		// A clock that goes back keeps nobody out for long, and takes nothing away.
		w.wait(-3 * 24 * time.Hour)
		fourth := w.refuse("key_0003")
		w.tick()
		w.mustHave(journal.Question{}, fourth, second, third)
	})
}

// unreliable is a network: it loses what is sent, or what comes back.
type unreliable struct {
	random *rand.Rand
	off    bool
	losses int
}

var errLost = errors.New("i/o timeout")

func (u *unreliable) DialHook(next redis.DialHook) redis.DialHook { return next }
func (u *unreliable) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (u *unreliable) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch n := u.random.IntN(10); {
		case u.off || n < 4:
			return next(ctx, cmd)
		case n < 7:
			_ = next(ctx, cmd)
		}
		u.losses++
		cmd.SetErr(errLost)
		return errLost
	}
}

// Whatever is lost on the way, there or back, each entry is written once.
func TestLostRequestsAndReplies(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		client := redis.NewClient(c.(*redis.Client).Options())
		t.Cleanup(func() { _ = client.Close() })
		net := &unreliable{random: rand.New(rand.NewPCG(1, 2))}
		client.AddHook(net)
		w.writer = w.newWriter(client)
		asked := 0
		for range 200 {
			for i := range 40 {
				w.refuse(fmt.Sprintf("key_%04d", i))
				asked++
			}
			w.wait(time.Second)
			_ = w.writer.Tick(t.Context())
			if n := w.writer.Stats().Waiting; n > 41 {
				t.Fatalf("%d entries wait", n)
			}
		}
		net.off = true
		w.tick()
		w.wait(time.Minute)
		w.tick()
		found, seen := uint64(0), map[string]bool{}
		for _, e := range w.ask(journal.Question{}).Entries {
			if seen[e.Decision] && !e.Others {
				t.Errorf("decision %s is there twice", e.Decision)
			}
			seen[e.Decision] = true
			if found += e.More; !e.Others {
				found++
			}
		}
		if net.losses < 100 || found != uint64(asked) {
			t.Errorf("%d losses: the entries stand for %d requests of %d", net.losses, found, asked)
		}
	})
}

// A store that takes nothing is told of and tried again; what cannot be written at the end is
// counted.
func TestStoreThatTakesNothing(t *testing.T) {
	server := redistest.Start(t, redistest.SocketOnly)
	for _, trouble := range []struct {
		name, want string
		begin, end []any
	}{
		{"full", "OOM", []any{"config", "set", "maxmemory", 1}, []any{"config", "set", "maxmemory", 0}},
		{"read-only", "NOREPLICAS", []any{"config", "set", "min-replicas-to-write", 1}, []any{"config", "set", "min-replicas-to-write", 0}},
		{"refuses", "NOPERM", []any{"acl", "setuser", "writer", "-eval", "-evalsha"}, []any{"acl", "setuser", "writer", "+eval", "+evalsha"}},
		{"refuses in a script", "can't run this command", []any{"acl", "setuser", "writer", "-rpush"}, []any{"acl", "setuser", "writer", "+rpush"}},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			server.Do(t, "flushall")
			w := newWorld(t, as(t, server, "writer", journal.ServerACL()))
			w.reader = journal.NewReader(server.Admin)
			server.Do(t, trouble.begin...)
			for range 50 {
				for i := range 150 {
					w.refuse(fmt.Sprintf("key_%04d", i))
				}
				w.wait(time.Second)
				if err := w.writer.Tick(t.Context()); err == nil || !strings.Contains(err.Error(), trouble.want) {
					t.Fatalf("%v, want %s", err, trouble.want)
				}
			}
			if s := w.writer.Stats(); s.Waiting != 101 || s.Failed != 50*101 || s.Written != 0 {
				t.Errorf("%+v", s)
			}
			server.Do(t, trouble.end...)
			w.wait(time.Minute)
			w.tick()
			w.wait(time.Minute)
			w.tick()
			n := uint64(0)
			for _, e := range w.ask(journal.Question{}).Entries {
				if n += e.More; !e.Others {
					n++
				}
			}
			if n != 50*150 {
				t.Errorf("the entries stand for %d requests of %d", n, 50*150)
			}

			server.Do(t, trouble.begin...)
			w.refuse("key_0001")
			ended, end := context.WithCancel(t.Context())
			end()
			var told []error
			w.writer.Run(ended, func(err error) { told = append(told, err) })
			server.Do(t, trouble.end...)
			if s := w.writer.Stats(); len(told) != 1 || s.Dropped != 1 || s.Waiting != 0 {
				t.Errorf("%v, %+v", told, s)
			}
		})
	}
}

// What somebody else has put in the place of a list, or into one, does no harm.
func TestForeignValues(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		w.must(c.Set(t.Context(), "tg:v1:errors:{jobs}:of:key_0001", "x", 0).Err())
		w.must(c.RPush(t.Context(), "tg:v1:errors:{jobs}:of:key_0002", "x", `{"t":"SECRET"}`).Err())
		w.refuse("key_0001")
		second := w.refuse("key_0002")
		w.wait(time.Millisecond)
		third := w.refuse("key_0003")
		w.tick()
		w.mustHave(journal.Question{}, second, third)
		if s := w.writer.Stats(); s.Dropped != 1 || s.Written != 2 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
		w.must(c.ZAdd(t.Context(), "tg:v1:errors:{jobs}", redis.Z{Member: "key_0001", Score: float64(w.now().UnixMilli())}).Err())
		w.mustHave(journal.Question{}, second, third)
		w.must(c.Set(t.Context(), "tg:v1:errors:{other}", "x", 0).Err())
		if a, err := w.reader.Ask(t.Context(), journal.Question{API: "other"}); err != nil || len(a.Entries) > 0 {
			t.Errorf("%v, %v", a, err)
		}
	})
}

// An access log creates nothing for keys that there are not, or not in the API that it names.
func TestFailuresOfKeysThatThereAreNot(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		w.keys["key_mine"], w.keys["key_other"] = "jobs", "other"
		w.looked = errors.New("the store is away")
		for _, id := range []string{"key_mine", "key_other", "key_none", "key_none"} {
			w.fail(id)
		}
		if err := w.writer.Tick(t.Context()); err == nil || len(w.names()) > 0 {
			t.Errorf("%v, %q", err, w.names())
		}
		w.looked = nil
		w.tick()
		w.mustHave(journal.Question{}, "failed_key_mine")
		if s := w.writer.Stats(); s.Unknown != 3 || s.Written != 1 || s.Failed != 3 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
		w.fail("") // of a public route
		w.tick()
		w.mustHave(journal.Question{Reasons: []string{errorlog.Upstream}}, "failed_key_mine", "failed_")
		if names := w.names(); len(names) != 4 {
			t.Errorf("%q", names)
		}
	})
}

// Run writes at each tick, and all that is left at its end.
func TestRun(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		ticks := make(chan time.Time)
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan bool)
		w.writer.WithTicks(ticks)
		go func() {
			defer close(ended)
			w.writer.Run(ctx, func(err error) { t.Error(err) })
		}()
		first := w.refuse("key_0001")
		ticks <- time.Now()
		ticks <- time.Now() // the one before is written
		w.mustHave(journal.Question{}, first)
		w.wait(time.Second)
		second := w.refuse("key_0001")
		end()
		<-ended
		w.mustHave(journal.Question{}, first, second)
	})
}

// Who follows gets each entry once, and soon; whatever else there is.
func TestFollow(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		w := newWorld(t, c)
		next := func(f *journal.Follower, want ...string) {
			t.Helper()
			entries, err := f.Next(t.Context())
			w.must(err)
			var got []string
			for _, e := range entries {
				got = append(got, e.Decision)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		}
		w.refuse("key_0001")
		w.tick()
		w.wait(time.Hour)
		before := w.refuse("key_0001")
		w.tick()
		since := w.now().Add(-time.Minute)
		all := w.reader.Follow(journal.Question{API: "jobs", Since: since})
		one := w.reader.Follow(journal.Question{API: "jobs", Since: since, Key: "key_0001", Reasons: []string{"inactive_key"}})
		next(all, before)
		next(one, before)
		next(all)
		for range 3 {
			w.wait(time.Second)
			a := w.refuse("key_0001")
			w.wait(time.Millisecond)
			b := w.refuse("")
			w.tick()
			next(all, a, b)
			next(all)
			next(one, a)
		}
		var many []string
		for range 250 { // more than are kept, between two looks
			w.wait(time.Second)
			many = append(many, w.refuse("key_0001"))
			w.tick()
		}
		next(one, many[150:]...)
		next(all, many[150:]...)
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := all.Next(ended); err == nil {
			t.Error("no error of a store that cannot be asked")
		}
	})
}
