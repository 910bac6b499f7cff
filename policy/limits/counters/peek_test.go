package counters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"tollgate/policy/connect/redistest"
	"tollgate/policy/limits"
)

// everything is all that a store holds.
func everything(t fatal, c redis.UniversalClient) string {
	ctx := context.Background()
	keys, err := c.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatalf("%v", err)
	}
	slices.Sort(keys)
	var all strings.Builder
	for _, key := range keys {
		if strings.HasPrefix(key, "tg:v1:slots:") {
			fmt.Fprintln(&all, key, c.ZRangeWithScores(ctx, key, 0, -1).Val())
		} else {
			fmt.Fprintln(&all, key, c.HGetAll(ctx, key).Val())
		}
	}
	return all.String()
}

// What Peek says of a spend is what the spend then comes to, whatever was spent before and however
// the clock moves, and it changes nothing.
func TestPeekIsTheSpend(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		ctx := context.Background()
		store := NewStore(b.client, b.now)
		rapid.Check(t, func(rt *rapid.T) {
			b.empty(rt)
			now := time.Date(2027, 12, 30, 23, 59, 58, 50_000_000, time.UTC)
			for range rapid.IntRange(1, 30).Draw(rt, "steps") {
				now = now.Add(drawMove(rt))
				b.at(t, now)
				sp := drawSpend(rt)
				if !sp.ReadOnly && rapid.Bool().Draw(rt, "slot") {
					sp.Slot = slotOf(rapid.SampledFrom([]string{"s1", "s2", "s3", "s4"}).Draw(rt, "id"), rapid.Int64Range(1, 3).Draw(rt, "places"))
					sp.Slot.Hold += 500 * time.Millisecond // so that none ends between the two: the clock moves by seconds
				}
				before := everything(rt, b.client)
				peeked, held, err := store.Peek(ctx, sp)
				if err != nil {
					rt.Fatal(err)
				}
				if after := everything(rt, b.client); before != after {
					rt.Fatalf("%+v: before\n%safter\n%s", *sp, before, after)
				}
				for _, n := range held {
					if n != 0 {
						rt.Fatalf("%+v: held %v", *sp, held)
					}
				}
				spent := mustSpend(rt, store, sp)
				if peeked.Now.Sub(now) > 5*time.Second || peeked.Allowed != spent.Allowed || peeked.Full != spent.Full || !sameStates(peeked.States, spent.States) {
					rt.Fatalf("%+v:\npeeked %+v\n spent %+v", *sp, peeked, spent)
				}
			}
		})
	})
}

func sameStates(a, b []limits.State) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Spent != b[i].Spent || !a[i].Reset.Equal(b[i].Reset) {
			return false
		}
	}
	return true
}

// Units that a server has leased are told, and count as spent.
func TestPeekTellsLeases(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 10, 0, 0, 50e6, time.UTC))
		l := b.leases(t, Options{})
		windows := one(100_000, limits.Hour)
		for range 50 {
			mustSpend(t, l, spendOf(windows, 1))
		}
		res, held, err := NewStore(b.client, b.now).Peek(context.Background(), spendOf(windows, 1))
		if err != nil || held[0] == 0 || res.States[0].Spent < 50+1 || res.States[0].Spent > 50+1+held[0] {
			t.Errorf("%+v, held %v, %v", res, held, err)
		}
	})
}

// A value that is no counter is broken, as it is for a spend; a store that is away is not.
func TestPeekOfWhatIsBroken(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		ctx := context.Background()
		store := NewStore(b.client, b.now)
		var broken *limits.BrokenError
		for _, text := range []string{"", "1", "1:x", "1:2:3", "1:2:3:4", "1:-2", "x:1", "1:9007199254740992"} {
			if err := b.client.HSet(ctx, countKey("k"), "hour:one", text).Err(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := store.Peek(ctx, &limits.Spend{ID: "k", Windows: []limits.Window{{Name: "one", Limit: 5, Per: limits.Hour}}, Cost: 1}); !errors.As(err, &broken) {
				t.Errorf("%q: %v", text, err)
			}
		}
		for _, key := range []string{countKey("text"), slotsKey("text")} {
			if err := b.client.Set(ctx, key, "text", 0).Err(); err != nil {
				t.Fatal(err)
			}
			sp := &limits.Spend{ID: "text", Windows: one(5, limits.Hour), Cost: 1, Slot: slotOf("s", 1)}
			if _, _, err := store.Peek(ctx, sp); !errors.As(err, &broken) {
				t.Errorf("%s is a text: %v", key, err)
			}
			b.client.Del(ctx, key)
		}
		if _, _, err := store.Peek(ctx, &limits.Spend{}); !errors.As(err, &broken) {
			t.Errorf("an invalid spend: %v", err)
		}
		if res, _, err := store.Peek(ctx, &limits.Spend{ID: "k"}); err != nil || !res.Allowed {
			t.Errorf("no limits: %+v, %v", res, err)
		}
		b.stop()
		if _, _, err := store.Peek(ctx, &limits.Spend{ID: "k", Windows: one(5, limits.Hour), Cost: 1}); err == nil || errors.As(err, &broken) {
			t.Errorf("a store that is away: %v", err)
		}
	})
}

// In a cluster the node that counts is asked, whichever that is.
func TestPeekOnACluster(t *testing.T) {
	nodes := redistest.StartCluster(t, 2)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Address(), nodes[1].Address()}, MaxRetries: -1})
	defer c.Close()
	store := NewStore(c, nil)
	for i := range 10 {
		sp := takes(fmt.Sprint("s", i), 5)
		sp.ID = fmt.Sprint("key", i)
		mustSpend(t, store, sp)
		res, _, err := store.Peek(context.Background(), sp)
		if err != nil || !res.Allowed || res.States[0].Spent != 2 || res.InUse != 2 {
			t.Errorf("%s: %+v, %v", sp.ID, res, err)
		}
	}
}

// A shadow counts beyond its limit, in the store as in this process, and leaves the others alone.
func TestShadowsInTheStore(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, time.Date(2031, 5, 5, 10, 0, 0, 50e6, time.UTC))
		windows := []limits.Window{{Name: "hour", Limit: 2, Per: limits.Hour, Shadow: true}, {Name: "none", Limit: 0, Per: limits.Hour, Shadow: true}, {Name: "day", Limit: 5, Per: limits.Day}}
		l := b.leases(t, Options{})
		for i := range int64(7) {
			res := mustSpend(t, l, &limits.Spend{ID: "k", Windows: windows, Cost: 1, Exact: true})
			if spent := min(i+1, 5); res.Allowed != (i < 5) || res.States[0].Spent != spent || res.States[1].Spent != spent || windows[0].WouldDeny(res.States[0], 1) != (i >= 2) {
				t.Errorf("spend %d: %+v", i, res)
			}
		}
		// As a limit again, it is spent.
		windows[0].Shadow, windows[1].Shadow, windows[2].Limit = false, true, 100
		if res := mustSpend(t, l, &limits.Spend{ID: "k", Windows: windows, Cost: 1, Exact: true}); res.Allowed || res.States[0].Spent != 5 {
			t.Errorf("out of shadow mode: %+v", res)
		}
	})
}
