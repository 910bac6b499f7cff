// Package roles says who may do what with keys, teams and members, as one table.
package roles

import (
	"errors"
	"fmt"
	"slices"

	"tollgate/policy/keys"
)

// Role is what a member may do in a team.
type Role string

// The three roles of a team, as the document of the API in testdata/pictify names them.
const (
	Admin  Role = "admin"
	Editor Role = "editor"
	Viewer Role = "viewer"
)

// ParseRole reads a role as it is written on a command line. Its error names the three.
func ParseRole(s string) (Role, error) {
	if problem := RoleProblem(Role(s)); problem != "" {
		return "", &keys.FieldError{Field: "role", Problem: problem}
	}
	return Role(s), nil
}

func RoleProblem(r Role) string {
	if r == Admin || r == Editor || r == Viewer {
		return ""
	}
	return keys.Quote(string(r)) + " is not admin, editor or viewer"
}

// Action is one thing that somebody may ask for. The audit stream names it with the same text.
type Action string

// Every action there is. One that Permissions does not list is refused to everybody.
const (
	ActionCreate     Action = "keys.create"
	ActionView       Action = "keys.view" // get, list, verify
	ActionUpdate     Action = "keys.update"
	ActionRotate     Action = "keys.rotate"
	ActionRevoke     Action = "keys.revoke"
	ActionActivate   Action = "keys.activate"
	ActionDeactivate Action = "keys.deactivate"
	ActionDelete     Action = "keys.delete"
	ActionImport     Action = "keys.import" // and apply
	ActionExport     Action = "keys.export" // shows hashes
	ActionRepair     Action = "keys.repair"
	ActionSeed       Action = "keys.seed"        // by tollgate serve, from its keys file
	ActionRehash     Action = "keys.rehash"      // by tollgate serve, after a change of the pepper
	ActionAnyPlan    Action = "keys.any_plan"    // give a key a plan that is not one of its team's
	ActionRaiseLimit Action = "keys.raise_limit" // give a key more than its plan has
	ActionUsage      Action = "usage.read"
	ActionGrantExtra Action = "limits.grant" // more of a limit until a time, and to take that away
	ActionResetLimit Action = "limits.reset" // what is counted begins anew

	// Of clients, who present access tokens: they belong to no team.
	ActionViewClient    Action = "clients.view"
	ActionBlockClient   Action = "clients.block"
	ActionUnblockClient Action = "clients.unblock"
	ActionPlanClient    Action = "clients.plan"
	ActionLimitClient   Action = "clients.limit"

	ActionViewTeam   Action = "teams.view"
	ActionCreateTeam Action = "teams.create"
	ActionDeleteTeam Action = "teams.delete"
	ActionSetPlans   Action = "teams.set_plans"

	ActionViewMembers  Action = "members.view"
	ActionAddMember    Action = "members.add"
	ActionSetRole      Action = "members.set_role"
	ActionRemoveMember Action = "members.remove"

	ActionReadAudit Action = "audit.read"
)

// TakesRights reports whether what is done takes rights away.
func (a Action) TakesRights() bool {
	switch a {
	case ActionRevoke, ActionDeactivate, ActionDelete, ActionRemoveMember, ActionBlockClient:
		return true
	}
	return false
}

// Permission is one row of the table of roles.
type Permission struct {
	Action Action
	Roles  []Role // of members, within their own team; the operator may do everything that has a row
}

// Permissions returns the table of roles: the only place that says who may do what.
func Permissions() []Permission {
	return []Permission{
		// "Only Admins can create, view, and delete API keys": changing one in any other way is no
		// less.
		{ActionCreate, []Role{Admin}},
		{ActionView, []Role{Admin}},
		{ActionUpdate, []Role{Admin}},
		{ActionRotate, []Role{Admin}},
		{ActionRevoke, []Role{Admin}},
		{ActionActivate, []Role{Admin}},
		{ActionDeactivate, []Role{Admin}},
		{ActionDelete, []Role{Admin}},
		{ActionUsage, []Role{Admin, Editor, Viewer}},

		// These reach beyond one team, or bring in and out what only the operator should hold.
		{ActionImport, nil},
		{ActionExport, nil},
		{ActionRepair, nil},
		{ActionSeed, nil},
		{ActionRehash, nil},
		// A plan is what a team pays for.
		{ActionAnyPlan, nil},
		{ActionRaiseLimit, nil},
		{ActionGrantExtra, nil},
		{ActionResetLimit, nil},
		{ActionSetPlans, nil},
		{ActionCreateTeam, nil},
		{ActionDeleteTeam, nil},
		{ActionReadAudit, nil},
		{ActionViewClient, nil},
		{ActionBlockClient, nil},
		{ActionUnblockClient, nil},
		{ActionPlanClient, nil},
		{ActionLimitClient, nil},

		{ActionViewTeam, []Role{Admin, Editor, Viewer}},
		{ActionViewMembers, []Role{Admin, Editor, Viewer}},
		{ActionAddMember, []Role{Admin}},
		{ActionSetRole, []Role{Admin}},
		{ActionRemoveMember, []Role{Admin}},
	}
}

func permission(action Action) (Permission, bool) {
	table := Permissions()
	i := slices.IndexFunc(table, func(p Permission) bool { return p.Action == action })
	if i < 0 {
		return Permission{}, false
	}
	return table[i], true
}

// Actor is who asks for something: the operator, or a member of one team. The zero Actor may do
// nothing.
type Actor struct {
	Name     string // for people: the operator's login, or the member's name
	Operator bool   // may do everything, in every team; the other fields but Name are then of no meaning
	ID       string // of the member
	API      string // with Team: the only team in which the member may do anything
	Team     string
	Role     Role
	Address  string // where the request came from over the network; empty for a command
}

// Who names the actor for the audit stream and for CreatedBy: the operator's name, or the member's
// id and name, at most as long as a record takes.
func (a Actor) Who() string {
	if a.Operator || a.ID == "" {
		return keys.Shorten(a.Name, keys.MaxNameBytes)
	}
	return keys.Shorten(a.ID+" "+a.Name, keys.MaxNameBytes)
}

// RoleName is the member's role, or "operator".
func (a Actor) RoleName() string {
	if a.Operator {
		return "operator"
	}
	return string(a.Role)
}

// Check returns nil if the actor may do action on what belongs to this team of this API, else a
// *ForbiddenError. For what belongs to no team, and for actions on many teams, team is empty: only
// the operator passes then.
func (a Actor) Check(action Action, api, team string) error {
	row, listed := permission(action)
	own := api != "" && team != "" && api == a.API && team == a.Team
	if listed && (a.Operator || own && slices.Contains(row.Roles, a.Role)) {
		return nil
	}
	e := &ForbiddenError{Actor: a, Action: action, API: api, Team: team, Roles: row.Roles}
	e.Foreign = !own && len(row.Roles) > 0
	return e
}

// Sees reports whether a key may be known to the actor at all. To a member, one of another team
// must look like one that does not exist.
func (a Actor) Sees(k *keys.Key) bool {
	return a.Operator || a.API == k.API && a.Team == k.Team
}

// ErrForbidden is what every *ForbiddenError is.
var ErrForbidden = errors.New("keys: not allowed")

// ForbiddenError says that the actor may not do what was asked. It says nothing about whether the
// thing exists.
type ForbiddenError struct {
	Actor     Actor
	Action    Action
	API, Team string // which the thing belongs to
	Roles     []Role // that may do it in that team
	Foreign   bool   // the actor is not a member of that team
}

// Error says who may not do what, and who may.
func (e *ForbiddenError) Error() string {
	who := e.Actor.Who()
	if who == "" {
		who = "nobody"
	}
	text := fmt.Sprintf("%v: %s (%s) may not do %s", ErrForbidden, who, orNone(e.Actor.RoleName()), e.Action)
	switch {
	case e.Foreign && e.Team != "":
		return text + fmt.Sprintf(" in team %s of %s: only its own members may", e.Team, e.API)
	case e.Foreign:
		return text + " outside the own team"
	case len(e.Roles) == 0:
		return text + ": only the operator may"
	}
	return text + fmt.Sprintf(": needs one of %v", e.Roles)
}

// Is makes errors.Is find ErrForbidden.
func (e *ForbiddenError) Is(target error) bool { return target == ErrForbidden }

func orNone(s string) string {
	if s == "" {
		return "no role"
	}
	return s
}
