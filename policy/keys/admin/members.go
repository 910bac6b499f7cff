package admin

import (
	"context"
	"encoding/json"
	"errors"

	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// Each method here asks the table of roles first, so that a refusal tells nothing about what
// exists, and makes its change between an intent and an outcome in the audit stream. ErrForbidden,
// ErrNotAudited and ErrOutcomeLost come besides the errors of the Store's method of the same name;
// with ErrOutcomeLost the results are set, because the change was made.

// CreateTeam adds a team, whose members may use these plans; only the operator may.
func (m *Manager) CreateTeam(ctx context.Context, api, team string, plans ...string) (*store.Team, error) {
	if err := m.who.Check(roles.ActionCreateTeam, api, team); err != nil {
		return nil, err
	}
	t := store.Team{API: api, Name: team, Plans: plans, CreatedBy: m.who.Who(), CreatedAt: m.now().UTC()}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	if err := nameSecret("team", team); err != nil {
		return nil, err
	}
	entry := audit.NewEntry(m.who, roles.ActionCreateTeam, api, team, team)
	err := m.audited(ctx, entry, nil, t, func(ctx context.Context) error { return m.store.CreateTeam(ctx, t) })
	return ifMade(&t, err)
}

// Team returns one team; a member only the own one.
func (m *Manager) Team(ctx context.Context, api, team string) (*store.Team, error) {
	if err := m.who.Check(roles.ActionViewTeam, api, team); err != nil {
		return nil, err
	}
	return m.store.Team(ctx, api, team)
}

// Teams lists teams as Store.Teams does; to a member, only the own one, whatever api and cursor.
func (m *Manager) Teams(ctx context.Context, api, cursor string, limit int) (teams []*store.Team, next string, err error) {
	if m.who.Operator {
		return m.store.Teams(ctx, api, cursor, limit)
	}
	t, err := m.Team(ctx, m.who.API, m.who.Team)
	if err != nil {
		return nil, "", err
	}
	return []*store.Team{t}, "", nil
}

// DeleteTeam removes an empty team; only the operator may.
func (m *Manager) DeleteTeam(ctx context.Context, api, team string) error {
	if err := m.who.Check(roles.ActionDeleteTeam, api, team); err != nil {
		return err
	}
	t, err := m.store.Team(ctx, api, team)
	if err != nil {
		return err
	}
	entry := audit.NewEntry(m.who, roles.ActionDeleteTeam, api, team, team)
	return m.audited(ctx, entry, t, nil, func(ctx context.Context) error { return m.store.DeleteTeam(ctx, api, team) })
}

// SetPlans says which plans members may give the keys of a team; only the operator may.
func (m *Manager) SetPlans(ctx context.Context, api, team string, plans []string) (*store.Team, error) {
	if err := m.who.Check(roles.ActionSetPlans, api, team); err != nil {
		return nil, err
	}
	before, err := m.store.Team(ctx, api, team)
	if err != nil {
		return nil, err
	}
	after := *before
	after.Plans = plans
	if err := after.Validate(); err != nil {
		return nil, err
	}
	entry := audit.NewEntry(m.who, roles.ActionSetPlans, api, team, team)
	err = m.audited(ctx, entry, before, after, func(ctx context.Context) error {
		_, err := m.store.SetPlans(ctx, api, team, plans)
		return err
	})
	return ifMade(&after, err)
}

// AddMember adds a member and returns the record and the token, which is shown only once.
func (m *Manager) AddMember(ctx context.Context, api, team, name string, role roles.Role) (*store.Member, string, error) {
	if err := m.who.Check(roles.ActionAddMember, api, team); err != nil {
		return nil, "", err
	}
	if err := nameSecret("name", name); err != nil {
		return nil, "", err
	}
	added, token, err := store.NewMember(store.Member{
		API: api, Team: team, Name: name, Role: role, CreatedBy: m.who.Who(), CreatedAt: m.now(),
	})
	if err != nil {
		return nil, "", err
	}
	entry := audit.NewEntry(m.who, roles.ActionAddMember, api, team, added.ID)
	err = m.audited(ctx, entry, nil, added, func(ctx context.Context) error {
		return m.store.PutMember(ctx, &added, token)
	})
	result, err := ifMade(&added, err)
	if result == nil {
		token = ""
	}
	return result, token, err
}

// Members lists the members of a team.
func (m *Manager) Members(ctx context.Context, api, team string) ([]*store.Member, error) {
	if err := m.who.Check(roles.ActionViewMembers, api, team); err != nil {
		return nil, err
	}
	return m.store.Members(ctx, api, team)
}

// SetRole gives a member another role.
func (m *Manager) SetRole(ctx context.Context, api, team, id string, role roles.Role) (*store.Member, error) {
	if err := m.who.Check(roles.ActionSetRole, api, team); err != nil {
		return nil, err
	}
	if _, err := roles.ParseRole(string(role)); err != nil {
		return nil, err
	}
	before, err := m.store.StoredMember(ctx, api, team, id)
	if err != nil {
		return nil, err
	}
	after := before.Member
	after.Role = role
	entry := audit.NewEntry(m.who, roles.ActionSetRole, api, team, id)
	err = m.audited(ctx, entry, before.Member, after, func(ctx context.Context) error {
		_, err := m.store.SetRole(ctx, before, role)
		return err
	})
	return ifMade(&after, err)
}

// RemoveMember takes a member out of a team, whose token is refused from then on.
func (m *Manager) RemoveMember(ctx context.Context, api, team, id string) error {
	if err := m.who.Check(roles.ActionRemoveMember, api, team); err != nil {
		return err
	}
	stored, err := m.store.StoredMember(ctx, api, team, id)
	if stored == nil {
		return err
	}
	var before any // none of a record that cannot be read
	if err == nil {
		before = stored.Member
	}
	entry := audit.NewEntry(m.who, roles.ActionRemoveMember, api, team, id)
	return m.audited(ctx, entry, before, nil, func(ctx context.Context) error {
		return m.store.RemoveMember(ctx, stored)
	})
}

// ReadAudit reads the audit stream as Stream.Read does; only the operator may, since it tells of
// every team.
func (m *Manager) ReadAudit(ctx context.Context, from string, n int, order audit.Order) ([]audit.Entry, string, error) {
	if err := m.who.Check(roles.ActionReadAudit, "", ""); err != nil {
		return nil, "", err
	}
	return m.audit.Read(ctx, from, n, order)
}

// audited makes a change, in the audit stream, of something whose states are before and after; nil
// means none.
func (m *Manager) audited(ctx context.Context, e audit.Entry, before, after any, do func(context.Context) error) error {
	for side, v := range map[*json.RawMessage]any{&e.Before: before, &e.After: after} {
		if v == nil {
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		*side = data
	}
	return m.audit.Do(ctx, e, do)
}

// ifMade returns the result of a change only if the change was made.
func ifMade[T any](result *T, err error) (*T, error) {
	if err != nil && !errors.Is(err, audit.ErrOutcomeLost) {
		return nil, err
	}
	return result, err
}
