package networks_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/alerts/networks"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

func backends(t *testing.T, run func(w *world)) {
	t.Run("redis", func(t *testing.T) { run(newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)) })
	t.Run("embedded", func(t *testing.T) {
		c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { _ = c.Close() })
		run(newWorld(t, c))
	})
}

// world is servers of an API, on a clock ahead of Redis'.
type world struct {
	*testing.T
	client redis.UniversalClient
	set    *policy.Set
	ahead  atomic.Int64 // ms

	mu   sync.Mutex
	told []string
	away error // why nothing can be raised
}

func newWorld(t *testing.T, c redis.UniversalClient) *world {
	t.Helper()
	w := &world{T: t, client: c}
	w.load("alerts: {new_network_after_days: 0}")
	return w
}

// load has another policy in force.
func (w *world) load(rules string) {
	w.Helper()
	text, err := os.ReadFile("../../../testdata/small.yaml")
	w.must(err)
	w.set, err = policyfile.Compile(policyfile.File{Name: "small.yaml", Data: []byte(rules + "\n" + string(text))})
	w.must(err)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) offset() time.Duration { return time.Duration(w.ahead.Load()) * time.Millisecond }

func (w *world) waitDays(n int) { w.ahead.Add(int64(n) * 24 * 60 * 60 * 1000) }

func (w *world) Raise(ctx context.Context, n *outbox.Notice) (outbox.Raised, error) {
	if w.away != nil {
		return outbox.Before, w.away
	}
	return outbox.New(w.client, w.offset).Raise(ctx, n)
}

func (w *world) server(c redis.UniversalClient) *networks.Networks {
	a := &outbox.Announcer{Outbox: w, Ways: []string{outbox.Webhook}, Told: func(a *alerts.Alert) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told = append(w.told, fmt.Sprint(a.Key, " ", a.Details[0].Value, " ", a.Details[1].Value))
	}}
	return networks.New(func() *policy.Set { return w.set }, networks.NewKnown(c, w.offset), a)
}

func grant(id, limitID string) *keys.Grant {
	return keys.NewGrant(&keys.Key{ID: id, API: "jobs", Name: "n", Team: "acme", Plan: "free", LimitID: limitID, Status: keys.Active})
}

// use has a key used from addresses, and the server look.
func (w *world) use(n *networks.Networks, id string, addresses ...string) {
	w.Helper()
	for _, a := range addresses {
		n.Saw(grant(id, id), netip.MustParseAddr(a), time.Now().Add(w.offset()))
		w.must(n.Look(w.Context()))
	}
}

func (w *world) mustTell(want ...string) {
	w.Helper()
	slices.Sort(w.told)
	if !slices.Equal(w.told, want) {
		w.Errorf("told %q, want %q", w.told, want)
	}
	w.told = nil
}

// The first network of a key is where it is at home; of each other somebody is told once, by one of
// two servers.
func TestNewNetwork(t *testing.T) {
	backends(t, func(w *world) {
		a, b := w.server(w.client), w.server(w.client)
		w.use(a, "key_0001", "203.0.113.7", "203.0.113.99")
		w.use(b, "key_0001", "203.0.113.1")
		w.use(a, "key_0002", "198.51.100.1")
		w.mustTell()
		w.use(a, "key_0001", "203.0.114.1")
		w.use(b, "key_0001", "203.0.114.2")
		w.use(w.server(w.client), "key_0001", "203.0.114.3")
		w.mustTell("key_0001 203.0.114.0/24 2")
		w.use(a, "key_0001", "2001:db8:1:2::3", "2001:db8:1:ffff::1", "2001:db8:2::1")
		w.mustTell("key_0001 2001:db8:1::/48 3", "key_0001 2001:db8:2::/48 4")
		all, err := outbox.New(w.client, nil).List(w.Context())
		w.must(err)
		if len(all) != 3 || !strings.Contains(string(all[0].Body), `"type":"key.new_network"`) || !strings.Contains(string(all[0].Body)+string(all[1].Body)+string(all[2].Body),
			`"data":{"api":"jobs","team":"acme","key":"key_0001","plan":"free","network":"203.0.114.0/24","networks":2}}`) {
			w.Errorf("%d messages: %+v", len(all), all)
		}
	})
}

// A key shares its networks with that which it was rotated from.
func TestSuccessorKnowsNetworks(t *testing.T) {
	w := newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)
	n := w.server(w.client)
	w.use(n, "key_0001", "203.0.113.7", "203.0.114.7")
	w.mustTell("key_0001 203.0.114.0/24 2")
	for _, a := range []string{"203.0.114.8", "203.0.115.1"} {
		n.Saw(grant("key_0002", "key_0001"), netip.MustParseAddr(a), time.Now())
		w.must(n.Look(t.Context()))
	}
	w.mustTell("key_0002 203.0.115.0/24 3")
}

// A network is known for 90 days after its last use, which is noted once a day.
func TestNetworksAreForgotten(t *testing.T) {
	backends(t, func(w *world) {
		n := w.server(w.client)
		w.use(n, "key_0001", "203.0.113.7", "203.0.114.7")
		w.mustTell("key_0001 203.0.114.0/24 2")
		for range 3 {
			w.waitDays(40)
			w.use(n, "key_0001", "203.0.113.8")
		}
		if fields := w.client.HGetAll(w.Context(), "tg:v1:networks:{key_0001}").Val(); len(fields) != 2 {
			w.Errorf("%v", fields)
		}
		w.use(n, "key_0001", "203.0.114.8")
		w.mustTell("key_0001 203.0.114.0/24 2")
		if ttl := w.client.PTTL(w.Context(), "tg:v1:networks:{key_0001}").Val(); ttl < 90*24*time.Hour || ttl > 92*24*time.Hour {
			w.Errorf("it ends after %v", ttl)
		}
		w.waitDays(100) // where a store does not end it by itself
		w.use(n, "key_0001", "192.0.2.1")
		w.mustTell()
	})
}

// A client that goes from network to network makes nothing grow: a key has 32, and of more nobody
// is told.
func TestMostNetworks(t *testing.T) {
	backends(t, func(w *world) {
		n := w.server(w.client)
		for i := range 40 {
			w.use(n, "key_0001", fmt.Sprintf("203.0.%d.1", i))
		}
		if len(w.told) != networks.Most-1 || n.Stats().Full != 8 {
			w.Errorf("%d told, %+v", len(w.told), n.Stats())
		}
		name := "tg:v1:networks:{key_0001}"
		if l := w.client.HLen(w.Context(), name).Val(); l != networks.Most+1 {
			w.Errorf("%d fields", l)
		}
		if bytes, err := w.client.MemoryUsage(w.Context(), name).Result(); strings.HasSuffix(w.Name(), "/redis") && (err != nil || bytes > 1200) {
			w.Errorf("%d bytes, %v", bytes, err)
		}
		w.told = nil
		w.use(n, "key_0001", "203.0.7.2")
		w.mustTell()
	})
}

// For so many days as the policy says, networks are only learnt.
func TestAfterDays(t *testing.T) {
	w := newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)
	w.load("alerts: {new_network_after_days: 7}")
	n := w.server(w.client)
	w.use(n, "key_0001", "203.0.113.7", "203.0.114.7")
	w.waitDays(6)
	w.use(n, "key_0001", "203.0.115.7")
	w.mustTell()
	w.waitDays(1)
	w.use(n, "key_0001", "203.0.115.8", "203.0.116.1")
	w.mustTell("key_0001 203.0.116.0/24 4")
}

// An address that is not known is none, and nothing is noted that no policy asks for any more.
func TestOnlyWhereAsked(t *testing.T) {
	w := newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)
	n := w.server(w.client)
	n.Saw(grant("key_0001", "key_0001"), netip.Addr{}, time.Now())
	n.Saw(grant("key_0001", "key_0001"), netip.MustParseAddr("203.0.113.1"), time.Now())
	w.load("alerts: {quota: [50]}")
	w.must(n.Look(t.Context()))
	if names := w.client.Keys(t.Context(), "*").Val(); len(names) != 0 {
		t.Errorf("%q", names)
	}
}

// While nothing can be raised, a network stays new; and once somebody was told, it is noted, even
// if the server that told has died before.
func TestStoreIsAway(t *testing.T) {
	w := newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)
	n := w.server(w.client)
	w.use(n, "key_0001", "203.0.113.7")
	w.away = errors.New("away")
	n.Saw(grant("key_0001", "key_0001"), netip.MustParseAddr("203.0.114.1"), time.Now())
	if err := n.Look(t.Context()); !errors.Is(err, w.away) {
		t.Errorf("%v", err)
	}
	w.away = nil
	w.must(n.Look(t.Context()))
	w.mustTell("key_0001 203.0.114.0/24 2")
	w.must(w.client.HDel(t.Context(), "tg:v1:networks:{key_0001}", "203.0.114.0/24").Err()) // as if it had died
	w.use(w.server(w.client), "key_0001", "203.0.114.2")
	w.mustTell()
	if !w.client.HExists(t.Context(), "tg:v1:networks:{key_0001}", "203.0.114.0/24").Val() {
		t.Error("it is not noted")
	}
	w.must(w.client.Set(t.Context(), "tg:v1:networks:{key_0002}", "?", 0).Err())
	n.Saw(grant("key_0002", "key_0002"), netip.MustParseAddr("203.0.113.1"), time.Now())
	if err := n.Look(t.Context()); err == nil {
		t.Error("no error")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	n.Run(ended, func(err error) { t.Error(err) })
}

// What waits is bounded, and what is told at once. What is passed over is counted, and looked up
// after its next use.
func TestBounds(t *testing.T) {
	w := newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)
	n := w.server(w.client)
	for i := range 103 {
		for _, a := range []string{"203.0.113.1", "203.0.114.1"} {
			w.use(n, fmt.Sprintf("key_%04d", i), a)
		}
	}
	w.told = nil
	for i := range 103 {
		n.Saw(grant(fmt.Sprintf("key_%04d", i), fmt.Sprintf("key_%04d", i)), netip.MustParseAddr("203.0.115.1"), time.Now())
	}
	for _, want := range []int{100, 3, 0} {
		w.must(n.Look(t.Context()))
		if len(w.told) != want {
			t.Errorf("%d told, want %d", len(w.told), want)
		}
		w.told = nil
	}
	for i := range 10_003 {
		n.Saw(grant("key_0001", "key_0001"), netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), time.Now())
	}
	if got := n.Stats().Passed; got != 3 {
		t.Errorf("%d passed", got)
	}
}

// A server needs each of its rights, and no other.
func TestACL(t *testing.T) {
	s := redistest.Start(t, redistest.SocketOnly)
	as := func(name string, acl connect.ACL) redis.UniversalClient {
		s.AddUser(t, name, connect.Join(connect.ConnectionACL(), acl).Rules())
		c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.Socket, Username: name, Password: name, DisableIdentity: true, MaxRetries: -1})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	all := func(c redis.UniversalClient) error {
		if err := errors.Join(s.Admin.FlushAll(t.Context()).Err(), s.Admin.ScriptFlush(t.Context()).Err(), s.Admin.HSet(t.Context(), "tg:v1:networks:{key_0001}", "192.0.2.0/24", 1).Err()); err != nil {
			t.Fatal(err)
		}
		_, err := networks.NewKnown(c, nil).Note(t.Context(), "key_0001", "203.0.113.0/24", 0, false)
		return err
	}
	if err := all(as("server", networks.ServerACL())); err != nil {
		t.Fatal(err)
	}
	for _, command := range networks.ServerACL().Commands {
		acl := networks.ServerACL()
		acl.Commands = slices.DeleteFunc(acl.Commands, func(c string) bool { return c == command })
		if err := all(as("server-"+command, acl)); err == nil || !strings.Contains(err.Error(), "NOPERM") && !strings.Contains(err.Error(), "can't run this command") {
			t.Errorf("without %s: %v", command, err)
		}
	}
}

// The hot path allocates nothing for a network that was seen.
func TestSeenCostsNothing(t *testing.T) {
	w := newWorld(t, redistest.Start(t, redistest.SocketOnly).Admin)
	n, k, a, at := w.server(w.client), grant("key_0001", "key_0001"), netip.MustParseAddr("203.0.113.1"), time.Now()
	n.Saw(k, a, at)
	if got := testing.AllocsPerRun(100, func() { n.Saw(k, a, at) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkSaw(b *testing.B) {
	n := networks.New(nil, nil, nil)
	k, a, at := grant("key_0001", "key_0001"), netip.MustParseAddr("203.0.113.1"), time.Now()
	for b.Loop() {
		n.Saw(k, a, at)
	}
}
