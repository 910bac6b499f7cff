package admin

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

// A member gives keys what the team has been given, and no more; what a key has already stays.
func testEntitlement(t *testing.T, c redis.UniversalClient) {
	ctx, ops := t.Context(), operatorOf(c, nil)
	if _, err := ops.CreateTeam(ctx, "pictify", "orbit"); err != nil {
		t.Fatal(err)
	}
	ann := operatorOf(c, nil)
	ann.who = roles.Actor{ID: "mem_1", Name: "Ann", API: "pictify", Team: "orbit", Role: roles.Admin}
	draft := func(plan string, limits ...keys.Override) keys.Key {
		return liveKey(func(k *keys.Key) { k.Plan, k.Limits = plan, limits })
	}
	create := func(plan string, limits ...keys.Override) error {
		_, _, err := ann.Create(ctx, draft(plan, limits...), false)
		return err
	}
	refused := func(err error, action roles.Action, words ...string) {
		t.Helper()
		if !errors.Is(err, roles.ErrForbidden) || !strings.Contains(err.Error(), string(action)) {
			t.Errorf("%v, want that %s is not allowed", err, action)
			return
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%v does not say %s", err, word)
			}
		}
	}
	refused(create("free"), roles.ActionAnyPlan, `"free"`, "has no plan yet")
	keystest.Must[*store.Team](t)(ops.SetPlans(ctx, "pictify", "orbit", []string{"free", "trial"}))
	refused(create("pro"), roles.ActionAnyPlan, `"pro"`, "free, trial")
	refused(create("free", keys.Override{Name: "minute", Requests: 41}), roles.ActionRaiseLimit, `"minute"`, "is 40")
	refused(create("free", keys.Override{Name: "month", Requests: 1}), roles.ActionRaiseLimit, `"month"`)
	for _, limits := range [][]keys.Override{nil, {{Name: "minute", Requests: 40}}, {{Name: "minute", Requests: 0}}} {
		if err := create("free", limits...); err != nil {
			t.Errorf("%v: %v", limits, err)
		}
	}
	// What the operator gave a key the member may keep and lessen.
	k, _, err := ops.Create(ctx, draft("pro", keys.Override{Name: "minute", Requests: 500}), false)
	if err != nil {
		t.Fatal(err)
	}
	update := func(p Patch) error { _, err := ann.Update(ctx, k.ID, p); return err }
	name, free, pro, trial := "other", "free", "pro", "trial"
	limits := func(n int64) *[]keys.Override { return &[]keys.Override{{Name: "minute", Requests: n}} }
	for _, p := range []Patch{{Name: &name}, {Limits: limits(500)}, {Limits: limits(400)}} {
		if err := update(p); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	refused(update(Patch{Limits: limits(401)}), roles.ActionRaiseLimit)
	refused(update(Patch{Plan: &free}), roles.ActionRaiseLimit) // with an override of another plan
	none := []keys.Override{}
	if err := update(Patch{Plan: &free, Limits: &none}); err != nil {
		t.Error(err)
	}
	refused(update(Patch{Plan: &pro}), roles.ActionAnyPlan)
	if err := update(Patch{Plan: &trial, Limits: limits(50)}); err != nil {
		t.Error(err)
	}
	// A team that has been given less keeps its keys, and can replace them.
	keystest.Must[*store.Team](t)(ops.SetPlans(ctx, "pictify", "orbit", nil))
	next, _, err := ann.Rotate(ctx, k.ID, 0)
	if err != nil || next.Plan != trial || !reflect.DeepEqual(next.Limits, *limits(50)) {
		t.Errorf("Rotate = %+v, %v", next, err)
	}
	refused(create("trial"), roles.ActionAnyPlan)
	// A team without a record, which only somebody who is no member can meet.
	ann.who.Team = "none"
	_, _, err = ann.Create(ctx, liveKey(func(k *keys.Key) { k.Team = "none" }), false)
	refused(err, roles.ActionAnyPlan)
}

func testSetPlans(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), newStaff(t, c)
	team := keystest.Must[*store.Team](t)(s.operator.SetPlans(ctx, "pictify", "orbit", []string{"free", "pro"}))
	if got := keystest.Must[*store.Team](t)(s.store.Team(ctx, "pictify", "orbit")); !reflect.DeepEqual(got, team) || len(got.Plans) != 2 || got.Members != 3 {
		t.Errorf("%+v, want %+v", got, team)
	}
	entries := s.entries()
	if e := entries[len(entries)-2]; e.Action != roles.ActionSetPlans || !strings.Contains(string(e.Before), `"plans":["free"]`) || !strings.Contains(string(e.After), `"plans":["free","pro"]`) {
		t.Errorf("%s, %s", e.Before, e.After)
	}
	var fault *keys.FieldError
	for _, plans := range [][]string{{""}, {"a", "a"}, {"a\n"}} {
		if _, err := s.operator.SetPlans(ctx, "pictify", "orbit", plans); !errors.As(err, &fault) || !strings.HasPrefix(fault.Field, "plans[") {
			t.Errorf("%q: %v", plans, err)
		}
	}
	if _, err := s.operator.SetPlans(ctx, "pictify", "none", nil); !errors.Is(err, store.ErrNoTeam) {
		t.Errorf("no team: %v", err)
	}
}

// A secret that somebody has written into a text stays out of the store.
func testTextsHoldNoSecret(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	secret := keys.NewSecret("pk_live_")
	var fault *keys.FieldError
	for field, edit := range map[string]func(*keys.Key){
		"name": func(k *keys.Key) { k.Name = "key is " + secret + "!" },
		"note": func(k *keys.Key) { k.Note = "x=" + secret },
		"team": func(k *keys.Key) { k.Team = secret + "/" },
	} {
		k, _, err := m.Create(ctx, liveKey(edit), false)
		if !errors.As(err, &fault) || fault.Field != field || k != nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", field, err)
		}
	}
	k, _ := mustCreate(t, m)
	if _, err := m.Update(ctx, k.ID, Patch{Note: &secret}); !errors.As(err, &fault) || fault.Field != "note" {
		t.Errorf("Update: %v", err)
	}
	legacy := "legacy-9fK2mQ7xW4pZ8vT1nB6cR3yH5jL0dS"
	for line, want := range map[string]int{
		`{"secret":"` + legacy + `","name":"of ` + legacy + `"}`:            1,
		`{"secret":"` + legacy + `","name":"n","note":"` + secret + `"}`:    1,
		`{"secret":"` + legacy + `","name":"n","note":"legacy-9fK2mQ7xW4"}`: 0,
	} {
		report, err := m.Import(ctx, fromLines(line), operator("pictify"))
		if err != nil || report.Refused != want {
			t.Errorf("%s: %+v, %v", line, report, err)
		}
		for _, r := range report.First {
			if strings.Contains(r.Reason, legacy) || strings.Contains(r.Reason, secret) || !strings.Contains(r.Reason, "holds what looks like a key") {
				t.Errorf("refused because %s", r.Reason)
			}
		}
	}
}

// Neither a team nor a member gets a name that holds a key or a token.
func TestNamesHoldNoSecret(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s := newStaff(t, c)
	before, told := s.state(), len(s.entries())
	var field *keys.FieldError
	if _, err := s.operator.CreateTeam(t.Context(), "pictify", keys.NewSecret("pk_live_")); !errors.As(err, &field) || field.Field != "team" {
		t.Errorf("a team: %v", err)
	}
	for _, name := range []string{s.operatorsTokens[0], "Bob " + keys.NewSecret("pk_live_")} {
		m, token, err := s.operator.AddMember(t.Context(), "pictify", "orbit", name, roles.Viewer)
		if !errors.As(err, &field) || field.Field != "name" || m != nil || token != "" || strings.Contains(err.Error(), name) {
			t.Errorf("a member: %v", err)
		}
	}
	if !reflect.DeepEqual(s.state(), before) || len(s.entries()) != told {
		t.Error("something was written")
	}
}
