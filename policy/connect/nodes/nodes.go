// Package nodes says which server of a store has a key: in a cluster by its map of slots, without
// asking.
package nodes

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Of returns a function that tells the servers of a store apart: it gives the address of the one
// that has a key, or "" where that is not known yet. It asks nobody. It is nil where there is one
// server only.
func Of(c redis.UniversalClient) func(key string) string {
	cluster, ok := c.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	ended, end := context.WithCancel(context.Background())
	end() // so that the client does not wait for the map of slots where it has none
	return func(key string) string {
		node, err := cluster.MasterForKey(ended, key)
		if err != nil {
			return ""
		}
		return node.Options().Addr
	}
}
