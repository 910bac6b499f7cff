package store

import (
	"errors"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

func testCaps(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	n := byte(0)
	named := func(id string, edits ...func(*keys.Key)) *keys.Key {
		n++
		return keystest.Sample(append([]func(*keys.Key){func(k *keys.Key) {
			k.ID, k.LimitID, k.Digest, k.Environment = "key_"+id, "key_"+id, keys.Digest{n}, "live"
		}}, edits...)...)
	}
	two := &Cap{Environment: "live", Plan: "free", Most: 2}
	for _, k := range []*keys.Key{named("aaaa"), named("bbbb")} {
		if err := s.CreateWithin(ctx, k, two); err != nil {
			t.Fatal(err)
		}
	}
	third := named("cccc")
	var capped *CapError
	if err := s.CreateWithin(ctx, third, two); !errors.As(err, &capped) || !errors.Is(err, ErrCap) || capped.Active != 2 || capped.Most != 2 {
		t.Fatalf("the third: %v", err)
	}
	for _, part := range []string{"team_orbit", "pixelbyte", "2 active keys", `"live"`, `"free"`, "allows 2", "revoke"} {
		if !strings.Contains(capped.Error(), part) {
			t.Errorf("the error does not say %s: %v", part, capped)
		}
	}
	if _, err := s.Lookup(ctx, third.Digest); !errors.Is(err, keys.ErrUnknown) {
		t.Errorf("the refused key: %v", err)
	}
	// What does not count has room.
	for _, k := range []*keys.Key{
		named("dddd", func(k *keys.Key) { k.Environment = "test" }),
		named("eeee", func(k *keys.Key) { k.Status = keys.Inactive }),
		named("ffff", func(k *keys.Key) { k.Team = "other" }),
		named("gggg", func(k *keys.Key) { k.Team = "" }),
		named("hhhh", func(k *keys.Key) { k.API = "other" }),
	} {
		limit := *two
		limit.Environment = k.Environment
		if err := s.CreateWithin(ctx, k, &limit); err != nil {
			t.Errorf("%s: %v", k.ID, err)
		}
	}
	if err := s.CreateWithin(ctx, named("iiii"), &Cap{Environment: "live", Plan: "none", Most: 0}); !errors.Is(err, ErrCap) {
		t.Errorf("a cap of 0: %v", err)
	}
	// A refused create gives its place back: one with a known id, and one with another key's
	// secret.
	four := &Cap{Environment: "live", Plan: "pro", Most: 3}
	if err := s.CreateWithin(ctx, named("aaaa"), four); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if err := s.CreateWithin(ctx, named("jjjj", func(k *keys.Key) { k.Digest = keys.Digest{1} }), four); !errors.Is(err, ErrSecretTaken) {
		t.Error(err)
	}
	if err := s.CreateWithin(ctx, named("x y"), four); err == nil {
		t.Error("an invalid key was made")
	}
	if err := s.CreateWithin(ctx, named("kkkk"), four); err != nil {
		t.Error(err)
	}
	keystest.Consistent(t, c)
	twice := &keystest.Overtake{N: 2, Argument: s.scripts.enlist.Hash(), Do: func() {}}
	c.AddHook(twice)
	if err := s.CreateWithin(ctx, named("nnnn"), &Cap{Environment: "live", Plan: "pro", Most: 4}); err != nil || twice.Done() {
		t.Errorf("noted twice in its team's set: %t, %v", twice.Done(), err)
	}
	keystest.Consistent(t, c)
	c.Set(ctx, teamKeysKey("pixelbyte", "broken"), "x", 0)
	err := s.CreateWithin(ctx, named("llll", func(k *keys.Key) { k.Team = "broken" }), four)
	expectCorrupt(t, "a team's set", err, "team pixelbyte/broken", "not a hash")
	err = s.Create(ctx, named("mmmm", func(k *keys.Key) { k.Team = "broken" }))
	expectCorrupt(t, "a team's set", err, "team pixelbyte/broken", "not a hash")
}

// What a team's set says of a later version of a key stays; what a Write noted that came too late
// goes.
func testTeamSetKeepsUp(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	k := keystest.Sample(func(k *keys.Key) { k.Status = keys.Inactive })
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	noted := func() teamEntry {
		l, ok := parseTeamEntry(c.HGet(ctx, teamKeysKey(k.API, k.Team), k.ID).Val())
		if !ok {
			t.Error("no note")
		}
		return l
	}
	later := k.Clone()
	later.Version, later.Status = 5, keys.Active
	if err := errors.Join(s.enlist(ctx, later, nil), s.enlist(ctx, k, nil)); err != nil {
		t.Fatal(err)
	}
	if got := noted(); got.version != 5 || !got.counts || got.since == 0 {
		t.Errorf("an older version took its place: %+v", got)
	}
	if err := s.relist(ctx, k.ID, 5); err != nil || noted().counts {
		t.Errorf("relist: %+v, %v", noted(), err)
	}
	other := k.Clone()
	other.Note = "meanwhile"
	keystest.Must[*keys.Key](t)(s.Write(ctx, k, other))
	c.HDel(ctx, teamKeysKey(k.API, k.Team), k.ID)
	active := k.Clone()
	active.Status = keys.Active
	if _, err := s.Write(ctx, k, active); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	if noted().counts {
		t.Error("a key counts whose activation came too late")
	}
	keystest.Consistent(t, c)
	// Nothing that leads to another key is taken away.
	if done, err := s.unlink(ctx, k.Digest, "key_other"); done || err != nil {
		t.Errorf("unlink = %t, %v", done, err)
	}
	if _, err := s.Lookup(ctx, k.Digest); err != nil {
		t.Error(err)
	}
}
