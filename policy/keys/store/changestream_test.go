package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// Whoever subscribes hears of each change of a key, with its digest, and of heartbeats, in their
// order.
func TestChangeStream(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, c redis.UniversalClient) {
		ctx, s := t.Context(), New(c)
		stream, err := s.Subscribe(ctx, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Create(ctx, keystest.Sample()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PublishHeartbeat(ctx); err != nil {
			t.Fatal(err)
		}
		message, again, err := stream.Next(ctx)
		change, ok := ParseChange(message)
		if err != nil || again || !ok || change.Digest != keystest.Sample().Digest || change.LimitID != "" || time.Since(change.Made).Abs() > time.Hour {
			t.Errorf("%q, %t, %v", message, again, err)
		}
		if message, again, err := stream.Next(ctx); message != Heartbeat || again || err != nil {
			t.Errorf("%q, %t, %v", message, again, err)
		}
		if err := s.PublishReset(ctx, keystest.Sample()); err != nil {
			t.Error(err)
		}
		message, _, err = stream.Next(ctx)
		change, ok = ParseChange(message)
		if err != nil || !ok || change.Digest != keystest.Sample().Digest || change.LimitID != "key_pb_full" || time.Since(change.Made).Abs() > time.Hour {
			t.Errorf("%q, %v", message, err)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		if _, _, err := stream.Next(ctx); err == nil {
			t.Error("it goes on after its end")
		}
	})
}

func TestSubscribeEndsWithItsCaller(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(keystest.NewEmbedded(t)).Subscribe(ended, time.Second); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := New(keystest.NewSilent(t)).Subscribe(t.Context(), 30*time.Millisecond); err == nil {
		t.Error("a store that does not answer")
	}
}

func TestParseChange(t *testing.T) {
	digits := strings.Repeat("0a", len(keys.Digest{}))
	for rest, limitID := range map[string]string{"key_pb_full": "", "key_pb_full key_first": "key_first"} {
		c, ok := ParseChange("1700000000123 " + digits + " " + rest)
		if !ok || c.Digest != (keys.Digest)([]byte(strings.Repeat("\n", len(c.Digest)))) || c.Made.UnixMilli() != 1_700_000_000_123 || c.LimitID != limitID {
			t.Errorf("%+v, %v", c, ok)
		}
	}
	for _, broken := range []string{
		"", "hb", "x " + digits + " key_a", "1 " + digits, "1 " + digits[2:] + " key_a", "1 " + digits + "0a key_a", "1 zz" + digits[2:] + " key_a",
	} {
		if _, ok := ParseChange(broken); ok {
			t.Errorf("%q is a change", broken)
		}
	}
}

// A server that confirms a change is not waited for, nor is one that has ended.
func TestServersConfirm(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, c redis.UniversalClient) {
		ctx, s := t.Context(), New(c)
		now, err := s.Time(ctx)
		if err != nil {
			t.Fatal(err)
		}
		confirm := func(server string, heard time.Time) {
			t.Helper()
			if err := s.ConfirmChanges(ctx, server, heard.UnixMilli(), time.Minute, true); err != nil {
				t.Fatal(err)
			}
		}
		confirm("hears", now.Add(time.Hour))
		confirm("cut off", now.Add(-time.Hour))
		var unheard *UnheardError
		if err := s.AwaitServers(ctx, "key_any", time.Millisecond); !errors.As(err, &unheard) || len(unheard.Servers) != 1 || !strings.HasPrefix(unheard.Servers[0], "cut off, ") {
			t.Errorf("%v", err)
		}
		if err := s.ForgetServer(ctx, "cut off"); err != nil {
			t.Error(err)
		}
		if err := s.AwaitServers(ctx, "key_any", time.Millisecond); err != nil {
			t.Errorf("after its end: %v", err)
		}
	})
}
