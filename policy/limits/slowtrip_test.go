package limits

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// far returns a client of the backend that is a round trip of this time away.
func (b *backend) far(t *testing.T, trip time.Duration) redis.UniversalClient {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		server, err := d.DialContext(ctx, b.network, b.addr)
		if err != nil {
			return nil, err
		}
		near, away := net.Pipe()
		go carry(server, away, trip/2)
		go carry(away, server, trip/2)
		return near, nil
	}
	c := redis.NewClient(&redis.Options{
		Dialer: dial, MaxRetries: -1, ContextTimeoutEnabled: true, Username: b.user, Password: b.user, DisableIdentity: true, PoolSize: 40,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// carry copies what arrives, each part after a time.
func carry(to, from net.Conn, after time.Duration) {
	type part struct {
		bytes []byte
		at    time.Time
	}
	parts := make(chan part, 10_000)
	go func() {
		defer to.Close()
		for p := range parts {
			<-time.After(time.Until(p.at))
			if _, err := to.Write(p.bytes); err != nil {
				_, _ = io.Copy(io.Discard, from)
			}
		}
	}()
	defer close(parts)
	for {
		buffer := make([]byte, 64<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			parts <- part{buffer[:n], time.Now().Add(after)}
		}
		if err != nil {
			return
		}
	}
}

// fates is what became of spends.
type fates struct{ undecided, charged float64 } // parts of all

// spendFar simulates spends of so many limit ids, from a Redis that is trip away, each within deadline. As little as it
// takes to be late, real machines take it.
func spendFar(t *testing.T, ids, spends int, trip, deadline time.Duration) (sum fates) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLeases(NewStore(nil, nil), Options{Exact: true, Timeout: deadline})
		var redis sync.Mutex
		var under sync.Map
		twin := newTwin(time.Now)
		var allowed, charged atomic.Int64
		l.batches.send = func(_ context.Context, calls []*call) {
			for _, c := range calls {
				if other, twice := under.LoadOrStore(c.id, &calls[0]); twice && other != &calls[0] {
					t.Errorf("%s is in two pipelines at once", c.id)
				}
			}
			<-time.After(trip/2 + rand.N(trip/25))
			redis.Lock()
			for _, c := range calls {
				if err := c.read(twin.run(c)); err != nil || !c.allowed {
					t.Errorf("%v, %v", c.allowed, err)
				}
				charged.Add(c.cost)
			}
			redis.Unlock()
			defer func() {
				for _, c := range calls {
					under.Delete(c.id)
				}
			}()
			<-time.After(trip/2 + rand.N(trip/25))
		}
		var work sync.WaitGroup
		for range spends {
			<-time.After(rand.N(10 * time.Millisecond))
			work.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				defer cancel()
				s := &Spend{ID: fmt.Sprint("far", rand.IntN(ids)), Windows: []Window{{Name: "m", Limit: 1_000_000, Per: Month}}, Cost: 1}
				if res, err := l.Spend(ctx, s); err == nil && res.Allowed {
					allowed.Add(1)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%+v, %v", res, err)
				}
			})
		}
		work.Wait()
		l.batches.quiet(context.Background())
		lost := charged.Load() - allowed.Load()
		if stranded := l.Stats().Stranded; stranded != uint64(lost) {
			t.Errorf("%d stranded, and %d were charged in vain", stranded, lost)
		}
		sum = fates{1 - float64(allowed.Load())/float64(spends), float64(lost) / float64(spends)}
	})
	return sum
}

// Where a round trip takes half of the deadline, exact spends are decided in time, and what is not is hardly ever charged: a
// call waits for no answers but those about its own limit id. Where many calls are about one, some come just after its last
// pipeline has gone, and that is too late for the next; they are not charged either.
func TestExactSpendsFarAway(t *testing.T) {
	for ids, most := range map[int]float64{2000: 0.01, 200: 0.01, 1: 0.15} {
		sum := spendFar(t, ids, 10_000, 50*time.Millisecond, 100*time.Millisecond)
		t.Logf("%d ids: %.2f %% undecided, %.2f %% charged and undecided", ids, 100*sum.undecided, 100*sum.charged)
		if sum.undecided >= most || sum.charged > 0.01 {
			t.Errorf("%d ids: %.2f %% undecided, %.2f %% charged and undecided", ids, 100*sum.undecided, 100*sum.charged)
		}
	}
}

// What is asked while a slow pipeline is under way goes beside it, but for calls about a limit id that is in it.
func TestPipelineBesideASlowOne(t *testing.T) {
	b := startEmbedded(t)
	l := b.leases(t, Options{Exact: true})
	g := hold(l)
	l.batches.slow = func(f func()) { go f() }
	var mu sync.Mutex
	var sent [][]string
	send := l.batches.send
	l.batches.send = func(ctx context.Context, calls []*call) {
		var ids []string
		for _, c := range calls {
			ids = append(ids, c.id)
		}
		mu.Lock()
		sent = append(sent, ids)
		mu.Unlock()
		send(ctx, calls)
	}
	var work sync.WaitGroup
	spend := func(id string, spent int64) {
		work.Go(func() {
			if res := mustSpend(t, l, &Spend{ID: id, Windows: plan(), Cost: 1}); res.States[1].Spent != spent {
				t.Errorf("%s: %+v", id, res)
			}
		})
	}
	spend("a", 1)
	<-g.sent
	spend("a", 2)
	await(l, "", 1)
	spend("b", 1)
	<-g.sent
	await(l, "", 1)
	close(g.goOn)
	work.Wait()
	if got := fmt.Sprint(sent); got != "[[a] [b] [a]]" {
		t.Errorf("sent %s", got)
	}
}

// A Redis that hangs is sent a few pipelines, and no more.
func TestPipelinesUnderWayAreBounded(t *testing.T) {
	b := startEmbedded(t)
	l := b.leases(t, Options{Exact: true})
	g := hold(l)
	l.batches.slow = func(f func()) { go f() }
	var work sync.WaitGroup
	for i := range maxUnderWay + 20 {
		work.Go(func() { mustSpend(t, l, &Spend{ID: fmt.Sprint(i), Windows: plan(), Cost: 1}) })
		if i < maxUnderWay {
			<-g.sent
		}
	}
	await(l, "", 20)
	if n := len(g.sent); n != 0 {
		t.Errorf("%d more are under way", n)
	}
	close(g.goOn)
	work.Wait()
}

// A call whose time is up, or less than a trip lasts, is not sent.
func TestLateCallsAreNotSent(t *testing.T) {
	l := newWorld(t, noon()).replica(0, true)
	late := func(left time.Duration) *call {
		return &call{id: "a", layout: newLayout(plan()), done: make(chan struct{}, 1), end: time.Now().Add(left)}
	}
	calls := []*call{late(-time.Millisecond), late(time.Minute), late(time.Hour), {id: "a", layout: newLayout(plan())}}
	if sent, _ := l.batches.pick(calls, nil, nil, 0); !slices.Equal(sent, calls[1:]) {
		t.Errorf("sent %v", sent)
	}
	calls = []*call{late(time.Minute), late(time.Hour)}
	if sent, _ := l.batches.pick(calls, nil, nil, 2*time.Minute); !slices.Equal(sent, calls[1:]) {
		t.Errorf("sent %v", sent)
	}
}

// The same with a real Redis, and eight times slower, so that a busy machine does not matter: less than a hundredth is undecided,
// and half have their answers after little more than a trip. With one pipeline at a time they wait for one and a half.
func TestExactSpendsOfAFarRedis(t *testing.T) {
	const trip, spends = 400 * time.Millisecond, 300
	b := startRedis(t)
	client := b.far(t, trip)
	l := NewLeases(NewStore(client, nil), Options{Exact: true, Timeout: 2 * trip})
	l.batches.slow = func(f func()) { time.AfterFunc(8*slowTrip, f) }
	windows := plan()
	mustSpend(t, b.store(t), &Spend{ID: "first", Windows: windows, Cost: 1}) // the script is known
	var work sync.WaitGroup
	for range maxUnderWay { // there are connections
		work.Go(func() { client.Ping(t.Context()) })
	}
	work.Wait()
	took := make([]time.Duration, spends)
	var allowed atomic.Int64
	next := time.NewTicker(10 * time.Millisecond)
	defer next.Stop()
	for i := range took {
		<-next.C
		work.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*trip)
			defer cancel()
			began := time.Now()
			if res, err := l.Spend(ctx, &Spend{ID: fmt.Sprint("far", i), Windows: windows, Cost: 1}); err == nil && res.Allowed {
				allowed.Add(1)
			}
			took[i] = time.Since(began)
		})
	}
	work.Wait()
	l.batches.quiet(t.Context())
	var charged int64
	for i := range took {
		res, err := b.store(t).Spend(t.Context(), &Spend{ID: fmt.Sprint("far", i), Windows: windows, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		charged += res.States[0].Spent
	}
	slices.Sort(took)
	undecided, lost := spends-allowed.Load(), charged-allowed.Load()
	t.Logf("of %d spends %d undecided and %d charged in vain; half of them took %v", spends, undecided, lost, took[spends/2])
	if undecided >= spends/100 || lost > spends/100 || took[spends/2] > trip*14/10 {
		t.Errorf("of %d spends %d undecided and %d charged in vain; half of them took %v", spends, undecided, lost, took[spends/2])
	}
}
