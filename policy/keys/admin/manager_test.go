package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

func testManager(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	k, secret := mustCreate(t, m, keystest.WithIPs("10.0.0.0/8"), func(k *keys.Key) {
		// All that is not the caller's to say.
		k.ID, k.LimitID, k.CreatedBy, k.RotatedFrom, k.RotatedTo = "key_mine", "key_mine", "eve", "key_aaaa", "key_bbbb"
		k.RetiresAt, k.Version, k.Digest, k.Other, k.Algorithm = keystest.Noon(), 9, keys.Digest{1}, keys.Digest{2}, "x"
	})
	if !keys.HasChecksum(secret, "pk_live_") {
		t.Error("the secret has another form")
	}
	want := &keys.Key{
		ID: k.ID, API: "pictify", Team: "orbit", Name: "site", Environment: "live", Plan: "free", LimitID: k.ID, CreatedBy: "ops",
		Scopes: []string{"render"}, IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Status: keys.Active,
		CreatedAt: keystest.Noon(), UpdatedAt: keystest.Noon(), AnchorDay: 15, Version: 1, Algorithm: keys.AlgorithmHMACSHA256,
		Digest: m.hasher.Digest(secret),
	}
	if len(k.ID) != len("key_")+16 || !reflect.DeepEqual(k, want) {
		t.Errorf("Create = %+v", k)
	}
	if got := keystest.Must[*keys.Key](t)(m.store.Lookup(ctx, m.hasher.Digest(secret))); !reflect.DeepEqual(got, want) {
		t.Errorf("Lookup = %+v", got)
	}
	name, note, plan, scopes := "shop", "n", "pro", []string{"templates"}
	ips, limits, end := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, []keys.Override{{Name: "minute", Requests: 5}}, keystest.Noon().Add(time.Hour)
	got := keystest.Must[*keys.Key](t)(m.Update(ctx, k.ID, Patch{Name: &name, Note: &note, Plan: &plan, Scopes: &scopes, IPs: &ips, Limits: &limits, ExpiresAt: &end}))
	want.Name, want.Note, want.Plan, want.Scopes, want.IPs, want.Limits, want.ExpiresAt, want.Version = name, note, plan, scopes, ips, limits, end, 2
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Update = %+v", got)
	}
	if got := keystest.Must[*keys.Key](t)(m.Update(ctx, k.ID, Patch{Name: &name, Scopes: &scopes, IPs: &ips, Limits: &limits, ExpiresAt: &end})); got.Version != 2 {
		t.Error("an update that changes nothing wrote")
	}
	never := time.Time{}
	if got := keystest.Must[*keys.Key](t)(m.Update(ctx, k.ID, Patch{ExpiresAt: &never})); !got.ExpiresAt.IsZero() {
		t.Error("the expiry stays")
	}
	if got := keystest.Must[*keys.Key](t)(m.Deactivate(ctx, k.ID)); got.Status != keys.Inactive {
		t.Error("not inactive")
	}
	if got := keystest.Must[*keys.Key](t)(m.Activate(ctx, k.ID)); got.Status != keys.Active || got.Version != 5 {
		t.Errorf("%+v", got)
	}
	if got := keystest.Must[*keys.Key](t)(m.Activate(ctx, k.ID)); got.Version != 5 {
		t.Error("activating an active key wrote")
	}
	if _, err := m.Delete(ctx, k.ID); !errors.Is(err, store.ErrNotRevoked) {
		t.Errorf("Delete: %v", err)
	}
	if got := keystest.Must[*keys.Key](t)(m.Revoke(ctx, k.ID)); got.Status != keys.Revoked {
		t.Error("not revoked")
	}
	if got := keystest.Must[*keys.Key](t)(m.Revoke(ctx, k.ID)); got.Status != keys.Revoked || got.Version != 7 {
		t.Errorf("revoked again: %+v", got)
	}
	for what, call := range map[string]func() (*keys.Key, error){
		"activate":   func() (*keys.Key, error) { return m.Activate(ctx, k.ID) },
		"deactivate": func() (*keys.Key, error) { return m.Deactivate(ctx, k.ID) },
		"update":     func() (*keys.Key, error) { return m.Update(ctx, k.ID, Patch{Name: &plan}) },
		"rotate":     func() (*keys.Key, error) { k, _, err := m.Rotate(ctx, k.ID, 0); return k, err },
	} {
		if got, err := call(); !errors.Is(err, store.ErrFinal) || got != nil {
			t.Errorf("%s of a revoked key: %v", what, err)
		}
	}
	if got := keystest.Must[*keys.Key](t)(m.Delete(ctx, k.ID)); got.Name != "shop" {
		t.Errorf("Delete = %+v", got)
	}
	for what, call := range map[string]func() error{
		"get": func() error { _, err := m.Get(ctx, k.ID); return err }, "activate": func() error { _, err := m.Activate(ctx, k.ID); return err },
		"delete": func() error { _, err := m.Delete(ctx, k.ID); return err }, "rotate": func() error { _, _, err := m.Rotate(ctx, k.ID, 0); return err },
	} {
		if err := call(); !errors.Is(err, store.ErrDeleted) {
			t.Errorf("%s of a deleted key: %v", what, err)
		}
	}
	keystest.Consistent(t, c)
}

func testManagerRefuses(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	for field, edit := range map[string]func(*keys.Key){
		"name":        func(k *keys.Key) { k.Name = "" },
		"plan":        func(k *keys.Key) { k.Plan = "gold" },
		"environment": func(k *keys.Key) { k.Environment = "moon" },
		"status":      func(k *keys.Key) { k.Status = keys.Revoked },
		"expires_at":  func(k *keys.Key) { k.ExpiresAt = keystest.Noon() },
		"anchor_day":  func(k *keys.Key) { k.AnchorDay = 32 },
		"api":         func(k *keys.Key) { k.API = "" },
	} {
		var fault *keys.FieldError
		got, secret, err := m.Create(ctx, liveKey(edit), false)
		if !errors.As(err, &fault) || fault.Field != field || got != nil || secret != "" {
			t.Errorf("%s: %v, %v", field, got, err)
		}
	}
	if n := len(c.Keys(ctx, "tg:v1:key:*").Val()); n != 0 {
		t.Fatalf("%d keys were made", n)
	}
	k, _, err := m.Create(ctx, liveKey(func(k *keys.Key) { k.ExpiresAt, k.AnchorDay = keystest.Noon().Add(-time.Hour), 3 }), true)
	if err != nil || k.AnchorDay != 3 {
		t.Fatal(k, err)
	}
	past, name, gold, empty := keystest.Noon(), "other", "gold", ""
	for field, p := range map[string]Patch{"expires_at": {ExpiresAt: &past}, "name": {Name: &empty}, "plan": {Plan: &gold}} {
		var fault *keys.FieldError
		if _, err := m.Update(ctx, k.ID, p); !errors.As(err, &fault) || fault.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	// What is past already needs no force again, and what the policy has dropped can keep its name.
	keystest.Must[*keys.Key](t)(m.Update(ctx, k.ID, Patch{Name: &name}))
	keystest.Must[*keys.Key](t)(m.Update(ctx, k.ID, Patch{ExpiresAt: &past, Force: true}))
	gone := keystest.Sample(func(k *keys.Key) { k.Plan, k.API, k.ID = "gold", "pictify", "key_gone" })
	if err := m.store.Create(ctx, gone); err != nil {
		t.Fatal(err)
	}
	keystest.Must[*keys.Key](t)(m.Update(ctx, gone.ID, Patch{Name: &name}))
}

func testNoLostUpdate(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	name, note, plan, scopes := "a name", "a note", "pro", []string{"templates"}
	limits, end := []keys.Override{{Name: "minute", Requests: 5}}, keystest.Noon().Add(time.Hour)
	ips := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	patches := []Patch{{Name: &name}, {Note: &note}, {Plan: &plan}, {Scopes: &scopes}, {Limits: &limits}, {ExpiresAt: &end}, {IPs: &ips}}
	errs := make([]error, len(patches)+1)
	var wg sync.WaitGroup
	for i, p := range patches {
		wg.Go(func() { _, errs[i] = m.Update(ctx, k.ID, p) })
	}
	wg.Go(func() { _, errs[len(patches)] = m.Deactivate(ctx, k.ID) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got := keystest.Must[*keys.Key](t)(m.Get(ctx, k.ID))
	want := k.Clone()
	want.Name, want.Note, want.Plan, want.Scopes, want.Limits, want.ExpiresAt, want.IPs = name, note, plan, scopes, limits, end, ips
	want.Status, want.Version = keys.Inactive, int64(1+len(errs))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the key is %+v, want %+v", got, want)
	}
	keystest.Consistent(t, c)
}

func testConflict(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	first, second := "first", "second"
	keystest.Must[*keys.Key](t)(m.Update(ctx, k.ID, Patch{Name: &first, Version: 1}))
	if got, err := m.Update(ctx, k.ID, Patch{Name: &second, Version: 1}); !errors.Is(err, store.ErrConflict) || got != nil {
		t.Errorf("the old version: %v, %v", got, err)
	}
	if got := keystest.Must[*keys.Key](t)(m.Get(ctx, k.ID)); got.Name != first {
		t.Errorf("the name is %s", got.Name)
	}
	// Of those that name the same version one wins.
	errs := make([]error, 10)
	var wg sync.WaitGroup
	for i := range errs {
		name := fmt.Sprint("name", i)
		wg.Go(func() { _, errs[i] = m.Update(ctx, k.ID, Patch{Name: &name, Version: 2}) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, store.ErrConflict) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
}

// Whoever listens hears of each change once, and when it hears can read the change.
func testOneMessage(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	var k, next *keys.Key
	name := "other"
	for _, step := range []struct {
		what string
		do   func() error
		of   func() []keys.Digest
	}{
		{"create", func() (err error) { k, _, err = m.Create(ctx, liveKey(), false); return err }, func() []keys.Digest { return []keys.Digest{k.Digest} }},
		{"update", func() error { _, err := m.Update(ctx, k.ID, Patch{Name: &name}); return err }, nil},
		{"no change", func() error { _, err := m.Update(ctx, k.ID, Patch{Name: &name}); return err }, func() []keys.Digest { return nil }},
		{"deactivate", func() error { _, err := m.Deactivate(ctx, k.ID); return err }, nil},
		{"activate", func() error { _, err := m.Activate(ctx, k.ID); return err }, nil},
		{"rotate", func() (err error) { next, _, err = m.Rotate(ctx, k.ID, time.Hour); return err },
			func() []keys.Digest { return []keys.Digest{next.Digest, k.Digest} }},
		{"revoke", func() error { _, err := m.Revoke(ctx, k.ID); return err }, nil},
		{"delete", func() error { _, err := m.Delete(ctx, k.ID); return err }, nil},
		{"rehash", func() error { return m.store.Rehash(ctx, next.ID, next.Digest, keys.Digest{7}) },
			func() []keys.Digest { return []keys.Digest{{7}, next.Digest} }},
		{"touch", func() error { return m.store.Touch(ctx, []store.Use{{ID: next.ID, At: keystest.Noon()}}) }, func() []keys.Digest { return nil }},
	} {
		began := time.Now().Add(-time.Second)
		heard := messages(t, c, func() {
			if err := step.do(); err != nil {
				t.Fatal(step.what, err)
			}
		})
		want := []keys.Digest{k.Digest}
		if step.of != nil {
			want = step.of()
		}
		var got []keys.Digest
		for _, text := range heard {
			var made int64
			var d []byte
			var id string
			if _, err := fmt.Sscanf(text, "%d %x %s", &made, &d, &id); err != nil || len(d) != len(keys.Digest{}) ||
				made < began.UnixMilli() || time.UnixMilli(made).After(time.Now().Add(time.Second)) || !strings.HasPrefix(id, "key_") {
				t.Fatalf("%s: the message %q: %v", step.what, text, err)
			}
			got = append(got, keys.Digest(d))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d messages, want %d", step.what, len(got), len(want))
		}
	}
}

// A member acts in the own team only, and finds out nothing about others.
func testMembersAndKeys(t *testing.T, c redis.UniversalClient) {
	ctx, ops := t.Context(), operatorOf(c, nil)
	as := func(role roles.Role) *Manager {
		return NewManager(ops.store, ops.hasher, ops.rules, ops.audit, roles.Actor{Name: "ann", ID: "mem_1", API: "pictify", Team: "orbit", Role: role}, keystest.Noon)
	}
	ann := as(roles.Admin)
	k, _, err := ann.Create(ctx, keys.Key{Name: "site", Environment: "live"}, false)
	if err != nil || k.Team != "orbit" || k.API != "pictify" || k.CreatedBy != "mem_1 ann" {
		t.Fatalf("Create = %+v, %v", k, err)
	}
	foreign, secret := mustCreate(t, ops, func(k *keys.Key) { k.Team = "nova" })
	page, _, err := ann.List(ctx, store.Filter{}, "", 0)
	if err != nil || len(page) != 1 || page[0].ID != k.ID {
		t.Errorf("List = %v, %v", page, err)
	}
	name := "x"
	for who, m := range map[string]*Manager{"of another team": ann, "editor": as(roles.Editor), "viewer": as(roles.Viewer), "nobody": NewManager(ops.store, ops.hasher, ops.rules, ops.audit, roles.Actor{}, keystest.Noon)} {
		id := k.ID
		if m == ann {
			id = foreign.ID
		}
		team := "orbit"
		if m == ann {
			team = "nova"
		}
		for what, call := range map[string]func() error{
			"create": func() error {
				_, _, err := m.Create(ctx, liveKey(func(k *keys.Key) { k.Team = team }), false)
				return err
			},
			"get":        func() error { _, err := m.Get(ctx, id); return err },
			"list":       func() error { _, _, err := m.List(ctx, store.Filter{API: "pictify", Team: team}, "", 0); return err },
			"list all":   func() error { _, _, err := m.List(ctx, store.Filter{API: "pictify"}, "", 0); return err },
			"update":     func() error { _, err := m.Update(ctx, id, Patch{Name: &name}); return err },
			"rotate":     func() error { _, _, err := m.Rotate(ctx, id, 0); return err },
			"revoke":     func() error { _, err := m.Revoke(ctx, id); return err },
			"activate":   func() error { _, err := m.Activate(ctx, id); return err },
			"deactivate": func() error { _, err := m.Deactivate(ctx, id); return err },
			"delete":     func() error { _, err := m.Delete(ctx, id); return err },
			"verify": func() error {
				found, status, err := m.Verify(ctx, secret)
				if found != nil || status == VerifyActive {
					return errors.New("the key is shown")
				}
				return err
			},
			"repair": func() error { _, err := m.Repair(ctx, ""); return err },
		} {
			err := call()
			// A key of another team looks like one that does not exist.
			hidden := errors.Is(err, store.ErrNoKey) || what == "verify" && err == nil
			if foreign := who == "of another team" || who == "nobody"; !(foreign && hidden) && !errors.Is(err, roles.ErrForbidden) {
				t.Errorf("%s by %s: %v", what, who, err)
			}
		}
	}
	for _, id := range []string{k.ID, foreign.ID} {
		if got := keystest.Must[*keys.Key](t)(ops.Get(ctx, id)); got.Version != 1 {
			t.Errorf("%s was changed", id)
		}
	}
	if report, err := ops.Repair(ctx, "pictify"); err != nil || report.Checked != 2 {
		t.Errorf("Repair = %+v, %v", report, err)
	}
}

func testChangesAreAudited(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	k, secret := mustCreate(t, m)
	name := "other"
	keystest.Must[*keys.Key](t)(m.Update(ctx, k.ID, Patch{Name: &name}))
	keystest.Must[*keys.Key](t)(m.Deactivate(ctx, k.ID))
	keystest.Must[*keys.Key](t)(m.Activate(ctx, k.ID))
	next, second, err := m.Rotate(ctx, k.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, k.ID))
	keystest.Must[*keys.Key](t)(m.Delete(ctx, k.ID))
	entries, _, err := m.audit.Read(ctx, "", 1000, audit.OldestFirst)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := 0; i+1 < len(entries); i += 2 {
		intent, outcome := entries[i], entries[i+1]
		if outcome.Intent != intent.ID || outcome.Result != "done" || intent.Who != "ops" || intent.Team != "orbit" {
			t.Errorf("%+v, %+v", intent, outcome)
		}
		got = append(got, fmt.Sprintf("%s %d %t %t", intent.Action, len(intent.IDs), intent.Before != nil, intent.After != nil))
	}
	want := []string{"keys.create 1 false true", "keys.update 1 true true", "keys.deactivate 1 true true", "keys.activate 1 true true",
		"keys.rotate 2 true true", "keys.revoke 1 true true", "keys.delete 1 true false"}
	if !slices.Equal(got, want) {
		t.Errorf("audited %q", got)
	}
	text, _ := json.Marshal(entries)
	for _, hidden := range []string{secret, second, k.Digest.Hex(), next.Digest.Hex()} {
		if strings.Contains(string(text), hidden) {
			t.Error("the stream holds a secret or a digest")
		}
	}
	// Without its line no change is made.
	before := keystest.Dump(t, c)
	c.Del(ctx, keystest.Audit)
	c.Set(ctx, keystest.Audit, "not a stream", 0)
	for what, call := range map[string]func() error{
		"create": func() error { _, _, err := m.Create(ctx, liveKey(), false); return err },
		"update": func() error { _, err := m.Update(ctx, next.ID, Patch{Name: &name}); return err },
		"revoke": func() error { _, err := m.Revoke(ctx, next.ID); return err },
		"rotate": func() error { _, _, err := m.Rotate(ctx, next.ID, 0); return err },
		"repair": func() error { _, err := m.Repair(ctx, ""); return err },
	} {
		if err := call(); what != "update" && !errors.Is(err, audit.ErrNotAudited) {
			t.Errorf("%s: %v", what, err)
		}
	}
	after := keystest.Dump(t, c)
	delete(before, keystest.Audit)
	delete(after, keystest.Audit)
	if !reflect.DeepEqual(before, after) {
		t.Error("something was changed without an audit line")
	}
}

// losing makes the stream refuse what comes after its first line: the outcomes.
type losing struct{ adds int }

func (l *losing) DialHook(next redis.DialHook) redis.DialHook { return next }
func (l *losing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (l *losing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "xadd" {
			if l.adds++; l.adds%2 == 0 {
				cmd.SetErr(keystest.ErrDied)
				return keystest.ErrDied
			}
		}
		return next(ctx, cmd)
	}
}

// A secret is shown once, so a lost outcome must not lose it.
func TestALostOutcomeKeepsTheSecret(t *testing.T) {
	c := keystest.NewEmbedded(t)
	c.AddHook(&losing{})
	ctx, m := t.Context(), operatorOf(c, nil)
	k, secret, err := m.Create(ctx, liveKey(), false)
	if !errors.Is(err, audit.ErrOutcomeLost) || k == nil || m.hasher.Digest(secret) != k.Digest {
		t.Fatalf("Create = %v, %v", k, err)
	}
	next, secret, err := m.Rotate(ctx, k.ID, time.Hour)
	if !errors.Is(err, audit.ErrOutcomeLost) || next == nil || m.hasher.Digest(secret) != next.Digest {
		t.Fatalf("Rotate = %v, %v", next, err)
	}
	if k, err := m.Revoke(ctx, k.ID); !errors.Is(err, audit.ErrOutcomeLost) || k == nil || k.Status != keys.Revoked {
		t.Errorf("Revoke = %v, %v", k, err)
	}
}
