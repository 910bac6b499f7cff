package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys/keystest"
)

// aServer is a cache that confirms what it hears, and its ticks.
func aServer(t *testing.T, client redis.UniversalClient, name string, options ...func(*CacheOptions)) (*Cache, *keystest.Clock, chan<- time.Time) {
	c, clock := newTestCache(client, append(options, func(o *CacheOptions) { o.Server = name })...)
	ticks := run(t, c)
	keystest.Await(t, "the server is known", func(ctx context.Context) bool {
		return strings.HasPrefix(client.HGet(ctx, serversKey, name).Val(), fmt.Sprint(c.stream.latest.Load(), " "))
	})
	return c, clock, ticks
}

// A revocation is confirmed by all servers, as users of our rules. One that ends is not waited for.
func TestServersConfirm(t *testing.T) {
	keystest.OnEveryStoreAs(t, connect.ServerACL(), func(t *testing.T, client redis.UniversalClient) {
		one, oneClock, oneTicks := aServer(t, client, "one")
		_, twoClock, twoTicks := aServer(t, client, "two")
		k := Sample()
		create(t, client, k)
		status(t, one, k.Digest)
		change(t, client, revoked(k), true)
		confirmed := make(chan error)
		go func() { confirmed <- NewStore(client).AwaitServers(t.Context(), k.ID, 10*time.Second) }()
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
		if got := status(t, one, k.Digest); got != Revoked {
			t.Error(got)
		}
	})
}

func TestServersThatLeave(t *testing.T) {
	client := keystest.NewEmbedded(t)
	t.Run("here", func(t *testing.T) { aServer(t, client, "one") }) // until its end
	if n := client.HLen(t.Context(), serversKey).Val(); n != 0 {
		t.Errorf("%d servers left", n)
	}
	if err := NewStore(client).AwaitServers(t.Context(), "key_any", time.Second); err != nil {
		t.Error(err)
	}
}

// One that does not hear is named, for as long as it may serve what it knows.
func TestServersThatDoNotHear(t *testing.T) {
	client := keystest.NewServer(t)
	now, err := client.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	line := func(heard, seen time.Duration) string {
		return fmt.Sprint(now.Add(heard).UnixMilli(), now.Add(seen).UnixMilli(), time.Minute.Milliseconds())
	}
	client.HSet(t.Context(), serversKey,
		"cut off", line(-time.Minute, -30*time.Second), "long gone", line(-time.Hour, -2*time.Minute), "heard", line(time.Minute, 0), "odd", "?")
	err = NewStore(client).AwaitServers(t.Context(), "key_any", 50*time.Millisecond)
	var unheard *UnheardError
	if !errors.Is(err, ErrUnheard) || !errors.As(err, &unheard) || len(unheard.Servers) != 2 {
		t.Fatal(err)
	}
	until := now.Add(30*time.Second + present + silence).UTC().Format(time.RFC3339)
	if want := "cut off, last seen " + now.Add(-30*time.Second).UTC().Format(time.RFC3339) + ", may serve the key until " + until; unheard.Servers[0] != want {
		t.Errorf("%s\nwant %s", unheard.Servers[0], want)
	}
	if !strings.HasPrefix(unheard.Servers[1], "odd: ") || !strings.Contains(err.Error(), "cut off") {
		t.Error(err)
	}
	// What is of no use any more goes when a server comes.
	client.HSet(t.Context(), serversKey, "of yesterday", line(-48*time.Hour, -25*time.Hour))
	aServer(t, client, "new")
	if got := client.HGetAll(t.Context(), serversKey).Val(); len(got) != 4 || got["odd"] != "" || got["of yesterday"] != "" {
		t.Errorf("%v", got)
	}
}

// Not to know is not to be sure.
func TestServersThatNobodyMayAsk(t *testing.T) {
	admin := keystest.NewServer(t)
	address := admin.(*redis.Client).Options().Addr
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "old", "on", ">pw", "+@all", "allchannels", "~tg:v1:key:*").Err(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: address, Username: "old", Password: "pw", MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	if err := NewStore(client).AwaitServers(t.Context(), "key_any", time.Second); !errors.Is(err, ErrUnheard) || !strings.Contains(err.Error(), "NOPERM") {
		t.Error(err)
	}
	var log keystest.Lines
	c, _ := newTestCache(client, func(o *CacheOptions) { o.Server, o.Log = "old", slog.New(slog.NewTextHandler(&log, nil)) })
	ticks := run(t, c)
	keystest.Await(t, "it is told", func(context.Context) bool { tick(ticks); return strings.Contains(log.String(), "NOPERM") })
	if !c.Stream().Listening || strings.Count(log.String(), "has heard") != 1 {
		t.Errorf("%+v, log:\n%s", c.Stream(), log.String())
	}
}

// A clock of the store that was ahead for a while confirms nothing that comes after.
func TestServersAfterAClockJump(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, clock, _ := aServer(t, client, "one")
	c.apply(changeOf(Sample(), time.Now().Add(400*24*time.Hour)))
	c.apply(changeOf(Sample(), time.Now()))
	clock.Advance(present)
	c.stream.wake()
	keystest.Await(t, "the latest is confirmed", func(ctx context.Context) bool {
		var heard int64
		fmt.Sscan(client.HGet(ctx, serversKey, "one").Val(), &heard)
		return heard > 0 && heard < time.Now().Add(time.Hour).UnixMilli()
	})
}
