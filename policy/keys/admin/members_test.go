package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

func TestManagerOfTeams(t *testing.T) {
	keystest.Parts{
		"AsksTheTableOfRoles": testManagerAsksTheTableOfRoles,
		"OfAMember":           testManagerOfAMember,
		"Audits":              testManagerAudits,
		"RolesForKeys":        testManagerRolesForKeys,
	}.OnEveryStore(t, asCommand())
}

// staff is a store with two teams and Managers for whoever acts.
type staff struct {
	t               *testing.T
	c               redis.UniversalClient
	store           *store.Store
	audit           *audit.Stream
	operator        *Manager
	ann, eve, vic   *store.Member // admin, editor and viewer of orbit
	foreign         *store.Member // admin of nova
	operatorsTokens []string
}

func newStaff(t *testing.T, c redis.UniversalClient) *staff {
	t.Helper()
	s := &staff{t: t, c: c, store: store.New(c), audit: audit.New(c, 1000)}
	s.operator = s.as(roles.Actor{Name: "ops", Operator: true})
	for _, team := range []string{"orbit", "nova"} {
		if _, err := s.operator.CreateTeam(t.Context(), "pictify", team, "free"); err != nil {
			t.Fatal(err)
		}
	}
	add := func(team, name string, role roles.Role) *store.Member {
		m, token, err := s.operator.AddMember(t.Context(), "pictify", team, name, role)
		if err != nil {
			t.Fatal(err)
		}
		s.operatorsTokens = append(s.operatorsTokens, token)
		return m
	}
	s.ann, s.eve, s.vic = add("orbit", "Ann", roles.Admin), add("orbit", "Eve", roles.Editor), add("orbit", "Vic", roles.Viewer)
	s.foreign = add("nova", "Zoe", roles.Admin)
	return s
}

func (s *staff) as(who roles.Actor) *Manager {
	return NewManager(s.store, keys.NewHasher(nil), nil, s.audit, who, keystest.Noon)
}

// state is everything in the store but the audit stream.
func (s *staff) state() map[string]any {
	out := map[string]any{}
	forEachKey(s.t, s.c, func(key, kind string) {
		switch kind {
		case "string":
			out[key] = s.c.Get(s.t.Context(), key).Val()
		case "hash":
			out[key] = s.c.HGetAll(s.t.Context(), key).Val()
		case "zset":
			out[key] = s.c.ZRange(s.t.Context(), key, 0, -1).Val()
		case "set":
			out[key] = s.c.SMembers(s.t.Context(), key).Val() // of one element at most here
		case "stream":
		default:
			s.t.Errorf("%s is a %s", key, kind)
		}
	})
	return out
}

func forEachKey(t *testing.T, c redis.UniversalClient, each func(key, kind string)) {
	for _, key := range c.Keys(t.Context(), "*").Val() {
		each(key, c.Type(t.Context(), key).Val())
	}
}

func (s *staff) entries() []audit.Entry {
	s.t.Helper()
	entries, next, err := s.audit.Read(s.t.Context(), "", 1000, audit.OldestFirst)
	if err != nil || next != "" {
		s.t.Fatal(next, err)
	}
	return entries
}

// What each method needs is asked of the table before the store is, for every role and from every
// team.
func testManagerAsksTheTableOfRoles(t *testing.T, c redis.UniversalClient) {
	s := newStaff(t, c)
	before, told := s.state(), len(s.entries())
	calls := map[roles.Action]func(m *Manager, team string) error{
		roles.ActionCreateTeam: func(m *Manager, team string) error { _, err := m.CreateTeam(t.Context(), "pictify", team); return err },
		roles.ActionSetPlans: func(m *Manager, team string) error {
			_, err := m.SetPlans(t.Context(), "pictify", team, []string{"free"})
			return err
		},
		roles.ActionDeleteTeam:   func(m *Manager, team string) error { return m.DeleteTeam(t.Context(), "pictify", team) },
		roles.ActionViewTeam:     func(m *Manager, team string) error { _, err := m.Team(t.Context(), "pictify", team); return err },
		roles.ActionViewMembers:  func(m *Manager, team string) error { _, err := m.Members(t.Context(), "pictify", team); return err },
		roles.ActionRemoveMember: func(m *Manager, team string) error { return m.RemoveMember(t.Context(), "pictify", team, s.vic.ID) },
		roles.ActionAddMember: func(m *Manager, team string) error {
			_, token, err := m.AddMember(t.Context(), "pictify", team, "New", roles.Viewer)
			if token != "" {
				t.Error("a token")
			}
			return err
		},
		roles.ActionSetRole: func(m *Manager, team string) error {
			_, err := m.SetRole(t.Context(), "pictify", team, s.vic.ID, roles.Admin)
			return err
		},
		roles.ActionReadAudit: func(m *Manager, team string) error {
			_, _, err := m.ReadAudit(t.Context(), "", 1, audit.NewestFirst)
			return err
		},
	}
	for action, call := range calls {
		for _, member := range []*store.Member{s.ann, s.eve, s.vic, s.foreign} {
			m := s.as(member.Actor())
			if member.Actor().Check(action, "pictify", "orbit") == nil {
				continue // what may be done is done below
			}
			if err := call(m, "orbit"); !errors.Is(err, roles.ErrForbidden) {
				t.Errorf("%s of %s does %s: %v", member.Role, member.Team, action, err)
			}
		}
		// A team that does not exist gets the same answer as one that is not one's own.
		if err := call(s.as(s.ann.Actor()), "none"); !errors.Is(err, roles.ErrForbidden) {
			t.Errorf("%s in a team that does not exist: %v", action, err)
		}
		if err := call(s.as(roles.Actor{}), "orbit"); !errors.Is(err, roles.ErrForbidden) {
			t.Errorf("nobody does %s: %v", action, err)
		}
	}
	if _, _, err := s.as(roles.Actor{}).Teams(t.Context(), "", "", 10); !errors.Is(err, roles.ErrForbidden) {
		t.Errorf("nobody lists teams: %v", err)
	}
	if !reflect.DeepEqual(s.state(), before) || len(s.entries()) != told {
		t.Error("a refused call changed something")
	}
}

func testManagerOfAMember(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), newStaff(t, c)
	for _, member := range []*store.Member{s.ann, s.eve, s.vic} {
		m := s.as(member.Actor())
		teams, next, err := m.Teams(ctx, "", "", 10)
		if err != nil || next != "" || len(teams) != 1 || teams[0].Name != "orbit" || teams[0].Members != 3 {
			t.Errorf("%s sees the teams %+v, %v", member.Role, teams, err)
		}
		if members, err := m.Members(ctx, "pictify", "orbit"); err != nil || len(members) != 3 {
			t.Errorf("%s sees the members %+v, %v", member.Role, members, err)
		}
	}
	ann := s.as(s.ann.Actor())
	added, token, err := ann.AddMember(ctx, "pictify", "orbit", "Bob", roles.Viewer)
	if err != nil || added.CreatedBy != s.ann.ID+" Ann" || !added.CreatedAt.Equal(keystest.Noon()) {
		t.Fatalf("AddMember = %+v, %v", added, err)
	}
	by, err := s.store.MemberByToken(ctx, token)
	if err != nil || !reflect.DeepEqual(by, added) {
		t.Errorf("MemberByToken = %+v, %v", by, err)
	}
	if changed, err := ann.SetRole(ctx, "pictify", "orbit", added.ID, roles.Admin); err != nil || changed.Role != roles.Admin {
		t.Errorf("SetRole = %+v, %v", changed, err)
	}
	if err := s.as(by.Actor()).RemoveMember(ctx, "pictify", "orbit", s.ann.ID); !errors.Is(err, roles.ErrForbidden) {
		t.Errorf("with the role of before: %v", err)
	}
	by, _ = s.store.MemberByToken(ctx, token)
	if err := s.as(by.Actor()).RemoveMember(ctx, "pictify", "orbit", s.ann.ID); err != nil {
		t.Errorf("the second admin removes the first: %v", err)
	}
	// An id of another team's member is unknown here.
	if err := s.as(by.Actor()).RemoveMember(ctx, "pictify", "orbit", s.foreign.ID); !errors.Is(err, store.ErrNoMember) {
		t.Errorf("a member of another team: %v", err)
	}
	if all, next, err := s.operator.Teams(ctx, "pictify", "", 1); err != nil || len(all) != 1 || next != "pictify/nova" {
		t.Errorf("the operator sees %+v, %q, %v", all, next, err)
	}
}

func testManagerAudits(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), newStaff(t, c)
	told := len(s.entries())
	if _, err := s.as(s.ann.Actor()).SetRole(ctx, "pictify", "orbit", s.vic.ID, roles.Editor); err != nil {
		t.Fatal(err)
	}
	if err := s.as(s.ann.Actor()).RemoveMember(ctx, "pictify", "orbit", s.vic.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.operator.RemoveMember(ctx, "pictify", "orbit", s.ann.ID); !errors.Is(err, store.ErrLastAdmin) {
		t.Fatal(err)
	}
	if err := s.operator.DeleteTeam(ctx, "pictify", "nova"); !errors.Is(err, store.ErrTeamInUse) {
		t.Fatal(err)
	}
	if _, err := s.operator.CreateTeam(ctx, "pictify", "nova"); !errors.Is(err, store.ErrTeamExists) {
		t.Fatal(err)
	}
	if _, token, err := s.operator.AddMember(ctx, "pictify", "orbit", "ANN", roles.Viewer); !errors.Is(err, store.ErrMemberExists) || token != "" {
		t.Fatal(token, err)
	}
	entries, next, err := s.operator.ReadAudit(ctx, "", 1000, audit.OldestFirst)
	if err != nil || next != "" || len(entries) != told+12 {
		t.Fatalf("%d entries, %q, %v", len(entries)-told, next, err)
	}
	pairs := map[roles.Action]string{}
	for i := 0; i < len(entries); i += 2 {
		if entries[i+1].Intent != entries[i].ID {
			t.Errorf("the outcome %+v does not follow its intent %+v", entries[i+1], entries[i])
		}
		e := entries[i]
		pairs[e.Action] = fmt.Sprintf("%s|%s|%s|%s|%s|%v|%s", e.Who, e.Role, e.API, e.Team, strings.Join(e.IDs, " "), e.Before != nil, entries[i+1].Result)
		for _, side := range []json.RawMessage{e.Before, e.After} {
			if strings.Contains(string(side), `"token"`) || strings.Contains(string(side), "sha256:") {
				t.Errorf("%s of %s", side, e.Action)
			}
		}
	}
	ann := s.ann.ID + " Ann|admin|pictify|orbit|" + s.vic.ID
	for action, want := range map[roles.Action]string{
		roles.ActionSetRole:      ann + "|true|done",
		roles.ActionRemoveMember: "ops|operator|pictify|orbit|" + s.ann.ID + "|true|error: " + store.ErrLastAdmin.Error(),
		roles.ActionCreateTeam:   "ops|operator|pictify|nova|nova|false|error: " + store.ErrTeamExists.Error(),
		roles.ActionDeleteTeam:   "ops|operator|pictify|nova|nova|true|error: " + store.ErrTeamInUse.Error(),
	} {
		if !strings.HasPrefix(pairs[action], want) {
			t.Errorf("%s: %s, want %s", action, pairs[action], want)
		}
	}
	var before, after store.Member
	role := entries[told]
	if json.Unmarshal(role.Before, &before) != nil || json.Unmarshal(role.After, &after) != nil || before.Role != roles.Viewer || after.Role != roles.Editor || after.ID != s.vic.ID {
		t.Errorf("before %s, after %s", role.Before, role.After)
	}
	var stream strings.Builder
	for _, m := range c.XRange(ctx, keystest.Audit, "-", "+").Val() {
		fmt.Fprint(&stream, m)
	}
	for _, token := range s.operatorsTokens {
		if strings.Contains(stream.String(), token) || strings.Contains(stream.String(), keystest.TokenDigest(token)) {
			t.Error("the stream holds a token or its digest")
		}
	}
}

// changes is one call of each method that changes something, each of which would succeed.
func (s *staff) changes() map[string]func(m *Manager, ctx context.Context) (result any, err error) {
	return map[string]func(m *Manager, ctx context.Context) (any, error){
		"CreateTeam": func(m *Manager, ctx context.Context) (any, error) {
			team, err := m.CreateTeam(ctx, "pictify", "new")
			return team != nil, err
		},
		"SetPlans": func(m *Manager, ctx context.Context) (any, error) {
			team, err := m.SetPlans(ctx, "pictify", "orbit", []string{"pro"})
			return team != nil, err
		},
		"DeleteTeam": func(m *Manager, ctx context.Context) (any, error) { return true, m.DeleteTeam(ctx, "pictify", "empty") },
		"AddMember": func(m *Manager, ctx context.Context) (any, error) {
			member, token, err := m.AddMember(ctx, "pictify", "orbit", "New", roles.Viewer)
			return member != nil && token != "", err
		},
		"SetRole": func(m *Manager, ctx context.Context) (any, error) {
			member, err := m.SetRole(ctx, "pictify", "orbit", s.eve.ID, roles.Viewer)
			return member != nil, err
		},
		"RemoveMember": func(m *Manager, ctx context.Context) (any, error) {
			return true, m.RemoveMember(ctx, "pictify", "orbit", s.vic.ID)
		},
	}
}

func TestManagerWithoutAudit(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s := newStaff(t, c)
	if err := s.store.CreateTeam(t.Context(), store.Team{API: "pictify", Name: "empty"}); err != nil {
		t.Fatal(err)
	}
	crash, outcome := keystest.DieAlways("xadd"), &keystest.Overtake{Name: "xadd"}
	outcome.Do = func() { crash.Armed.Store(true) }
	c.AddHook(outcome)
	c.AddHook(crash)
	before := s.state()
	for name, change := range s.changes() {
		result, err := change(s.operator, t.Context())
		if !errors.Is(err, audit.ErrNotAudited) || result == true && !strings.Contains("DeleteTeam RemoveMember", name) {
			t.Errorf("%s: %v, %v", name, result, err)
		}
		if now := s.state(); !reflect.DeepEqual(now, before) {
			t.Errorf("%s: changed %v", name, now)
		}
	}
	// The intent is taken and the outcome is lost: the change is made, the error says so, and a
	// token is not lost.
	for name, change := range s.changes() {
		crash.Armed.Store(false)
		before := s.state()
		outcome.N = 2
		result, err := change(s.operator, t.Context())
		if !errors.Is(err, audit.ErrOutcomeLost) || !strings.Contains(err.Error(), "the change was made") || result != true {
			t.Errorf("%s: %v, %v", name, result, err)
		}
		if reflect.DeepEqual(s.state(), before) {
			t.Errorf("%s: nothing was changed", name)
		}
	}
}

func TestManagerRefusesBeforeTheAudit(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s := newStaff(t, c)
	told := len(s.entries())
	ctx := t.Context()
	_, badTeam := s.operator.CreateTeam(ctx, "pictify", "")
	_, _, badMember := s.operator.AddMember(ctx, "pictify", "orbit", "", roles.Viewer)
	_, badRole := s.operator.SetRole(ctx, "pictify", "orbit", s.vic.ID, "owner")
	for _, err := range []error{badTeam, badMember, badRole} {
		var field *keys.FieldError
		if !errors.As(err, &field) {
			t.Error(err)
		}
	}
	_, noMember := s.operator.SetRole(ctx, "pictify", "orbit", "mem_0123456789abcdef", roles.Viewer)
	_, noTeam := s.operator.Members(ctx, "pictify", "none")
	for err, want := range map[error]error{
		noMember: store.ErrNoMember, noTeam: store.ErrNoTeam,
		s.operator.DeleteTeam(ctx, "pictify", "none"):                            store.ErrNoTeam,
		s.operator.RemoveMember(ctx, "pictify", "orbit", "mem_0123456789abcdef"): store.ErrNoMember,
	} {
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if n := len(s.entries()); n != told {
		t.Errorf("%d entries", n-told)
	}
	// A record that cannot be read can be removed, and its audit has no record of before.
	c.HSet(ctx, keystest.MembersKey("pictify", "orbit"), s.vic.ID, "{")
	if err := s.operator.RemoveMember(ctx, "pictify", "orbit", s.vic.ID); err != nil {
		t.Fatal(err)
	}
	entries := s.entries()
	if len(entries) != told+2 || entries[told].Before != nil || entries[told].IDs[0] != s.vic.ID {
		t.Errorf("%+v", entries[told:])
	}
}

// anyRules knows every plan and caps nothing.
type anyRules struct{}

func (anyRules) ValidateKey(*keys.Key) error                   { return nil }
func (anyRules) HoldsSecret(string, string) bool               { return false }
func (anyRules) Limit(string, string, string) (int64, bool)    { return 0, false }
func (anyRules) Cap(_, _, _ string) (most int, capped bool)    { return 0, false }
func (anyRules) ValidateLimits(*keys.Key) error                { return nil }
func (anyRules) ValidateExtra(*keys.Key, keys.Extra) error     { return nil }
func (anyRules) ValidateSecret(*keys.Key, string) error        { return nil }
func (anyRules) MaxAddresses(string) int                       { return 0 }
func (anyRules) Prefix(_, _ string) (prefix string, err error) { return "pk_live_", nil }

// Only admins of the own team can create, view, change and delete keys.
func testManagerRolesForKeys(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), newStaff(t, c)
	as := func(who roles.Actor) *Manager {
		return NewManager(s.store, keys.NewHasher(nil), anyRules{}, s.audit, who, keystest.Noon)
	}
	blank := keys.Key{API: "pictify", Team: "orbit", Name: "Server", Environment: "live", Plan: "free"}
	k, secret, err := as(s.ann.Actor()).Create(ctx, blank, false)
	if err != nil {
		t.Fatal(err)
	}
	before := s.state()
	name := "Other"
	for _, who := range []roles.Actor{s.eve.Actor(), s.vic.Actor(), s.foreign.Actor(), {}} {
		m := as(who)
		calls := map[roles.Action]error{roles.ActionUpdate: nil}
		_, _, calls[roles.ActionCreate] = m.Create(ctx, blank, false)
		_, calls[roles.ActionView] = m.Get(ctx, k.ID)
		_, _, calls["list"] = m.List(ctx, store.Filter{API: "pictify", Team: "orbit"}, "", 10)
		found, status, err := m.Verify(ctx, secret)
		if calls["verify"] = err; err == nil && found == nil && status == VerifyUnknown {
			calls["verify"] = store.ErrNoKey
		}
		_, calls[roles.ActionUpdate] = m.Update(ctx, k.ID, Patch{Name: &name})
		_, _, calls[roles.ActionRotate] = m.Rotate(ctx, k.ID, time.Hour)
		_, calls[roles.ActionRevoke] = m.Revoke(ctx, k.ID)
		_, calls[roles.ActionActivate] = m.Activate(ctx, k.ID)
		_, calls[roles.ActionDeactivate] = m.Deactivate(ctx, k.ID)
		_, calls[roles.ActionDelete] = m.Delete(ctx, k.ID)
		for action, err := range calls {
			// A key of another team looks like one that does not exist.
			hidden := who.Team != "orbit" && errors.Is(err, store.ErrNoKey)
			if !hidden && !errors.Is(err, roles.ErrForbidden) {
				t.Errorf("%s of %q does %s: %v", who.Role, who.Team, action, err)
			}
		}
	}
	if !reflect.DeepEqual(s.state(), before) {
		t.Error("a refused call changed something")
	}
	m := as(s.ann.Actor())
	if got, err := m.Get(ctx, k.ID); err != nil || got.ID != k.ID {
		t.Errorf("the admin gets %v, %v", got, err)
	}
	if err := as(roles.Actor{Name: "ops", Operator: true}).DeleteTeam(ctx, "pictify", "orbit"); !errors.Is(err, store.ErrTeamInUse) || !strings.Contains(err.Error(), "3 members and 1 key") {
		t.Errorf("a team with a key: %v", err)
	}
	if _, err := m.Revoke(ctx, k.ID); err != nil {
		t.Error(err)
	}
	if team, err := m.Team(ctx, "pictify", "orbit"); err != nil || team.Keys != 1 {
		t.Errorf("a revoked key counts until it is deleted: %+v, %v", team, err)
	}
	if _, err := m.Delete(ctx, k.ID); err != nil {
		t.Error(err)
	}
	if team, err := m.Team(ctx, "pictify", "orbit"); err != nil || team.Keys != 0 {
		t.Errorf("after the delete: %+v, %v", team, err)
	}
}
