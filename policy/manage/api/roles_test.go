package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"tollgate/policy/keys/roles"
	"tollgate/policy/manage/api"
)

// endpoint is an operation of the API and the action that it is in the table of roles.
type endpoint struct {
	action roles.Action
	method string
	path   string // KEY and MEMBER stand for ids
	body   string
	status int // for whom the table lets
}

// endpoints are all operations, by their ids.
func endpoints() map[string]endpoint {
	return map[string]endpoint{
		"listKeys":      {roles.ActionView, "GET", "/v1/keys", "", 200},
		"createKey":     {roles.ActionCreate, "POST", "/v1/keys", `{"name":"n","environment":"test","plan":"pro","status":"inactive"}`, 201},
		"getKey":        {roles.ActionView, "GET", "/v1/keys/KEY", "", 200},
		"patchKey":      {roles.ActionUpdate, "PATCH", "/v1/keys/KEY", `{"note":"x"}`, 200},
		"rotateKey":     {roles.ActionRotate, "POST", "/v1/keys/KEY/rotate", "", 201},
		"revokeKey":     {roles.ActionRevoke, "POST", "/v1/keys/KEY/revoke", "", 200},
		"deactivateKey": {roles.ActionDeactivate, "POST", "/v1/keys/KEY/deactivate", "", 200},
		"activateKey":   {roles.ActionActivate, "POST", "/v1/keys/KEY/activate", "", 200},
		"deleteKey":     {roles.ActionDelete, "DELETE", "/v1/keys/KEY", "", 409}, // it is not revoked, which only who may hears
		"listTeams":     {roles.ActionViewTeam, "GET", "/v1/teams", "", 200},
		"listMembers":   {roles.ActionViewMembers, "GET", "/v1/members", "", 200},
		"addMember":     {roles.ActionAddMember, "POST", "/v1/members", `{"name":"NAME","role":"viewer"}`, 201},
		"patchMember":   {roles.ActionSetRole, "PATCH", "/v1/members/MEMBER", `{"role":"viewer"}`, 200},
		"removeMember":  {roles.ActionRemoveMember, "DELETE", "/v1/members/MEMBER", "", 204},
	}
}

// Each operation of the document, for each role, on what is the own team's and what is another's:
// it is done exactly where the table of roles says so, and what is another's does not exist.
func TestEveryCellOfTheTableOfRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var document struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal([]byte(w.send(nobody, "GET", "/openapi.json", "").body), &document); err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, methods := range document.Paths {
		for _, o := range methods {
			served = append(served, o.OperationID)
		}
	}
	all := endpoints()
	if slices.Sort(served); !slices.Equal(served, slices.Sorted(maps.Keys(all))) {
		t.Fatalf("operations without a row here, or rows without one: %v", served)
	}
	permissions := map[roles.Action][]roles.Role{}
	for _, p := range roles.Permissions() {
		permissions[p.Action] = p.Roles
	}
	n := 0
	for _, id := range slices.Sorted(maps.Keys(all)) {
		for _, role := range []roles.Role{roles.Admin, roles.Editor, roles.Viewer, ""} {
			for _, team := range []string{orbit, nova} {
				n++
				w.cell(t, id, all[id], role, team, slices.Contains(permissions[all[id].action], role), n)
			}
		}
	}
	if n != 14*4*2 {
		t.Errorf("%d cells", n)
	}
}

// cell sends one request of a member of orbit about what belongs to the team.
func (w *world) cell(t *testing.T, id string, e endpoint, role roles.Role, team string, may bool, n int) {
	t.Helper()
	w.clock.Advance(pause) // no throttle is meant here
	target := strings.Contains(e.path, "KEY") || strings.Contains(e.path, "MEMBER")
	path := e.path
	if strings.Contains(path, "KEY") {
		path = strings.Replace(path, "KEY", w.made(team+"/admin", `{"name":"n","environment":"test","plan":"pro"}`).Key.ID, 1)
		defer func(id string) { w.send(team+"/admin", "POST", "/v1/keys/"+id+"/revoke", "") }(strings.Split(path, "/")[3])
	}
	if strings.Contains(path, "MEMBER") {
		m, _, err := w.operator.AddMember(t.Context(), "pictify", team, fmt.Sprintf("target %d", n), roles.Editor)
		if err != nil {
			t.Fatal(err)
		}
		path = strings.Replace(path, "MEMBER", m.ID, 1)
	}
	who := nobody
	if role != "" {
		who = orbit + "/" + string(role)
	}
	before := w.dump()
	r := w.send(who, e.method, path, strings.Replace(e.body, "NAME", fmt.Sprintf("new %d", n), 1))
	want := 403
	switch {
	case role == "":
		want = 401
	case may && (team == orbit || !target):
		want = e.status
	case target && team != orbit && (may || strings.Contains(e.path, "KEY")):
		want = 404 // to a member, what is another team's is not there
	}
	if r.status != want {
		t.Errorf("%s by %q on what is %s's: %d, want %d: %s", id, role, team, r.status, want, r.body)
	}
	if want >= 400 && w.dump() != before {
		t.Errorf("%s by %q on what is %s's: %d, and the store has changed", id, role, team, r.status)
	}
	if team != orbit && strings.Contains(r.body, nova) {
		t.Errorf("%s by %q tells of %s: %s", id, role, nova, r.body)
	}
}

// A member who is given another role, or removed, has it with the next request; the last admin
// stays; a token is shown once.
func TestMembersOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := orbit + "/admin"
	var made api.MadeMember
	w.send(ann, "POST", "/v1/members", `{"name":"zoe","role":"viewer"}`).want(201, "").read(&made)
	w.tokens["zoe"] = made.Token
	w.send("zoe", "GET", "/v1/keys", "").want(403, "forbidden")
	path := "/v1/members/" + made.Member.ID
	var changed api.ChangedMember
	w.send(ann, "PATCH", path, `{"role":"admin"}`).want(200, "").read(&changed)
	if changed.Member.Role != "admin" {
		t.Errorf("%+v", changed)
	}
	w.send("zoe", "GET", "/v1/keys", "").want(200, "")
	if r := w.send(ann, "GET", "/v1/members", "").want(200, ""); strings.Contains(r.body, made.Token) || !strings.Contains(r.body, made.Member.ID) {
		t.Errorf("members: %s", r.body)
	}
	w.send(ann, "POST", "/v1/members", `{"name":"ZOE","role":"viewer"}`).want(409, "member_exists")
	w.send(ann, "POST", "/v1/members", `{"name":"x","role":"operator"}`).want(422, "invalid_request")
	w.send(ann, "POST", "/v1/members", `{"name":"x","role":"admin","team":"nova"}`).want(422, "invalid_request")
	w.send(ann, "PATCH", "/v1/members/mem_x", `{"role":"viewer"}`).want(404, "no_such_member")
	w.send("zoe", "DELETE", "/v1/members/"+w.members[ann].ID, "").want(204, "")
	w.send(ann, "GET", "/v1/keys", "").want(401, "invalid_token")
	w.send("zoe", "PATCH", path, `{"role":"viewer"}`).want(409, "last_admin")
	w.send("zoe", "DELETE", path, "").want(409, "last_admin")
	var teams api.Teams
	w.send("zoe", "GET", "/v1/teams", "").want(200, "").read(&teams)
	if len(teams.Teams) != 1 || teams.Teams[0].Name != orbit || teams.Teams[0].Members != 3 || fmt.Sprint(teams.Teams[0].Plans) != "[free pro]" {
		t.Errorf("teams %+v", teams)
	}
}
