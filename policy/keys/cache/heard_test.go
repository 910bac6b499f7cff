package cache

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

// aServer is a cache that confirms what it hears, and its ticks.
func aServer(t *testing.T, client redis.UniversalClient, name string, options ...func(*Options)) (*Cache, *keystest.Clock, chan<- time.Time) {
	c, clock := newTestCache(client, append(options, func(o *Options) { o.Server = name })...)
	ticks := run(t, c)
	keystest.Await(t, "the server is known", func(ctx context.Context) bool {
		return strings.HasPrefix(client.HGet(ctx, keystest.Servers, name).Val(), fmt.Sprint(c.stream.latest.Load(), " "))
	})
	return c, clock, ticks
}

// A revocation is confirmed by all servers, as users of our rules. One that ends is not waited for.
func TestServersConfirm(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		one, oneClock, oneTicks := aServer(t, client, "one")
		_, twoClock, twoTicks := aServer(t, client, "two")
		k := keystest.Sample()
		create(t, client, k)
		status(t, one, k.Digest)
		change(t, client, revoked(k), true)
		confirmed := make(chan error)
		go func() { confirmed <- store.New(client).AwaitServers(t.Context(), k.ID, 10*time.Second) }()
		for waits := true; waits; {
			select {
			case err := <-confirmed:
				if waits = false; err != nil {
					t.Error(err)
				}
			default:
				// The pauses between two words of a server are over.
				oneClock.Advance(confirmPause)
				twoClock.Advance(confirmPause)
				tick(oneTicks)
				tick(twoTicks)
			}
		}
		if got := status(t, one, k.Digest); got != keys.Revoked {
			t.Error(got)
		}
	})
}

func TestServersThatLeave(t *testing.T) {
	client := keystest.NewEmbedded(t)
	t.Run("here", func(t *testing.T) { aServer(t, client, "one") }) // until its end
	if n := client.HLen(t.Context(), keystest.Servers).Val(); n != 0 {
		t.Errorf("%d servers left", n)
	}
	if err := store.New(client).AwaitServers(t.Context(), "key_any", time.Second); err != nil {
		t.Error(err)
	}
}

// A clock of the store that was ahead for a while confirms nothing that comes after.
func TestServersAfterAClockJump(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock, _ := aServer(t, client, "one")
	c.apply(changeOf(keystest.Sample(), time.Now().Add(400*24*time.Hour)))
	c.apply(changeOf(keystest.Sample(), time.Now()))
	clock.Advance(store.Present)
	c.stream.wake()
	keystest.Await(t, "the latest is confirmed", func(ctx context.Context) bool {
		var heard int64
		fmt.Sscan(client.HGet(ctx, keystest.Servers, "one").Val(), &heard)
		return heard > 0 && heard < time.Now().Add(time.Hour).UnixMilli()
	})
}

// What is of no use any more goes when a server comes.
func TestServersThatAreLongGone(t *testing.T) {
	client := keystest.NewServer(t)
	now := keystest.Must[time.Time](t)(client.Time(t.Context()).Result())
	line := func(seen time.Duration) string {
		return fmt.Sprint(now.Add(-48*time.Hour).UnixMilli(), now.Add(seen).UnixMilli(), time.Minute.Milliseconds())
	}
	client.HSet(t.Context(), keystest.Servers, "cut off", line(-30*time.Second), "odd", "?", "of yesterday", line(-25*time.Hour))
	aServer(t, client, "new")
	if got := client.HGetAll(t.Context(), keystest.Servers).Val(); len(got) != 2 || got["cut off"] == "" || got["new"] == "" {
		t.Errorf("%v", got)
	}
}

// A server that may not say what it has heard says so in its log, once, and goes on.
func TestServerThatMayNotConfirm(t *testing.T) {
	client := keystest.NewServerWith(t, "+@all", "allchannels", "~tg:v1:key:*")
	var log keystest.Lines
	c, _ := newTestCache(client, func(o *Options) { o.Server, o.Log = "old", slog.New(slog.NewTextHandler(&log, nil)) })
	ticks := run(t, c)
	keystest.Await(t, "it is told", func(context.Context) bool { tick(ticks); return strings.Contains(log.String(), "NOPERM") })
	if !c.Stream().Listening || strings.Count(log.String(), "has heard") != 1 {
		t.Errorf("%+v, log:\n%s", c.Stream(), log.String())
	}
}
