package roles

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"tollgate/policy/keys"
)

// The table of roles once more, by hand: the roles that may, as letters, for every action there is.
var wantRoles = map[Action]string{
	ActionCreate:     "A--",
	ActionView:       "A--",
	ActionUpdate:     "A--",
	ActionRotate:     "A--",
	ActionRevoke:     "A--",
	ActionActivate:   "A--",
	ActionDeactivate: "A--",
	ActionDelete:     "A--",
	ActionUsage:      "AEV",
	ActionImport:     "---",
	ActionExport:     "---",
	ActionRepair:     "---",
	ActionSeed:       "---",
	ActionRehash:     "---",
	ActionAnyPlan:    "---",
	ActionRaiseLimit: "---",
	ActionGrantExtra: "---",
	ActionResetLimit: "---",
	ActionSetPlans:   "---",

	ActionViewTeam:     "AEV",
	ActionCreateTeam:   "---",
	ActionDeleteTeam:   "---",
	ActionViewMembers:  "AEV",
	ActionAddMember:    "A--",
	ActionSetRole:      "A--",
	ActionRemoveMember: "A--",
	ActionReadAudit:    "---",

	ActionViewClient:    "---",
	ActionBlockClient:   "---",
	ActionUnblockClient: "---",
	ActionPlanClient:    "---",
	ActionLimitClient:   "---",
}

func TestEveryCellOfTheTableOfRoles(t *testing.T) {
	const api, team = "pictify", "team_orbit"
	for _, row := range Permissions() {
		if _, ok := wantRoles[row.Action]; !ok {
			t.Errorf("%s is in the table and not in this test", row.Action)
		}
	}
	for action, cells := range wantRoles {
		for i, role := range []Role{Admin, Editor, Viewer} {
			want := cells[i] != '-'
			member := Actor{Name: "Ann", ID: "mem_1", API: api, Team: team, Role: role}
			err := member.Check(action, api, team)
			if (err == nil) != want || err != nil && !errors.Is(err, ErrForbidden) {
				t.Errorf("%s does %s in the own team: %v", role, action, err)
			}
			for _, other := range [][2]string{{api, "team_nova"}, {"genapi", team}, {api, ""}, {"", ""}, {"", team}} {
				if err := member.Check(action, other[0], other[1]); !errors.Is(err, ErrForbidden) {
					t.Errorf("%s does %s in %q: %v", role, action, other, err)
				}
			}
		}
		operator := Actor{Name: "ops", Operator: true}
		for _, where := range [][2]string{{api, team}, {api, ""}, {"", ""}} {
			if err := operator.Check(action, where[0], where[1]); err != nil {
				t.Errorf("the operator does %s in %q: %v", action, where, err)
			}
		}
		for _, nobody := range []Actor{{}, {Role: Admin}, {Role: Admin, API: api}, {Role: "owner", API: api, Team: team}, {API: api, Team: team}} {
			for _, where := range [][2]string{{api, team}, {api, ""}, {"", ""}} {
				if err := nobody.Check(action, where[0], where[1]); !errors.Is(err, ErrForbidden) {
					t.Errorf("%+v does %s in %q: %v", nobody, action, where, err)
				}
			}
		}
	}
}

func TestAnActionWithoutARowIsRefusedToEverybody(t *testing.T) {
	for _, a := range []Actor{{Name: "ops", Operator: true}, {ID: "mem_1", API: "pictify", Team: "t", Role: Admin}} {
		if err := a.Check("keys.paint", "pictify", "t"); !errors.Is(err, ErrForbidden) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

// Who gets the table cannot change it for others.
func TestTheTableOfRolesIsACopy(t *testing.T) {
	Permissions()[0].Roles[0] = Viewer
	if slices.Contains(Permissions()[0].Roles, Viewer) {
		t.Error("the table was changed")
	}
}

func TestForbiddenSaysWhoMay(t *testing.T) {
	editor := Actor{Name: "Ed", ID: "mem_1", API: "pictify", Team: "team_orbit", Role: Editor}
	for _, test := range []struct {
		err  error
		want []string
	}{
		{editor.Check(ActionCreate, "pictify", "team_orbit"), []string{"mem_1 Ed (editor)", "keys.create", "admin"}},
		{editor.Check(ActionUsage, "pictify", "team_nova"), []string{"team_nova of pictify", "own members"}},
		{editor.Check(ActionUsage, "", ""), []string{"outside the own team"}},
		{editor.Check(ActionReadAudit, "", ""), []string{"only the operator"}},
		{Actor{}.Check(ActionView, "pictify", "team_orbit"), []string{"nobody (no role)"}},
	} {
		for _, want := range test.want {
			if test.err == nil || !strings.Contains(test.err.Error(), want) {
				t.Errorf("%v does not say %q", test.err, want)
			}
		}
	}
}

func TestParseRole(t *testing.T) {
	for _, r := range []Role{Admin, Editor, Viewer} {
		if got, err := ParseRole(string(r)); got != r || err != nil {
			t.Errorf("%s: %v, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "Admin", "owner", keys.NewSecret("tgm_")} {
		var field *keys.FieldError
		if _, err := ParseRole(s); !errors.As(err, &field) || field.Field != "role" || len(s) > 20 && strings.Contains(err.Error(), s) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestActorNames(t *testing.T) {
	for _, test := range []struct {
		a         Actor
		who, role string
	}{
		{Actor{Name: "ops", Operator: true, ID: "mem_1", Role: Viewer}, "ops", "operator"},
		{Actor{Name: "Ann", ID: "mem_1", Role: Admin}, "mem_1 Ann", "admin"},
		{Actor{}, "", ""},
		{Actor{Name: strings.Repeat("é", 64), ID: "mem_0123456789abcdef", Role: Viewer}, "mem_0123456789abcdef " + strings.Repeat("é", 53), "viewer"},
		{Actor{Name: strings.Repeat("o", 129), Operator: true}, strings.Repeat("o", 128), "operator"},
	} {
		if test.a.Who() != test.who || test.a.RoleName() != test.role {
			t.Errorf("%+v: %q, %q", test.a, test.a.Who(), test.a.RoleName())
		}
	}
}
