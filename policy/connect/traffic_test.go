package connect_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

const changes = "tg:v1:changes"

// newKey returns a key and its digest; equal numbers give equal keys.
func newKey(n int) *keys.Key {
	h := keys.NewHasher([]byte("pepper"))
	id := fmt.Sprintf("key_test%06d", n)
	return &keys.Key{
		ID: id, API: "api", Team: "team", Name: "name", LimitID: id, Status: keys.Active, AnchorDay: 1, Version: 1,
		Algorithm: keys.AlgorithmHMACSHA256, Digest: h.Digest(id),
	}
}

func day(limit int64) []limits.Window {
	return []limits.Window{{Name: "day", Limit: limit, Per: limits.Month}} // no test lasts until the next month
}

// exercise does each thing that a server asks of Redis once: the paths that a decision, a start
// with a keys file and the feed of changes take. The number keeps runs on one store apart.
func exercise(ctx context.Context, c redis.UniversalClient, n int) error {
	if err := c.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	records := store.New(c)
	k := newKey(n)
	if err := records.Create(ctx, k); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	thief := newKey(n)
	thief.ID += "_thief"
	err := records.Create(ctx, thief)
	if !errors.Is(err, store.ErrSecretTaken) || strings.Contains(err.Error(), "\n") { // and nothing is left of it
		return fmt.Errorf("create with a taken secret: %w", err)
	}
	if _, err := records.Lookup(ctx, k.Digest); err != nil {
		return fmt.Errorf("look-up: %w", err)
	}
	if _, err := records.Lookup(ctx, keys.NewHasher(nil).Digest("nobody's")); !errors.Is(err, keys.ErrUnknown) {
		return fmt.Errorf("look-up of an unknown secret: %w", err)
	}
	return nil
}

func spendOne(ctx context.Context, c redis.UniversalClient, n int) error {
	spend := &limits.Spend{ID: newKey(n).ID, Windows: day(1), Cost: 1}
	leases := counters.NewLeases(counters.NewStore(c, nil), counters.Options{Timeout: 20 * time.Second})
	for i, want := range []bool{true, false} {
		r, err := leases.Spend(ctx, spend)
		if err != nil {
			return fmt.Errorf("spend: %w", err)
		}
		if r.Allowed != want {
			return fmt.Errorf("spend %d: allowed is %v", i, r.Allowed)
		}
	}
	return nil
}

// hear subscribes, lets tell publish, and waits for the message.
func hear(ctx context.Context, c redis.UniversalClient, tell func(context.Context) error) error {
	sub := c.Subscribe(ctx, changes)
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if err := tell(ctx); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for {
		message, err := sub.Receive(ctx)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if m, ok := message.(*redis.Message); ok && m.Payload == "news" {
			return nil
		}
	}
}

// publishFrom publishes in a script that touches a key, as a change of a key does.
func publishFrom(c redis.UniversalClient) func(context.Context) error {
	script := redis.NewScript(`redis.call('GET', KEYS[1]) return redis.call('PUBLISH', '` + changes + `', 'news')`)
	return func(ctx context.Context) error {
		return script.Run(ctx, c, []string{"tg:v1:key:{key_test000000}"}).Err()
	}
}

// everything is the check that a topology works.
func everything(t testing.TB, c redis.UniversalClient, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, step := range []func() error{
		func() error { return exercise(ctx, c, n) },
		func() error { return spendOne(ctx, c, n) },
		func() error { return hear(ctx, c, publishFrom(c)) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}
