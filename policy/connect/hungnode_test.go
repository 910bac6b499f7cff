package connect_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

// hungTime is what a caller waits for its answer here: far longer than a node that answers takes on
// a busy machine, and far shorter than a pipeline to one that does not.
const (
	hungTime     = 2 * time.Second
	hungPipeline = 20 * time.Second
)

// Of three masters one is stopped. Whatever is asked of the other two goes on, spends of either
// kind and first look-ups, in the same moment and when the breaker of the third has opened, which
// says which node it is.
func TestOneNodeOfAClusterHangs(t *testing.T) {
	t.Parallel()
	const ids = 400
	nodes := startCluster(t, 3)
	asServer(t, nodes, serverRules()...)
	h := newHungCluster(t, clusterURL(nodes), nodes[2].address())
	h.spend(t, 1) // the client knows the nodes now
	healthy, hung := h.spend(t, ids)
	if healthy+hung != ids || hung < ids/5 {
		t.Fatalf("%d and %d spends before", healthy, hung)
	}
	cold := h.coldKeys(t, nodes)
	if err := nodes[2].process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() { h.lookUp(t, cold[:len(cold)/2]) })
	if answered, late := h.spend(t, ids); answered != healthy || late != 0 {
		t.Errorf("%d of %d spends on nodes that answer, %d on one that does not", answered, healthy, late)
	}
	work.Wait()
	if err := h.breaker.Trouble(connect.Spend); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), h.hung) {
		t.Errorf("the trouble with spends is %v", err)
	}
	if answered, _ := h.spend(t, ids); answered != healthy {
		t.Errorf("with the breaker open %d of %d spends on nodes that answer", answered, healthy)
	}
	h.lookUp(t, cold[len(cold)/2:])
	if err := nodes[2].process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await(t, "the node serves again", func(context.Context) bool {
		answered, late := h.spend(t, ids)
		return answered == healthy && late == hung && h.breaker.Trouble(connect.Spend) == nil
	})
}

// hungCluster is what uses a cluster, one node of which hangs.
type hungCluster struct {
	store   *store.Store
	cache   *cache.Cache
	breaker *connect.Breaker
	leases  [2]*counters.Leases // exact, and not
	hung    string              // address
}

func newHungCluster(t *testing.T, url, hung string) *hungCluster {
	c := open(t, url)
	h := &hungCluster{store: store.New(c), breaker: connect.NewBreaker(nil), hung: hung}
	h.cache = cache.New(h.store, cache.Options{Timeout: hungTime, Breaker: h.breaker})
	for i := range h.leases {
		h.leases[i] = counters.NewLeases(counters.NewStore(c, nil), counters.Options{Exact: i == 0, Timeout: hungPipeline})
	}
	return h
}

// spend spends one unit of each of so many limit ids at once, by turns exactly and not, and returns
// how many were allowed on nodes that answer, and on the one that does not.
func (h *hungCluster) spend(t *testing.T, ids int) (healthy, hung int) {
	t.Helper()
	var mu sync.Mutex
	var work sync.WaitGroup
	for n := range ids {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), hungTime)
			defer cancel()
			id, l := fmt.Sprint("hung", n), h.leases[n%2]
			node, s := l.Node(id), &limits.Spend{ID: id, Windows: day(90), Cost: 1} // too little to lease any
			err := h.breaker.Do(connect.Spend, node, func() error {
				_, err := l.Spend(ctx, s)
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case node == h.hung && err == nil:
				hung++
			case err == nil:
				healthy++
			case node != h.hung:
				t.Errorf("a spend on %s: %v", node, err)
			}
		})
	}
	work.Wait()
	return healthy, hung
}

// coldKeys makes keys that no cache has seen, of which nothing is on the node that is to hang, and
// returns their digests.
func (h *hungCluster) coldKeys(t *testing.T, nodes []*server) (digests []keys.Digest) {
	t.Helper()
	for n := 0; len(digests) < 60; n++ {
		k, away := newKey(5000+n), false
		for _, name := range []string{fmt.Sprintf("tg:v1:secret:%x", k.Digest[:]), "tg:v1:key:{" + k.ID + "}"} {
			away = away || masterOf(t, nodes, do(t, nodes[0], "cluster", "keyslot", name).(int64)).address() == h.hung
		}
		if away {
			continue
		}
		if err := h.store.Create(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, k.Digest)
	}
	return digests
}

// lookUp looks keys up for the first time, and among them as many secrets of nobody, some of which
// the node that hangs has.
func (h *hungCluster) lookUp(t *testing.T, digests []keys.Digest) {
	t.Helper()
	var work sync.WaitGroup
	for n, digest := range digests {
		work.Go(func() {
			if _, err := h.cache.Lookup(t.Context(), digest); err != nil {
				t.Errorf("a key of nodes that answer: %v", err)
			}
		})
		work.Go(func() { _, _ = h.cache.Lookup(t.Context(), keys.NewHasher(nil).Digest(fmt.Sprint("nobody's", n))) })
	}
	work.Wait()
}
