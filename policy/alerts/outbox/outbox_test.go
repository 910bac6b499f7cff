package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/policy/alerts/outbox"
	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
)

func backends(t *testing.T, run func(w *world)) {
	t.Run("redis", func(t *testing.T) { run(newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)) })
	t.Run("embedded", func(t *testing.T) {
		c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { _ = c.Close() })
		run(newWorld(t, c))
	})
}

// world is servers and a receiver, on a clock ahead of Redis'.
type world struct {
	*testing.T
	client redis.UniversalClient
	ahead  atomic.Int64 // ms

	mu      sync.Mutex
	got     []string // ids, as they came
	failing int      // so many more tries fail
	during  func()   // while the receiver has a message
}

func newWorld(t *testing.T, c redis.UniversalClient) *world { return &world{T: t, client: c} }

func (w *world) box() *outbox.Outbox {
	return outbox.New(w.client, func() time.Duration { return time.Duration(w.ahead.Load()) * time.Millisecond })
}

func (w *world) wait(d time.Duration) { w.ahead.Add(d.Milliseconds()) }

func (w *world) post(_ context.Context, id string, _ time.Time, body []byte) error {
	w.mu.Lock()
	during := w.during
	w.during = nil
	w.mu.Unlock()
	if during != nil {
		during()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing > 0 {
		w.failing--
		return errors.New("answered 500")
	}
	w.got = append(w.got, id+string(body))
	return nil
}

func (w *world) sender() *outbox.Sender {
	return outbox.NewSender(w.box(), map[string]outbox.Post{outbox.Webhook: w.post})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// raise raises the n-th notice.
func (w *world) raise(n int) outbox.Raised {
	w.Helper()
	got, err := w.box().Raise(w.Context(), notice(n))
	w.must(err)
	return got
}

func notice(n int) *outbox.Notice {
	return &outbox.Notice{ID: fmt.Sprint("msg_", n), Marks: []string{fmt.Sprint(n), fmt.Sprint(n, "/lower")}, Until: time.Now().Add(time.Hour), Body: []byte(`{"n":1}`)}
}

func (w *world) mustHave(ids ...string) {
	w.Helper()
	if fmt.Sprint(w.got) != fmt.Sprint(ids) {
		w.Errorf("the receiver has %q, want %q", w.got, ids)
	}
}

func (w *world) list() (dead, waiting []string) {
	w.Helper()
	all, err := w.box().List(w.Context())
	w.must(err)
	for _, l := range all {
		text := fmt.Sprintf("%s %d %s %s", l.ID, l.Tries, l.Error, l.Body)
		if l.Dead {
			dead = append(dead, text)
		} else {
			waiting = append(waiting, text)
		}
	}
	return dead, waiting
}

// However many servers see the same, it is raised once, and with it what is below.
func TestRaisedOnce(t *testing.T) {
	backends(t, func(w *world) {
		var raised atomic.Int64
		var work sync.WaitGroup
		for range 8 {
			work.Go(func() {
				if got, err := w.box().Raise(w.Context(), notice(1)); err != nil {
					w.Error(err)
				} else if got == outbox.Told {
					raised.Add(1)
				}
			})
		}
		work.Wait()
		if raised.Load() != 1 {
			w.Errorf("raised %d times", raised.Load())
		}
		lower := notice(2)
		lower.Marks = []string{"1/lower"}
		if got, err := w.box().Raise(w.Context(), lower); err != nil || got != outbox.Before {
			w.Errorf("the lower threshold: %v, %v", got, err)
		}
		silent := notice(3)
		silent.Body = nil
		if got, err := w.box().Raise(w.Context(), silent); err != nil || got != outbox.Told {
			w.Errorf("without a message: %v, %v", got, err)
		}
		w.must(w.sender().Tick(w.Context()))
		w.must(w.sender().Tick(w.Context()))
		w.mustHave(`msg_1{"n":1}`)
		if n := w.client.HLen(w.Context(), "tg:v1:alerts:{alerts}:messages").Val(); n != 0 {
			w.Errorf("%d messages stay", n)
		}
	})
}

// A receiver that fails twice gets the message at the third try, after pauses that grow.
func TestTriedAgain(t *testing.T) {
	backends(t, func(w *world) {
		w.raise(1)
		w.failing = 2
		s := w.sender()
		tick := func(ahead time.Duration) {
			w.wait(ahead)
			w.must(s.Tick(w.Context()))
		}
		tick(0)
		tick(2 * time.Second) // too early, by any chance
		if w.failing != 1 {
			w.Errorf("%d failures left", w.failing)
		}
		tick(3 * time.Second)
		tick(7 * time.Second) // too early
		w.mustHave()
		if _, waiting := w.list(); fmt.Sprint(waiting) != `[msg_1 2 answered 500 {"n":1}]` {
			w.Errorf("waiting: %q", waiting)
		}
		tick(8 * time.Second)
		w.mustHave(`msg_1{"n":1}`)
		if got := s.Stats(); got != (outbox.SenderStats{Sent: 1, Failed: 2, Holder: true}) {
			w.Errorf("%+v", got)
		}
	})
}

// What fails for a day is given up, stays to be seen, and goes again when somebody says so.
func TestGivenUpAndReplayed(t *testing.T) {
	backends(t, func(w *world) {
		w.raise(1)
		w.failing = 1000
		s, began := w.sender(), w.ahead.Load()
		for s.Stats().Dead == 0 {
			w.must(s.Tick(w.Context()))
			w.wait(time.Minute)
		}
		took, tries := time.Duration(w.ahead.Load()-began)*time.Millisecond, s.Stats().Failed
		if took < outbox.GiveUpAfter-2*time.Hour || took > outbox.GiveUpAfter+2*time.Minute || tries < 12 || tries > 40 {
			w.Errorf("given up after %v and %d tries", took, tries)
		}
		dead, waiting := w.list()
		if len(dead) != 1 || len(waiting) != 0 || !strings.HasPrefix(dead[0], fmt.Sprintf("msg_1 %d answered 500", tries)) {
			w.Fatalf("dead: %q, waiting: %q", dead, waiting)
		}
		w.failing = 0
		w.wait(48 * time.Hour)
		w.must(s.Tick(w.Context()))
		w.mustHave()
		if err := w.box().Replay(w.Context(), "msg_2"); !errors.Is(err, outbox.ErrNotDead) {
			w.Errorf("another: %v", err)
		}
		w.must(w.box().Replay(w.Context(), "msg_1"))
		if err := w.box().Replay(w.Context(), "msg_1"); !errors.Is(err, outbox.ErrNotDead) {
			w.Errorf("again: %v", err)
		}
		w.failing = 1 // it has another day
		w.must(s.Tick(w.Context()))
		w.wait(time.Minute)
		w.must(s.Tick(w.Context()))
		w.mustHave(`msg_1{"n":1}`)
	})
}

// Of two servers one sends. When it is gone, the other does: what the first had claimed, and later
// than it may still be at it.
func TestFailover(t *testing.T) {
	backends(t, func(w *world) {
		first, second := w.sender(), w.sender()
		w.must(first.Tick(w.Context()))
		w.raise(1)
		w.must(second.Tick(w.Context()))
		w.mustHave()
		if !first.Stats().Holder || second.Stats().Holder {
			w.Error("the second sends")
		}
		ctx, kill := context.WithCancel(w.Context())
		w.during, w.failing = kill, 1
		w.must(first.Tick(ctx)) // it dies with the message in its hands
		w.must(second.Tick(w.Context()))
		w.mustHave()
		w.wait(outbox.LockTime)
		w.raise(2)
		w.must(second.Tick(w.Context()))
		w.mustHave(`msg_2{"n":1}`)
		w.wait(outbox.ClaimTime - outbox.LockTime)
		w.must(second.Tick(w.Context()))
		w.mustHave(`msg_2{"n":1}`, `msg_1{"n":1}`)
	})
}

// One that slept while it sent, and was overtaken, changes nothing any more.
func TestOvertaken(t *testing.T) {
	backends(t, func(w *world) {
		w.raise(1)
		slow, fast := w.sender(), w.sender()
		w.during = func() {
			w.wait(outbox.ClaimTime)
			w.mu.Lock()
			w.failing = 1
			w.mu.Unlock()
			w.must(fast.Tick(w.Context())) // fails, and keeps the message
		}
		w.must(slow.Tick(w.Context()))
		if s := slow.Stats(); s.Overtaken != 1 || s.Sent != 0 {
			w.Errorf("%+v", s)
		}
		if _, waiting := w.list(); fmt.Sprint(waiting) != `[msg_1 1 answered 500 {"n":1}]` {
			w.Errorf("waiting: %q", waiting)
		}
	})
}

// Neither what waits nor what was given up grows without end.
func TestBounds(t *testing.T) {
	backends(t, func(w *world) {
		_, err := w.client.Pipelined(w.Context(), func(p redis.Pipeliner) error {
			for i := range 10_000 {
				p.ZAdd(w.Context(), "tg:v1:alerts:{alerts}:due", redis.Z{Score: 1e15, Member: fmt.Sprint("other", i)})
			}
			for i := range outbox.MaxDead {
				p.ZAdd(w.Context(), "tg:v1:alerts:{alerts}:dead", redis.Z{Score: float64(i), Member: fmt.Sprint("dead", i)})
				p.HSet(w.Context(), "tg:v1:alerts:{alerts}:messages", fmt.Sprint("dead", i), `{"body":{}}`)
			}
			return nil
		})
		w.must(err)
		if got := w.raise(1); got != outbox.NoRoom {
			w.Errorf("one too many: %v", got)
		}
		w.must(w.client.Del(w.Context(), "tg:v1:alerts:{alerts}:due").Err())
		w.must(w.client.HSet(w.Context(), "tg:v1:alerts:{alerts}:messages", "broken", "?").Err())
		w.must(w.client.ZAdd(w.Context(), "tg:v1:alerts:{alerts}:due", redis.Z{Member: "broken"}, redis.Z{Member: "gone"}).Err())
		w.must(w.sender().Tick(w.Context()))
		dead, waiting := w.list()
		if len(dead) != outbox.MaxDead || len(waiting) != 0 || !strings.HasPrefix(dead[len(dead)-1], "broken 1 the record cannot be read") || strings.HasPrefix(dead[0], "dead0 ") {
			w.Errorf("%d dead, the last %q, waiting %q", len(dead), dead[len(dead)-1], waiting)
		}
		if err := w.box().Replay(w.Context(), "broken"); err == nil || errors.Is(err, outbox.ErrNotDead) {
			w.Errorf("%v", err)
		}
	})
}

func TestPause(t *testing.T) {
	last := time.Duration(0)
	for tries := 1; tries < 30; tries++ {
		least, most := outbox.Pause(tries, 0), outbox.Pause(tries, 1)
		if least != most/2 || least < last/2 || most > 2*time.Hour {
			t.Errorf("after %d tries %v to %v", tries, least, most)
		}
		last = most
	}
	if last != 2*time.Hour || outbox.Pause(1, 1) != 5*time.Second {
		t.Errorf("%v", last)
	}
}

// Run sends at each tick, and tells of a store that is away.
func TestRun(t *testing.T) {
	s := redistest.Start(t, redistest.SocketOnly)
	w := newWorld(t, s.Admin)
	w.raise(1)
	ctx, cancel := context.WithCancel(t.Context())
	ticks, told, done := make(chan time.Time), make(chan error, 2), make(chan struct{})
	go func() {
		defer close(done)
		w.sender().WithTicks(ticks).Run(ctx, func(err error) { told <- err })
	}()
	ticks <- time.Time{}
	ticks <- time.Time{} // is taken when the first is done
	w.must(s.Admin.Do(t.Context(), "ACL", "SETUSER", "default", "-zrangebyscore").Err())
	ticks <- time.Time{}
	if err := <-told; err == nil {
		t.Error("no error")
	}
	cancel()
	<-done
	w.mustHave(`msg_1{"n":1}`)
}

func as(t *testing.T, s *redistest.Server, name string, acl connect.ACL) redis.UniversalClient {
	t.Helper()
	s.AddUser(t, name, connect.Join(connect.ConnectionACL(), acl).Rules())
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.Socket, Username: name, Password: name, DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// everything does what a server and the commands do.
func everything(t *testing.T, admin, server, cli redis.UniversalClient) error {
	t.Helper()
	w := newWorld(t, server)
	w.must(admin.FlushAll(t.Context()).Err())
	w.must(admin.ScriptFlush(t.Context()).Err())
	w.must(admin.ZAdd(t.Context(), "tg:v1:alerts:{alerts}:due", redis.Z{Member: "gone"}).Err())
	for i := range outbox.MaxDead {
		w.must(admin.ZAdd(t.Context(), "tg:v1:alerts:{alerts}:dead", redis.Z{Score: float64(i), Member: fmt.Sprint("dead", i)}).Err())
	}
	for n := range 2 {
		if _, err := w.box().Raise(t.Context(), notice(n)); err != nil {
			return err
		}
	}
	s := w.sender()
	w.failing = 1
	for range 2 {
		if err := s.Tick(t.Context()); err != nil {
			return err
		}
		w.wait(25 * time.Hour)
		w.failing = 1
	}
	w.client = cli
	if _, err := w.box().List(t.Context()); err != nil {
		return err
	}
	for n := range 2 {
		if err := w.box().Replay(t.Context(), fmt.Sprint("msg_", n)); err != nil && !errors.Is(err, outbox.ErrNotDead) {
			return err
		}
	}
	return nil
}

// Servers and commands need each of their rights, and no other.
func TestACL(t *testing.T) {
	s := redistest.Start(t, redistest.SocketOnly)
	server, cli := as(t, s, "server", outbox.ServerACL()), as(t, s, "cli", outbox.CLIACL())
	if err := everything(t, s.Admin, server, cli); err != nil {
		t.Fatal(err)
	}
	denied := func(err error) bool {
		return err != nil && (strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "can't run this command"))
	}
	less := func(acl connect.ACL, command string) connect.ACL {
		acl.Commands = slices.DeleteFunc(slices.Clone(acl.Commands), func(c string) bool { return c == command })
		return acl
	}
	for _, command := range outbox.ServerACL().Commands {
		if err := everything(t, s.Admin, as(t, s, "server-"+command, less(outbox.ServerACL(), command)), cli); !denied(err) {
			t.Errorf("a server without %s: %v", command, err)
		}
	}
	for _, command := range outbox.CLIACL().Commands {
		if err := everything(t, s.Admin, server, as(t, s, "cli-"+command, less(outbox.CLIACL(), command))); !denied(err) {
			t.Errorf("commands without %s: %v", command, err)
		}
	}
}

// A turn is one server's until its time is over, and longer if it asks for more.
func TestTurn(t *testing.T) {
	backends(t, func(w *world) {
		turn := func(token string, hold time.Duration) bool {
			w.Helper()
			mine, now, err := w.box().Turn(w.Context(), "look", token, hold)
			w.must(err)
			if off := time.Until(now.Add(-time.Duration(w.ahead.Load()) * time.Millisecond)).Abs(); mine && off > time.Minute || !mine && !now.IsZero() {
				w.Errorf("now is %v", now)
			}
			return mine
		}
		if !turn("first", time.Minute) || turn("second", time.Minute) {
			w.Error("it is not the first's alone")
		}
		w.wait(50 * time.Second)
		if !turn("first", time.Hour) {
			w.Error("the first gets no more time")
		}
		w.wait(59 * time.Minute)
		if turn("second", time.Minute) {
			w.Error("the second takes it before the end")
		}
		w.wait(time.Minute)
		if !turn("second", time.Minute) || turn("first", time.Minute) {
			w.Error("it is not the second's at the end")
		}
		if mine, _, err := w.box().Turn(w.Context(), "another", "first", time.Minute); err != nil || !mine {
			w.Errorf("another turn: %v", err)
		}
		w.must(w.client.Del(w.Context(), "tg:v1:alerts:{alerts}:turn:look").Err())
		w.must(w.client.HSet(w.Context(), "tg:v1:alerts:{alerts}:turn:look", "a", "b").Err())
		if _, _, err := w.box().Turn(w.Context(), "look", "first", time.Minute); err == nil {
			w.Error("no error for what is no turn")
		}
	})
}

// A message goes out by each way once, under an id of its own, and one that does not take it keeps
// no other from it.
func TestWaysOut(t *testing.T) {
	backends(t, func(w *world) {
		n := notice(1)
		n.To = []string{outbox.Slack, outbox.Webhook, outbox.Mail}
		if got, err := w.box().Raise(w.Context(), n); err != nil || got != outbox.Told {
			w.Fatal(got, err)
		}
		var mu sync.Mutex
		got, broken := map[string]string{}, true
		way := func(name string) outbox.Post {
			return func(_ context.Context, id string, _ time.Time, body []byte) error {
				mu.Lock()
				defer mu.Unlock()
				if name == outbox.Slack && broken {
					return errors.New("answered 500")
				}
				got[name] += id + string(body)
				return nil
			}
		}
		s := outbox.NewSender(w.box(), map[string]outbox.Post{outbox.Webhook: way(outbox.Webhook), outbox.Slack: way(outbox.Slack)})
		w.must(s.Tick(w.Context()))
		if len(got) != 1 || got[outbox.Webhook] != `msg_1{"n":1}` {
			w.Errorf("%v", got)
		}
		all, err := w.box().List(w.Context())
		w.must(err)
		var left []string
		for _, l := range all {
			left = append(left, l.To+" "+l.Error)
		}
		slices.Sort(left)
		if fmt.Sprint(left) != "[mail the server that sends has no mail slack answered 500]" {
			w.Errorf("%q", left)
		}
		broken = false
		w.wait(5 * time.Second)
		w.must(s.Tick(w.Context()))
		if id, body, _ := strings.Cut(got[outbox.Slack], "{"); len(got) != 2 || len(id) != len("msg_")+32 || body != `"n":1}` {
			w.Errorf("%v", got)
		}
		for range 40 { // mail is given up, and goes the same way when it is replayed
			w.wait(2 * time.Hour)
			w.must(s.Tick(w.Context()))
		}
		all, err = w.box().List(w.Context())
		w.must(err)
		if len(all) != 1 || !all[0].Dead || all[0].To != outbox.Mail {
			w.Fatalf("%+v", all)
		}
		w.must(w.box().Replay(w.Context(), all[0].ID))
		w.must(outbox.NewSender(w.box(), nil).Tick(w.Context())) // another server has the lock
		w.wait(outbox.LockTime)
		w.must(outbox.NewSender(w.box(), map[string]outbox.Post{outbox.Mail: way(outbox.Mail)}).Tick(w.Context()))
		if !strings.HasPrefix(got[outbox.Mail], all[0].ID+"{") {
			w.Errorf("%v", got)
		}
	})
}
