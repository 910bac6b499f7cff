package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// coldTrips is how many round trips to the store a decision about a key takes that is not in
	// memory: whose the secret is, the record, the limits. Each older method of hashing adds one.
	coldTrips = 3
	// warmConnections is how many connections are made before the first check: as many as 500 first
	// uses of keys a second keep busy, and their spends, where the store is 45 ms away. One that is
	// made only then costs its check two more trips.
	warmConnections = 48
	// tripTime bounds the measuring of a trip.
	tripTime = time.Second
)

// roundTrip measures a round trip to the store, in a cluster to the master that is farthest, over
// so many connections, which are open afterwards. The shortest counts: others have waited for a
// processor.
func roundTrip(ctx context.Context, client redis.UniversalClient, connections int) (time.Duration, error) {
	if one, ok := client.(*redis.Client); ok {
		return measure(ctx, one, connections)
	}
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return 0, fmt.Errorf("no way to measure with a %T", client)
	}
	var mu sync.Mutex
	var farthest time.Duration
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		took, err := measure(ctx, node, connections)
		mu.Lock()
		defer mu.Unlock()
		farthest = max(farthest, took)
		return err
	})
	return farthest, err
}

// measure makes connections and asks over each of them, first for nothing, because that includes
// its greeting. Each is kept until all are made: a client that gets one back would not make
// another.
func measure(ctx context.Context, c *redis.Client, connections int) (shortest time.Duration, err error) {
	var mu sync.Mutex
	var work sync.WaitGroup
	for range connections {
		conn := c.Conn()
		defer conn.Close()
		work.Go(func() {
			for n := range 2 {
				began := time.Now()
				failed := conn.Ping(ctx).Err()
				took := time.Since(began)
				mu.Lock()
				if failed != nil {
					err = failed
				} else if n > 0 && (shortest == 0 || took < shortest) {
					shortest = took
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if shortest > 0 {
		err = nil
	}
	return shortest, err
}

// farStore says that the store is so far away that keys which are not in memory cannot be decided
// about in time, "" if it is not, or cannot be asked.
func (v *service) farStore(ctx context.Context, deadline time.Duration, connections int) string {
	ctx, cancel := context.WithTimeout(ctx, tripTime)
	defer cancel()
	trip, err := roundTrip(ctx, v.storage.Client, connections)
	trips := time.Duration(coldTrips + v.hasher.Older())
	if err != nil || trip*trips <= deadline {
		return ""
	}
	need := (trip*trips*5/4 + 9*time.Millisecond).Truncate(10 * time.Millisecond)
	return fmt.Sprintf("a round trip takes %v; a key that is not in memory needs %d of them, which --deadline %v allows up to %v each: give %v or more",
		trip.Round(100*time.Microsecond), trips, deadline, (deadline / trips).Round(100*time.Microsecond), need)
}

// reachStore opens connections to the store before the first check needs them, and warns if it is
// far away.
func (v *service) reachStore(ctx context.Context, deadline time.Duration) {
	if v.storage.Embedded {
		return
	}
	if problem := v.farStore(ctx, deadline, warmConnections); problem != "" {
		v.log.Warn("the store is far away: " + problem)
	}
}
