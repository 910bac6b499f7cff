package admin

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

// What a key is granted stands in its record until its end, is audited, and is the operator's to
// give.
func testExtras(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	now := keystest.Noon()
	m.now = func() time.Time { return now }
	more := func(n int64, until time.Time) keys.Extra {
		return keys.Extra{Name: "minute", Requests: n, Until: until}
	}
	k, _ := mustCreate(t, m, func(k *keys.Key) { k.Extras = []keys.Extra{more(1<<40, now.Add(time.Hour))} })
	if len(k.Extras) > 0 {
		t.Error("Create grants")
	}
	elsewhere := now.Add(time.Hour + 7).In(time.FixedZone("x", 3600))
	got := keystest.Must[*keys.Key](t)(m.GrantExtra(ctx, k.ID, more(5, elsewhere)))
	want := []keys.Extra{more(5, now.Add(time.Hour))}
	if stored := keystest.Must[*keys.Key](t)(m.Get(ctx, k.ID)); !reflect.DeepEqual(got.Extras, want) || !reflect.DeepEqual(stored.Extras, want) || got.Version != 2 {
		t.Errorf("%+v, stored %+v", got, stored)
	}
	// A successor has them too, and any other change leaves them.
	next, _, err := m.Rotate(ctx, k.ID, time.Hour)
	if err != nil || !reflect.DeepEqual(next.Extras, want) {
		t.Errorf("%+v, %v", next, err)
	}
	none, name := []keys.Override{}, "other"
	if got := keystest.Must[*keys.Key](t)(m.Update(ctx, next.ID, Patch{Name: &name, Limits: &none})); !reflect.DeepEqual(got.Extras, want) {
		t.Errorf("%+v", got)
	}
	// What is over leaves with the next grant.
	now = now.Add(2 * time.Hour)
	got = keystest.Must[*keys.Key](t)(m.GrantExtra(ctx, next.ID, more(6, now.Add(time.Hour))))
	if want = []keys.Extra{more(6, now.Add(time.Hour))}; !reflect.DeepEqual(got.Extras, want) {
		t.Errorf("%+v", got)
	}
	for range keys.MaxExtras - 1 {
		keystest.Must[*keys.Key](t)(m.GrantExtra(ctx, next.ID, more(1, now.Add(time.Hour))))
	}
	revoked, _ := mustCreate(t, m)
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, revoked.ID))
	refuse := func(id string, x keys.Extra) error { _, err := m.GrantExtra(ctx, id, x); return err }
	for what, err := range map[string]error{
		"extras: 17 are more":       refuse(next.ID, more(1, now.Add(time.Hour))),
		"until: 2026-01-15T14:00":   refuse(next.ID, more(1, now)),
		"requests: 0 is not 1":      refuse(k.ID, more(0, now.Add(time.Hour))),
		"no limit gone":             refuse(k.ID, keys.Extra{Name: "gone", Requests: 1, Until: now.Add(time.Hour)}),
		store.ErrFinal.Error():      refuse(revoked.ID, more(1, now.Add(time.Hour))),
		store.ErrNoKey.Error():      refuse("key_nobody", more(1, now.Add(time.Hour))),
		`has nothing more of "day"`: func() error { _, err := m.TakeExtras(ctx, next.ID, "day"); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := keystest.Must[*keys.Key](t)(m.TakeExtras(ctx, next.ID, "minute")); len(got.Extras) > 0 {
		t.Errorf("%+v", got)
	}
	entries, _, err := m.audit.Read(ctx, "", 2, audit.NewestFirst)
	if err != nil || entries[1].Action != roles.ActionGrantExtra || !strings.Contains(string(entries[1].Before), `"extras":[{"name":"minute","requests":6,"until":"2026-01-15T15:00:00Z"}`) ||
		strings.Contains(string(entries[1].After), "extras") || entries[0].Result != "done" {
		t.Errorf("%+v, %v", entries, err)
	}
	onlyTheOperator(t, c, k)
}

// onlyTheOperator says that no member grants or resets, not even an admin.
func onlyTheOperator(t *testing.T, c redis.UniversalClient, k *keys.Key) {
	t.Helper()
	ann := operatorOf(c, nil)
	ann.who = roles.Actor{ID: "mem_1", Name: "Ann", API: k.API, Team: k.Team, Role: roles.Admin}
	_, granted := ann.GrantExtra(t.Context(), k.ID, keys.Extra{Name: "minute", Requests: 1, Until: keystest.Noon().Add(9 * time.Hour)})
	_, taken := ann.TakeExtras(t.Context(), k.ID, "minute")
	reset := ann.ResetLimits(t.Context(), k.ID, nil, func(context.Context) error { t.Error("it is reset"); return nil })
	for _, err := range []error{granted, taken, reset} {
		if !errors.Is(err, roles.ErrForbidden) || !strings.Contains(err.Error(), "only the operator may") {
			t.Errorf("%v", err)
		}
	}
	ann.who.Team = "other"
	if _, err := ann.GrantExtra(t.Context(), k.ID, keys.Extra{}); !errors.Is(err, store.ErrNoKey) {
		t.Errorf("a key of another team: %v", err)
	}
}

// A reset is told to servers before and after it, between two entries of the audit stream.
func testResetLimits(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	next, _, err := m.Rotate(ctx, k.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	resets := 0
	reset := func(context.Context) error { resets++; return nil }
	told := messages(t, c, func() {
		if err := m.ResetLimits(ctx, next.ID, json.RawMessage(`{"limits":[{"name":"month","spent":7}]}`), reset); err != nil {
			t.Error(err)
		}
	})
	if resets != 1 || len(told) != 2 {
		t.Errorf("%d resets, told %q", resets, told)
	}
	for _, message := range told {
		if change, ok := store.ParseChange(message); !ok || change.Digest != next.Digest || change.LimitID != k.ID {
			t.Errorf("%q", message)
		}
	}
	entries, _, err := m.audit.Read(ctx, "", 2, audit.NewestFirst)
	if err != nil || entries[1].Action != roles.ActionResetLimit || entries[1].IDs[0] != next.ID || !strings.Contains(string(entries[1].Before), `"spent":7`) || entries[0].Result != "done" {
		t.Errorf("%+v, %v", entries, err)
	}
	away := errors.New("away")
	if err := m.ResetLimits(ctx, next.ID, nil, func(context.Context) error { return away }); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	entries, _, err = m.audit.Read(ctx, "", 1, audit.NewestFirst)
	if err != nil || entries[0].Result != "error: away" {
		t.Errorf("%+v, %v", entries, err)
	}
	if err := m.ResetLimits(ctx, "key_nobody", nil, reset); !errors.Is(err, store.ErrNoKey) || resets != 1 {
		t.Errorf("%v, %d resets", err, resets)
	}
}
