package connect_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

func clusterURL(nodes []*server) string {
	addresses := make([]string, len(nodes))
	for i, n := range nodes {
		addresses[i] = n.address()
	}
	return "redis+cluster://tollgate:hunter2@" + strings.Join(addresses, ",")
}

// asServer makes the user of clusterURL on all nodes.
func asServer(t *testing.T, nodes []*server, rules ...string) {
	t.Helper()
	for _, n := range nodes {
		do(t, n, append([]any{"acl", "setuser", "tollgate", "on", ">hunter2"}, anys(rules)...)...)
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3)
	asServer(t, nodes, serverRules()...)
	// One node is enough to know; it tells the others.
	c := open(t, clusterURL(nodes[1:2]))
	for n := range 12 { // keys on every node
		everything(t, c, n)
	}
	for i, n := range nodes {
		if n.admin.DBSize(t.Context()).Val() == 0 {
			t.Errorf("node %d holds nothing", i)
		}
	}
	spendTogether(t, c)
	for i, n := range nodes {
		if crossed(t, n) {
			t.Errorf("node %d was sent a script for several slots", i)
		}
	}
	cmds, err := open(t, "redis+cluster://"+nodes[0].address()).TxPipelined(t.Context(), func(p redis.Pipeliner) error {
		p.Set(t.Context(), "tg:v1:key:{a}", 1, 0)
		p.Get(t.Context(), "tg:v1:key:{a}")
		return nil
	})
	if err != nil || cmds[1].(*redis.StringCmd).Val() != "1" {
		t.Errorf("transaction: %v, %v", cmds, err)
	}
	t.Run("slots move during traffic", func(t *testing.T) { moveSlots(t, nodes) })
	for _, n := range nodes {
		nothingRefused(t, n)
	}
	t.Run("what only a cluster is asked", func(t *testing.T) { clusterOnly(t, nodes) })
	t.Run("a master hangs", func(t *testing.T) { hangMaster(t, nodes, c) })
	t.Run("a master is gone", func(t *testing.T) { loseMaster(t, nodes, c) })
}

// spendTogether spends the limits of many keys at once, so that they share trips.
func spendTogether(t *testing.T, c redis.UniversalClient) {
	t.Helper()
	const ids = 300
	leases := counters.NewLeases(counters.NewStore(c, nil), counters.Options{Exact: true, Timeout: 20 * time.Second})
	for round := int64(1); round <= 2; round++ {
		var work sync.WaitGroup
		for n := range ids {
			work.Go(func() {
				id := fmt.Sprint("together", n)
				r, err := leases.Spend(t.Context(), &limits.Spend{ID: id, Windows: day(10), Cost: 1})
				if err != nil || !r.Allowed || r.States[0].Spent != round {
					t.Errorf("%s: %+v, %v", id, r, err)
				}
			})
		}
		work.Wait()
	}
	if s := leases.Stats(); s.Calls != 2*ids || s.Trips >= s.Calls {
		t.Errorf("%d calls in %d trips", s.Calls, s.Trips)
	}
}

// crossed reports whether a node has refused a command for keys of several slots.
func crossed(t *testing.T, n *server) bool {
	t.Helper()
	return strings.Contains(do(t, n, "info", "errorstats").(string), "CROSSSLOT")
}

// A node of a cluster that has all slots serves a client that knows no clusters. It refuses scripts
// for several slots: then each spend has its own, and none is lost or made twice.
func TestClusterOfOneAsOneServer(t *testing.T) {
	t.Parallel()
	node := startCluster(t, 1)[0]
	spendTogether(t, open(t, "redis://"+node.address()))
	if !crossed(t, node) {
		t.Error("no script was for several slots: this shows nothing")
	}
}

// moveSlots moves the slot of one key to and fro while it is looked up and spends, in pipelines
// too. What must hold: every look-up finds it, no spend fails, and exactly the limit is allowed.
func moveSlots(t *testing.T, nodes []*server) {
	const limit, workers, moves = 9000, 4, 4
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	k := newKey(1000)
	if err := store.New(open(t, clusterURL(nodes))).Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	record, secret := "tg:v1:key:{"+k.ID+"}", "tg:v1:secret:"+secretOf(t, nodes, k)
	var allowed, refused, looked, moved atomic.Int64
	var work sync.WaitGroup
	var pipelines []*counters.Leases
	for range workers {
		c := open(t, clusterURL(nodes)) // a replica each
		store := store.New(c)
		counters := counters.NewLeases(counters.NewStore(c, nil), counters.Options{Exact: true, Timeout: 20 * time.Second})
		pipelines = append(pipelines, counters)
		work.Go(func() {
			for ctx.Err() == nil && (refused.Load() < workers || moved.Load() < moves) {
				if _, err := store.Lookup(ctx, k.Digest); err != nil {
					t.Errorf("look-up: %v", err)
					cancel()
				}
				if err := readBoth(ctx, c, record, secret); err != nil {
					t.Errorf("pipeline: %v", err)
					cancel()
				}
				looked.Add(1)
				var spends sync.WaitGroup
				for range 3 {
					spends.Go(func() {
						r, err := counters.Spend(ctx, &limits.Spend{ID: k.LimitID, Windows: day(limit), Cost: 1})
						switch {
						case err != nil:
							t.Errorf("spend: %v", err)
							cancel()
						case r.Allowed:
							allowed.Add(1)
						default:
							refused.Add(1)
						}
					})
				}
				spends.Wait()
			}
		})
	}
	during := func(what string) {
		seen := looked.Load()
		await(t, "look-ups while "+what, func(context.Context) bool { return looked.Load() > seen+20 || ctx.Err() != nil })
	}
	for _, name := range []string{record, secret} {
		for range moves / 2 {
			moveSlot(t, nodes, name, during)
			moved.Add(1)
		}
	}
	spentWhileMoving := allowed.Load()
	work.Wait()
	if allowed.Load() != limit {
		t.Errorf("%d of a limit of %d were allowed", allowed.Load(), limit)
	}
	for _, p := range pipelines {
		if s := p.Stats(); s.Trips >= s.Calls {
			t.Errorf("%d calls in %d trips: no pipelines", s.Calls, s.Trips)
		}
	}
	if spentWhileMoving == 0 {
		t.Error("nothing was spent while slots moved")
	}
	t.Logf("%d moves, %d look-ups, %d spends allowed while slots moved, %d refused", moved.Load(), looked.Load(), spentWhileMoving, refused.Load())
}

func readBoth(ctx context.Context, c redis.UniversalClient, a, b string) error {
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Get(ctx, a)
		p.Get(ctx, b)
		return nil
	})
	return err
}

// secretOf finds the hex digest of a key's secret in its record.
func secretOf(t *testing.T, nodes []*server, k *keys.Key) string {
	t.Helper()
	record, err := open(t, clusterURL(nodes)).Get(t.Context(), "tg:v1:key:{"+k.ID+"}").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, hash, ok := strings.Cut(record, "hmac-sha256:")
	if !ok {
		t.Fatal("no hash in " + record)
	}
	return hash[:64]
}

const keysMove = "its keys move"

// moveSlot moves the slot of a key from its master to the next one, as redis-cli --cluster reshard
// does.
func moveSlot(t *testing.T, nodes []*server, name string, during func(string)) {
	t.Helper()
	slot := do(t, nodes[0], "cluster", "keyslot", name).(int64)
	from := masterOf(t, nodes, slot)
	var to *server
	for i, n := range nodes {
		if n == from {
			to = nodes[(i+1)%len(nodes)]
		}
	}
	target, source := do(t, to, "cluster", "myid"), do(t, from, "cluster", "myid")
	do(t, to, "cluster", "setslot", slot, "importing", source)
	do(t, from, "cluster", "setslot", slot, "migrating", target)
	during("the slot is about to move")
	for _, key := range do(t, from, "cluster", "getkeysinslot", slot, 100).([]any) {
		do(t, from, "migrate", "127.0.0.1", to.port, key, 0, 5000)
		during(keysMove)
	}
	do(t, to, "cluster", "setslot", slot, "node", target)
	do(t, from, "cluster", "setslot", slot, "node", target)
	during("one node does not know")
	for _, n := range nodes {
		do(t, n, "cluster", "setslot", slot, "node", target)
	}
	during("the slot has moved")
}

// clusterOnly shows that the commands of ClusterACL are needed: one to find the nodes,
// one to follow a key that has moved before its slot.
func clusterOnly(t *testing.T, nodes []*server) {
	k := newKey(3)
	find := func() error {
		c := open(t, clusterURL(nodes))
		defer c.Close()
		_, err := store.New(c).Lookup(t.Context(), k.Digest)
		return err
	}
	asServer(t, nodes, "-cluster|slots")
	if err := find(); !denied(err) {
		t.Errorf("without cluster|slots: %v", err)
	}
	asServer(t, nodes, "+cluster|slots", "-asking")
	var err error // when all keys of the slot have moved
	moveSlot(t, nodes, "tg:v1:key:{"+k.ID+"}", func(what string) {
		if what == keysMove {
			err = find()
		}
	})
	if !denied(err) {
		t.Errorf("without asking: %v", err)
	}
	asServer(t, nodes, "+asking")
	if err := find(); err != nil {
		t.Error(err)
	}
}

func masterOf(t *testing.T, nodes []*server, slot int64) *server {
	t.Helper()
	for _, entry := range do(t, nodes[0], "cluster", "slots").([]any) {
		first, last, master := entry.([]any)[0].(int64), entry.([]any)[1].(int64), entry.([]any)[2].([]any)
		for _, n := range nodes {
			if first <= slot && slot <= last && fmt.Sprint(master[1]) == n.port {
				return n
			}
		}
	}
	t.Fatalf("nobody has slot %d", slot)
	return nil
}

// hangMaster lets a node answer nobody while many keys are read at once. Those that share no range
// of slots with it have their answers.
func hangMaster(t *testing.T, nodes []*server, c redis.UniversalClient) {
	const readings = 400
	store := store.New(c)
	var ranges [readings][2]int64 // of the secret and of the record
	hung := map[int64]bool{}
	for n := range readings {
		k := newKey(2000 + n)
		if err := store.Create(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{fmt.Sprintf("tg:v1:secret:%x", k.Digest[:]), "tg:v1:key:{" + k.ID + "}"} {
			slot := do(t, nodes[0], "cluster", "keyslot", name).(int64)
			ranges[n][i] = slot * 16 / 16384
			if masterOf(t, nodes, slot) == nodes[2] {
				hung[ranges[n][i]] = true
			}
		}
	}
	cache := cache.New(store, cache.Options{Timeout: time.Second})
	do(t, nodes[2], "client", "pause", 5000, "all")
	var found, lost atomic.Int64
	var work sync.WaitGroup
	for n := range readings {
		work.Go(func() {
			switch _, err := cache.Lookup(t.Context(), newKey(2000+n).Digest); {
			case err == nil:
				found.Add(1)
			case errors.Is(err, keys.ErrUnknown):
				t.Errorf("key %d is said to be unknown", n)
			case hung[ranges[n][0]] || hung[ranges[n][1]]:
				lost.Add(1)
			default:
				t.Errorf("key %d was held up: %v", n, err)
			}
		})
	}
	work.Wait()
	if found.Load() < readings/5 || lost.Load() < readings/5 {
		t.Errorf("%d of %d keys were found, %d not", found.Load(), readings, lost.Load())
	}
}

// loseMaster stops a node: its keys are not reachable, and that is what is said of them.
func loseMaster(t *testing.T, nodes []*server, c redis.UniversalClient) {
	for _, n := range nodes {
		do(t, n, "config", "set", "cluster-require-full-coverage", "no")
	}
	var later atomic.Int64
	cache := cache.New(store.New(c), cache.Options{Now: func() time.Time { return time.Unix(later.Load(), 0) }})
	for n := range 12 {
		if _, err := cache.Lookup(t.Context(), newKey(n).Digest); err != nil {
			t.Fatal(err)
		}
	}
	nodes[2].admin.ShutdownNoSave(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// All are read ahead in one trip, and those that can be reached are.
	later.Store(25)
	for n := range 12 {
		if _, err := cache.Find(newKey(n).Digest); err != nil {
			t.Error(err)
		}
	}
	await(t, "the keys are read ahead", func(context.Context) bool { return cache.Stats().Refreshes > 0 })
	reached := 0
	for n := range 12 {
		switch _, err := store.New(c).Lookup(ctx, newKey(n).Digest); {
		case err == nil:
			reached++
		case errors.Is(err, keys.ErrUnknown):
			t.Errorf("key %d is said to be unknown", n)
		}
	}
	if n := cache.Stats().Refreshes; n != uint64(reached) {
		t.Errorf("%d of %d keys that can be reached were read ahead", n, reached)
	}
	if reached == 0 || reached == 12 {
		t.Errorf("%d of 12 keys were reached", reached)
	}
	// Nor do those that cannot be reached hold up the others' limits, in whichever pipelines they
	// are.
	leases := counters.NewLeases(counters.NewStore(c, nil), counters.Options{Timeout: time.Second})
	var spent, there atomic.Int64
	var work sync.WaitGroup
	for n := range 12 {
		if c.Get(ctx, "tg:v1:key:{"+newKey(n).ID+"}").Err() == nil {
			there.Add(1) // on the node that has the counters too
		}
		work.Go(func() {
			if _, err := leases.Spend(ctx, &limits.Spend{ID: newKey(n).ID, Windows: day(100), Cost: 1}); err == nil {
				spent.Add(1)
			}
		})
	}
	work.Wait()
	if spent.Load() != there.Load() || spent.Load() == 12 {
		t.Errorf("%d of 12 keys spent, want %d", spent.Load(), there.Load())
	}
}
