package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"
)

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
	err = New(client).AwaitServers(t.Context(), "key_any", 50*time.Millisecond)
	var unheard *UnheardError
	if !errors.Is(err, ErrUnheard) || !errors.As(err, &unheard) || len(unheard.Servers) != 2 {
		t.Fatal(err)
	}
	const lag = 5 * time.Second // between two words of a server, and until it knows that it hears nothing
	until := now.Add(30*time.Second + lag).UTC().Format(time.RFC3339)
	if want := "cut off, last seen " + now.Add(-30*time.Second).UTC().Format(time.RFC3339) + ", may serve the key until " + until; unheard.Servers[0] != want {
		t.Errorf("%s\nwant %s", unheard.Servers[0], want)
	}
	if !strings.HasPrefix(unheard.Servers[1], "odd: ") || !strings.Contains(err.Error(), "cut off") {
		t.Error(err)
	}
}

// Those that have heard, and one that is long gone, are not waited for.
func TestServersThatHaveHeard(t *testing.T) {
	client := keystest.NewServer(t)
	s := New(client)
	if err := s.AwaitServers(t.Context(), "key_any", time.Second); err != nil {
		t.Errorf("without servers: %v", err)
	}
	now := keystest.Must[time.Time](t)(client.Time(t.Context()).Result())
	line := func(heard, seen time.Duration) string {
		return fmt.Sprint(now.Add(heard).UnixMilli(), now.Add(seen).UnixMilli(), time.Minute.Milliseconds())
	}
	client.HSet(t.Context(), serversKey, "heard", line(time.Minute, 0), "long gone", line(-time.Hour, -2*time.Minute))
	if err := s.AwaitServers(t.Context(), "key_any", time.Second); err != nil {
		t.Error(err)
	}
}

// Not to know is not to be sure.
func TestServersThatNobodyMayAsk(t *testing.T) {
	client := keystest.NewServerWith(t, "+@all", "allchannels", "~tg:v1:key:*")
	if err := New(client).AwaitServers(t.Context(), "key_any", time.Second); !errors.Is(err, ErrUnheard) || !strings.Contains(err.Error(), "NOPERM") {
		t.Error(err)
	}
}
