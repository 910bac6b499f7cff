package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// Answers about teams and members.
type (
	// Team is a team as its members see it.
	Team struct {
		API       string    `json:"api"`
		Name      string    `json:"name"`
		Plans     []string  `json:"plans" nullable:"false" doc:"That members may give the team's keys"`
		Members   int       `json:"members"`
		Keys      int       `json:"keys"`
		CreatedAt time.Time `json:"created_at,omitzero"`
	}
	// Teams are those that the member belongs to.
	Teams struct {
		Teams []Team `json:"teams" nullable:"false"`
	}
	// Member is a member without the token.
	Member struct {
		ID        string    `json:"id" example:"mem_0123456789abcdef"`
		Name      string    `json:"name"`
		Role      string    `json:"role" enum:"admin,editor,viewer"`
		CreatedBy string    `json:"created_by,omitempty"`
		CreatedAt time.Time `json:"created_at,omitzero"`
	}
	// Members are those of the team.
	Members struct {
		Members    []Member `json:"members" nullable:"false"`
		Unreadable bool     `json:"unreadable,omitempty" doc:"There are more, whose records cannot be read"`
	}
	// ChangedMember is a member after a change.
	ChangedMember struct {
		Member   Member   `json:"member"`
		Warnings []string `json:"warnings,omitempty" nullable:"false"`
	}
	// MadeMember is a new member with the token.
	MadeMember struct {
		Member   Member   `json:"member"`
		Token    string   `json:"token" doc:"What the member presents. It is shown this once and kept nowhere"`
		Warnings []string `json:"warnings,omitempty" nullable:"false"`
	}

	teamsAnswer         struct{ Body Teams }
	membersAnswer       struct{ Body Members }
	changedMemberAnswer struct{ Body ChangedMember }
	madeMemberAnswer    struct{ Body MadeMember }
)

// Questions about members.
type (
	// NewMember is what an admin says of a new member of the team.
	NewMember struct {
		Name string `json:"name" doc:"Name or e-mail address, once in the team"`
		Role string `json:"role" enum:"admin,editor,viewer"`
	}
	// MemberPatch is a JSON merge patch of a member.
	MemberPatch struct {
		Role string `json:"role" enum:"admin,editor,viewer"`
	}

	nothing            struct{}
	newMemberQuestion  struct{ Body NewMember }
	patchMemberRequest struct {
		ID   string `path:"id"`
		Body MemberPatch
	}
	memberPath struct {
		ID string `path:"id" example:"mem_0123456789abcdef"`
	}
)

// addMembers registers the operations on teams and members.
func (a *API) addMembers(h huma.API) {
	huma.Register(h, operation(h, "listTeams", http.MethodGet, "/v1/teams", "Show the member's team", http.StatusOK, Teams{}), a.listTeams)
	huma.Register(h, operation(h, "listMembers", http.MethodGet, "/v1/members", "List the members of the team", http.StatusOK, Members{}), a.listMembers)
	huma.Register(h, operation(h, "addMember", http.MethodPost, "/v1/members", "Add a member", http.StatusCreated, MadeMember{}), a.addMember)
	huma.Register(h, operation(h, "patchMember", http.MethodPatch, "/v1/members/{id}", "Give a member another role", http.StatusOK, ChangedMember{}), a.patchMember)
	huma.Register(h, operation(h, "removeMember", http.MethodDelete, "/v1/members/{id}", "Remove a member, whose token is refused at once", http.StatusNoContent, nil), a.removeMember)
}

func shownMember(m *store.Member) Member {
	return Member{ID: m.ID, Name: m.Name, Role: string(m.Role), CreatedBy: m.CreatedBy, CreatedAt: utc(m.CreatedAt)}
}

func (a *API) listTeams(ctx context.Context, _ *nothing) (*teamsAnswer, error) {
	found, _, err := a.manager(ctx).Teams(ctx, "", "", 0)
	if err != nil {
		return nil, a.problemOf(ctx, err, false)
	}
	teams := Teams{Teams: []Team{}}
	for _, t := range found {
		teams.Teams = append(teams.Teams, Team{t.API, t.Name, append([]string{}, t.Plans...), t.Members, t.Keys, utc(t.CreatedAt)})
	}
	return &teamsAnswer{teams}, nil
}

func (a *API) listMembers(ctx context.Context, _ *nothing) (*membersAnswer, error) {
	who := callOf(ctx).who
	found, err := a.manager(ctx).Members(ctx, who.API, who.Team)
	bad := len(unreadable(err)) > 0
	if err != nil && !bad {
		return nil, a.problemOf(ctx, err, false)
	}
	members := Members{Members: []Member{}, Unreadable: bad}
	for _, m := range found {
		members.Members = append(members.Members, shownMember(m))
	}
	return &membersAnswer{members}, nil
}

func (a *API) addMember(ctx context.Context, q *newMemberQuestion) (*madeMemberAnswer, error) {
	who := callOf(ctx).who
	m, token, err := a.manager(ctx).AddMember(ctx, who.API, who.Team, q.Body.Name, roles.Role(q.Body.Role))
	if m == nil {
		return nil, a.problemOf(ctx, err, true)
	}
	return &madeMemberAnswer{MadeMember{shownMember(m), token, a.warnings(ctx, err)}}, nil
}

func (a *API) patchMember(ctx context.Context, q *patchMemberRequest) (*changedMemberAnswer, error) {
	who := callOf(ctx).who
	m, err := a.manager(ctx).SetRole(ctx, who.API, who.Team, q.ID, roles.Role(q.Body.Role))
	if m == nil {
		return nil, a.problemOf(ctx, err, true)
	}
	return &changedMemberAnswer{ChangedMember{shownMember(m), a.warnings(ctx, err)}}, nil
}

func (a *API) removeMember(ctx context.Context, q *memberPath) (*nothing, error) {
	who := callOf(ctx).who
	err := a.manager(ctx).RemoveMember(ctx, who.API, who.Team, q.ID)
	if errors.Is(err, audit.ErrOutcomeLost) {
		a.warnings(ctx, err) // it is made
		err = nil
	}
	if err != nil {
		return nil, a.problemOf(ctx, err, true)
	}
	return nil, nil
}
