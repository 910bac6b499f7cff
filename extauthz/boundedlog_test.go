package extauthz_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/standing"
	"tollgate/policy/limits"
)

// A flood of one message costs a hundred lines a second, hides no other, and is counted.
func TestBoundedLog(t *testing.T) {
	out, now := &extauthztest.Logs{}, time.Unix(1_800_000_000, 0)
	log := extauthz.NewBoundedLog(slog.New(slog.NewTextHandler(out, nil)))
	over, end := log.SetClock(func() time.Time { return now })
	warn := func(message string, times int) {
		for i := range times {
			log.Log(t.Context(), slog.LevelWarn, message, slog.Int("i", i))
		}
	}
	lines := func(part string) int { return strings.Count(out.String(), part) }
	warn("first", 1000)
	warn("second", 1)
	over()
	if lines("msg=first") != 100 || lines("msg=second") != 1 || lines("not_logged") != 0 {
		t.Errorf("%d and %d lines", lines("msg=first"), lines("msg=second"))
	}
	now = now.Add(10 * time.Millisecond)
	warn("first", 1)
	if lines("msg=first i=0 not_logged=900") != 1 {
		t.Error("the next line does not count the others")
	}
	warn("first", 5)
	now = now.Add(time.Second)
	over()
	over()
	if lines(`level=WARN msg="more of the same" message=first not_logged=5`) != 1 {
		t.Errorf("a flood that is over is not told:\n%s", out)
	}
	warn("first", 200)
	end()
	end()
	if lines(`message=first not_logged=100`) != 1 {
		t.Error("the rest is not told at the end")
	}
}

// failing is a store of limits, or of keys, that fails like this.
type failing struct{ err error }

func (f failing) Lookup(context.Context, keys.Digest) (keys.Grant, error) { return keys.Grant{}, f.err }
func (f failing) Try(*limits.Spend, *limits.Result) bool                  { return false }
func (f failing) Spend(context.Context, *limits.Spend) (limits.Result, error) {
	return limits.Result{}, f.err
}

// Whatever Redis says to each request, the log stays small: with a spend as with a look-up, in the
// one form of failure as in the other.
func TestTroubleDoesNotFillTheLog(t *testing.T) {
	const requests = 1000
	secret, entries := extauthztest.SmallKey()
	reply := func(text string) failing { return failing{errors.New(text)} }
	for what, c := range map[string]struct {
		change func(*extauthz.Config)
		says   string
	}{
		"full":           {func(c *extauthz.Config) { c.Limits = reply("OOM command not allowed") }, "limits not spent"},
		"read only":      {func(c *extauthz.Config) { c.Limits = reply("READONLY You can't write") }, "limits not spent"},
		"cluster down":   {func(c *extauthz.Config) { c.Limits = reply("CLUSTERDOWN The cluster is down") }, "limits not spent"},
		"broken counter": {func(c *extauthz.Config) { c.Limits = failing{&limits.BrokenError{}} }, "limits not spent"},
		"wrong password": {func(c *extauthz.Config) { c.Keys = reply("WRONGPASS invalid") }, "key look-up failed"},
		"broken record": {func(c *extauthz.Config) {
			c.Keys = failing{&keys.CorruptError{ID: "key_1", Err: errors.New("it is missing")}}
		}, "corrupt key record"},
		"an emptied store": {func(c *extauthz.Config) { c.Keys = failing{fmt.Errorf("x: %w", standing.ErrEmptied)} }, "undecided"},
		"a panic":          {func(c *extauthz.Config) { c.Keys = nil }, `"panic"`},
	} {
		s := extauthztest.NewStack(t, func(config *extauthz.Config) { c.change(config); config.Decisions = extauthz.LogDenied }, extauthztest.SmallFile())
		s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		client, began := authv3.NewAuthorizationClient(s.Dial(t)), time.Now()
		for range requests {
			_, _ = client.Check(extauthztest.Within(t), extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		}
		most := int(2*(100+100*time.Since(began).Seconds())) + 10 // of the trouble, and of the denials
		if n := strings.Count(s.Log.String(), "\n"); n > most || !strings.Contains(s.Log.String(), c.says) {
			t.Errorf("%s: %d lines for %d requests, want %d at most:\n%.300s", what, n, requests, most, s.Log)
		}
	}
}
