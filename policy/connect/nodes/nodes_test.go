package nodes_test

import (
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect/nodes"
	"tollgate/policy/connect/redistest"
)

func TestOneServerHasNoNodes(t *testing.T) {
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer c.Close()
	if nodes.Of(c) != nil {
		t.Error("one server is told apart")
	}
}

// A client that has no map of slots yet says so at once: nothing listens on port 1.
func TestNodeThatIsNotKnown(t *testing.T) {
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer c.Close()
	if node := nodes.Of(c)("key"); node != "" {
		t.Errorf("node %q", node)
	}
}

func TestNodesOfACluster(t *testing.T) {
	var addresses []string
	for _, n := range redistest.StartCluster(t, 3) {
		addresses = append(addresses, n.Address())
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addresses})
	defer c.Close()
	found := map[string]bool{}
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if err := c.Get(t.Context(), key).Err(); err != redis.Nil {
			t.Fatal(err)
		}
		node := nodes.Of(c)(key)
		if !slices.Contains(addresses, node) {
			t.Errorf("%s is on %q, not one of %v", key, node, addresses)
		}
		found[node] = true
	}
	if len(found) != 3 {
		t.Errorf("%d nodes", len(found))
	}
}
