package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/store"
)

// keyCache is what stands between the checks and the keys of a store.
type keyCache struct {
	log      *extauthz.BoundedLog
	breaker  *connect.Breaker
	cache    *cache.Cache
	usage    *cache.Usage
	rehashes *admin.Rehashes // nil where there is no older method
}

// newKeyCache makes the cache in front of the store and registers its metrics.
func newKeyCache(records *store.Store, changes *audit.Stream, o cache.Options, older bool, policies *extauthz.Policies, registry prometheus.Registerer, m *extauthz.Metrics, log *slog.Logger) *keyCache {
	c := &keyCache{log: extauthz.NewBoundedLog(log)}
	c.breaker = connect.NewBreaker(func(change connect.BreakerChange) {
		m.BreakerChanged(change)
		about := []any{slog.String("operation", change.Operation.String())}
		if change.Node != "" {
			about = append(about, slog.String("node", change.Node))
		}
		if change.Open {
			log.Warn("the store does not serve this operation; it is asked four times a second until it does", append(about, slog.Any("error", change.Err))...)
			return
		}
		log.Info("the store serves again", about...)
	})
	o.Breaker, o.StaleFor, o.Changed, o.Log = c.breaker, policies.StaleFor, m.KeyChanged, log
	o.Server = serverName()
	o.Longest = func() time.Duration { return max(policies.LongestStale(), o.TTL) }
	c.cache = cache.New(records, o)
	c.usage = cache.NewUsage(records, o.Keys, time.Now)
	if older {
		c.rehashes = admin.NewRehashes(records, changes, serverActor())
	}
	extauthz.RegisterCache(registry, c.cache, c.usage)
	return c
}

// serverName tells this server from others, for people. One that is started again in the same
// container has the same name.
func serverName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s (process %d)", host, os.Getpid())
}

// rehash returns the function that is told of keys found by an older method, or nil.
func (c *keyCache) rehash() func(id string, from, to keys.Digest) {
	if c.rehashes == nil {
		return nil
	}
	return c.rehashes.Add
}

// run keeps the cache up to date until ctx ends.
func (c *keyCache) run(ctx context.Context) {
	var work sync.WaitGroup
	defer c.log.End()
	defer work.Wait()
	work.Go(func() { c.cache.Run(ctx) })
	work.Go(func() {
		c.usage.Run(ctx, func(err error) {
			c.log.Log(ctx, slog.LevelWarn, "the last use of keys was not written", slog.Any("error", err))
		})
	})
	if c.rehashes != nil {
		work.Go(func() {
			c.rehashes.Run(ctx, func(id string, err error) {
				c.log.Log(ctx, slog.LevelWarn, "a key keeps its older hash", slog.String("key_id", id), slog.Any("error", err))
			})
		})
	}
}

// cacheOptions leave a decision time for an answer when a reading has not ended.
func (s *options) cacheOptions() cache.Options {
	return cache.Options{Keys: s.cacheKeys, TTL: s.cacheTTL, Timeout: s.deadline * 8 / 10}
}
