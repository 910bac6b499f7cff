package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"

	"github.com/redis/go-redis/v9"
)

func TestTeamsAndMembers(t *testing.T) {
	keystest.Parts{
		"Teams":                            testTeams,
		"DeleteTeamOnlyWhenEmpty":          testDeleteTeamOnlyWhenEmpty,
		"TeamOfAWrongType":                 testTeamOfAWrongType,
		"SetPlans":                         testSetPlansOfATeam,
		"Members":                          testMembers,
		"TokensThatAreRefused":             testTokensThatAreRefused,
		"TheLastAdminStays":                testTheLastAdminStays,
		"TwoAdminsRemoveEachOther":         testTwoAdminsRemoveEachOther,
		"MemberChangedMeanwhile":           testMemberChangedMeanwhile,
		"MostMembers":                      testMostMembers,
		"CorruptMembers":                   testCorruptMembers,
		"TokenIsShownOnceAndStoredNowhere": testTokenIsShownOnceAndStoredNowhere,
	}.OnEveryStore(t, asCommand())
}

func testTeams(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	if teams, next, err := s.Teams(ctx, "", "", 10); len(teams) != 0 || next != "" || err != nil {
		t.Fatalf("empty store: %v, %q, %v", teams, next, err)
	}
	made := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	for _, name := range []string{"b", "a", "c/d}", "e"} {
		if err := s.CreateTeam(ctx, Team{API: "pictify", Name: name, CreatedBy: "ops", CreatedAt: made}); err != nil {
			t.Fatal(err)
		}
	}
	mustTeam(t, s, "pictify2", "z")
	mustTeam(t, s, "genapi", "a")
	if err := s.CreateTeam(ctx, Team{API: "pictify", Name: "a"}); !errors.Is(err, ErrTeamExists) {
		t.Errorf("the same team again: %v", err)
	}
	got, err := s.Team(ctx, "pictify", "a")
	want := &Team{API: "pictify", Name: "a", CreatedBy: "ops", CreatedAt: made}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Team = %+v, %v", got, err)
	}
	if _, err := s.Team(ctx, "pictify", "z"); !errors.Is(err, ErrNoTeam) {
		t.Errorf("a team of another API: %v", err)
	}
	for size := 1; size <= 5; size++ {
		if got := allTeams(t, s, "pictify", size); got != "pictify/a pictify/b pictify/c/d} pictify/e" {
			t.Errorf("in pages of %d: %s", size, got)
		}
		if got := allTeams(t, s, "", size); got != "genapi/a pictify/a pictify/b pictify/c/d} pictify/e pictify2/z" {
			t.Errorf("of all APIs, in pages of %d: %s", size, got)
		}
	}

	// What one crash or another hand left: not a team, and not in the way of the others.
	c.ZAdd(ctx, teamIndexKey, redis.Z{Member: "pictify/half"})
	for i, record := range []string{"{", `{"api":"genapi","name":"bad1"}`, `{"api":"pictify","name":""}`} {
		c.ZAdd(ctx, teamIndexKey, redis.Z{Member: fmt.Sprintf("pictify/bad%d", i)})
		c.HSet(ctx, membersKey("pictify", fmt.Sprintf("bad%d", i)), teamField, record)
	}
	c.ZAdd(ctx, teamIndexKey, redis.Z{Member: "pictify/bad3"})
	c.Set(ctx, membersKey("pictify", "bad3"), "x", 0)
	teams, _, err := s.Teams(ctx, "pictify", "", 100)
	var corrupt *keys.CorruptError
	if len(teams) != 4 || !errors.As(err, &corrupt) || strings.Count(err.Error(), "corrupt") != 4 || !strings.Contains(err.Error(), "pictify/bad3") {
		t.Errorf("%d teams, %v", len(teams), err)
	}
	if _, err := s.Team(ctx, "pictify", "bad0"); !errors.As(err, &corrupt) {
		t.Errorf("a corrupt team: %v", err)
	}
	if err := s.CreateTeam(ctx, Team{API: "pictify", Name: "half"}); err != nil {
		t.Errorf("a create that was cut short is not completed: %v", err)
	}
}

func mustTeam(t *testing.T, s *Store, api, name string) {
	t.Helper()
	if err := s.CreateTeam(t.Context(), Team{API: api, Name: name}); err != nil {
		t.Fatal(err)
	}
}

func allTeams(t *testing.T, s *Store, api string, size int) string {
	t.Helper()
	var got []string
	for cursor, pages := "", 0; ; pages++ {
		teams, next, err := s.Teams(t.Context(), api, cursor, size)
		if err != nil || len(teams) > size || pages > 10 {
			t.Fatal(len(teams), pages, err)
		}
		for _, team := range teams {
			got = append(got, teamTag(team.API, team.Name))
		}
		if next == "" {
			return strings.Join(got, " ")
		}
		cursor = next
	}
}

func testDeleteTeamOnlyWhenEmpty(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	if err := s.DeleteTeam(ctx, "pictify", "orbit"); !errors.Is(err, ErrNoTeam) {
		t.Fatalf("no team: %v", err)
	}
	mustTeam(t, s, "pictify", "orbit")
	mustTeam(t, s, "pictify", "nova")
	m := mustMember(t, s, "orbit", "Ann", roles.Admin)
	c.HSet(ctx, teamKeysKey("pictify", "orbit"), "key_abcd", "live", "key_efgh", "test")
	team, err := s.Team(ctx, "pictify", "orbit")
	if err != nil || team.Members != 1 || team.Keys != 2 {
		t.Errorf("Team = %+v, %v", team, err)
	}
	expectInUse := func(members, keys int, text string) {
		t.Helper()
		var used *TeamInUseError
		err := s.DeleteTeam(ctx, "pictify", "orbit")
		if !errors.As(err, &used) || !errors.Is(err, ErrTeamInUse) || used.Members != members || used.Keys != keys || !strings.Contains(err.Error(), text) {
			t.Errorf("DeleteTeam = %v", err)
		}
		if _, err := s.Team(ctx, "pictify", "orbit"); err != nil {
			t.Errorf("the team is gone: %v", err)
		}
	}
	expectInUse(1, 2, "1 member and 2 keys")
	c.Del(ctx, teamKeysKey("pictify", "orbit"))
	expectInUse(1, 0, "1 member and 0 keys")
	if err := removeMember(ctx, s, "pictify", "orbit", m.ID); err != nil {
		t.Fatal(err)
	}
	c.HSet(ctx, teamKeysKey("pictify", "orbit"), "key_abcd", "live")
	expectInUse(0, 1, "0 members and 1 key")
	c.Del(ctx, teamKeysKey("pictify", "orbit"))
	if err := s.DeleteTeam(ctx, "pictify", "orbit"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Team(ctx, "pictify", "orbit"); !errors.Is(err, ErrNoTeam) {
		t.Errorf("Team = %v", err)
	}
	if got := allTeams(t, s, "", 10); got != "pictify/nova" || c.ZCard(ctx, teamIndexKey).Val() != 1 {
		t.Errorf("left: %s", got)
	}
	mustTeam(t, s, "pictify", "orbit")
	if got := allTeams(t, s, "", 10); got != "pictify/nova pictify/orbit" {
		t.Errorf("made again: %s", got)
	}
}

// Whatever the order, a team that stands is in the index.
func TestTeamMadeAndDeletedAtOnce(t *testing.T) {
	c := keystest.NewServer(t)
	ctx, s := t.Context(), New(c)
	for range 20 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 10 {
					if err := s.CreateTeam(ctx, Team{API: "pictify", Name: "orbit"}); err != nil && !errors.Is(err, ErrTeamExists) {
						t.Error(err)
					}
					if err := s.DeleteTeam(ctx, "pictify", "orbit"); err != nil && !errors.Is(err, ErrNoTeam) {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				for range 10 {
					s.CreateTeam(ctx, Team{API: "pictify", Name: "orbit"})
				}
			})
		}
		wg.Wait()
		_, err := s.Team(ctx, "pictify", "orbit")
		if got := allTeams(t, s, "", 10); (err == nil) != (got == "pictify/orbit") {
			t.Fatalf("team: %v, listed: %q", err, got)
		}
	}
}

// A delete takes the index entry out just after a create has put it in, and puts it back.
func TestDeleteTeamPutsBackWhatItTookFromAnother(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s := New(c)
	mustTeam(t, s, "pictify", "orbit")
	c.AddHook(&keystest.Overtake{N: 1, Name: "zrem", Do: func() { mustTeam(t, s, "pictify", "orbit") }})
	if err := s.DeleteTeam(t.Context(), "pictify", "orbit"); err != nil {
		t.Fatal(err)
	}
	if got := allTeams(t, s, "", 10); got != "pictify/orbit" {
		t.Errorf("listed: %q", got)
	}
}

// A create puts its index entry in again, because a delete may have taken out the first one.
func TestCreateTeamIsInTheIndexAtItsEnd(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s := New(c)
	c.AddHook(&keystest.Overtake{N: 1, Name: "hsetnx", Do: func() { c.ZRem(t.Context(), teamIndexKey, "pictify/orbit") }})
	mustTeam(t, s, "pictify", "orbit")
	if got := allTeams(t, s, "", 10); got != "pictify/orbit" {
		t.Errorf("listed: %q", got)
	}
}

// A create that dies after it has written the record leaves a team that is listed.
func TestCreateTeamThatDiesIsInTheIndex(t *testing.T) {
	c := keystest.NewEmbedded(t)
	crash := &keystest.DieBefore{What: "zadd"}
	c.AddHook(&keystest.Overtake{N: 1, Name: "hsetnx", Do: func() { crash.Armed.Store(true) }})
	c.AddHook(crash)
	s := New(c)
	if err := s.CreateTeam(t.Context(), Team{API: "pictify", Name: "orbit"}); !errors.Is(err, keystest.ErrDied) {
		t.Fatalf("the crash did not happen: %v", err)
	}
	if got := allTeams(t, s, "", 10); got != "pictify/orbit" {
		t.Errorf("listed: %q", got)
	}
}

func TestTeamFields(t *testing.T) {
	s := New(keystest.NewEmbedded(t))
	for _, test := range []struct {
		team  Team
		field string
	}{
		{Team{API: "Pictify", Name: "a"}, "api"},
		{Team{API: "pictify"}, "team"},
		{Team{API: "pictify", Name: "a\n"}, "team"},
		{Team{API: "pictify", Name: " a"}, "team"},
		{Team{API: "pictify", Name: strings.Repeat("a", 129)}, "team"},
		{Team{API: "pictify", Name: "a", CreatedBy: "\x00"}, "created_by"},
		{Team{API: "pictify", Name: "a", CreatedAt: time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC)}, "created_at"},
	} {
		var field *keys.FieldError
		if err := s.CreateTeam(t.Context(), test.team); !errors.As(err, &field) || field.Field != test.field {
			t.Errorf("%+v: %v", test.team, err)
		}
	}
	if n := s.client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys were written", n)
	}
}

// Every call says that the store does not answer, and not that something is not there.
func TestTeamsAndMembersWithoutAStore(t *testing.T) {
	const api, team, id = "pictify", "orbit", "mem_0123456789abcdef"
	calls := map[string]func(ctx context.Context, s *Store) error{
		"CreateTeam": func(ctx context.Context, s *Store) error { return s.CreateTeam(ctx, Team{API: api, Name: "new"}) },
		"Team":       func(ctx context.Context, s *Store) error { _, err := s.Team(ctx, api, team); return err },
		"Teams":      func(ctx context.Context, s *Store) error { _, _, err := s.Teams(ctx, "", "", 1); return err },
		"DeleteTeam": func(ctx context.Context, s *Store) error { return s.DeleteTeam(ctx, api, "gone") },
		"Members":    func(ctx context.Context, s *Store) error { _, err := s.Members(ctx, api, team); return err },
		"Member":     func(ctx context.Context, s *Store) error { _, err := member(ctx, s, api, team, id); return err },
		"SetRole": func(ctx context.Context, s *Store) error {
			_, err := setRole(ctx, s, api, team, id, roles.Viewer)
			return err
		},
		"RemoveMember": func(ctx context.Context, s *Store) error { return removeMember(ctx, s, api, team, id) },
		"AddMember": func(ctx context.Context, s *Store) error {
			_, token, err := addMember(ctx, s, Member{API: api, Team: team, Name: "New", Role: roles.Viewer})
			if token != "" {
				t.Error("a token beside an error")
			}
			return err
		},
		"MemberByToken": func(ctx context.Context, s *Store) error {
			_, err := s.MemberByToken(ctx, keys.Seal(TokenPrefix, strings.Repeat("0", 27)))
			return err
		},
	}
	// The step of each call at which the connection is lost; each of them can be.
	steps := map[string][]string{
		"CreateTeam": {"zadd", "hsetnx"}, "DeleteTeam": {"evalsha", "zrem"}, "Teams": {"zrange"}, "Members": {"hgetall"}, "Member": {"hmget"},
		"SetRole": {"hmget", "evalsha"}, "RemoveMember": {"hmget", "evalsha"}, "AddMember": {"set", "evalsha"}, "MemberByToken": {"get", "hmget"},
	}
	for name, call := range calls {
		for _, step := range append(steps[name], "") {
			c := keystest.NewEmbedded(t)
			s := New(c)
			mustTeam(t, s, api, team)
			mustTeam(t, s, api, "gone")
			data := `{"id":"` + id + `","api":"pictify","team":"orbit","name":"Old","role":"viewer","token":"sha256:` + tokenDigest(keys.Seal(TokenPrefix, strings.Repeat("0", 27))).Hex() + `"}`
			c.HSet(t.Context(), membersKey(api, team), id, data)
			c.Set(t.Context(), memberTokenKey(tokenDigest(keys.Seal(TokenPrefix, strings.Repeat("0", 27)))), id+" pictify/orbit", 0)
			want := keystest.ErrDied
			if step == "" {
				c.Close()
				want = redis.ErrClosed
			} else {
				c.AddHook(keystest.DieAlways(step))
			}
			err := call(t.Context(), s)
			var corrupt *keys.CorruptError
			if !errors.Is(err, want) || errors.As(err, &corrupt) || !strings.HasPrefix(err.Error(), "keys: store: ") {
				t.Errorf("%s, lost at %q: %v", name, step, err)
			}
		}
	}
}

// A name of ours that holds another type is that team's fault alone.
func testTeamOfAWrongType(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	c.Set(ctx, membersKey("pictify", "orbit"), "x", 0)
	_, _, add := addMember(ctx, s, Member{API: "pictify", Team: "orbit", Name: "Ann", Role: roles.Admin})
	_, members := s.Members(ctx, "pictify", "orbit")
	_, team := s.Team(ctx, "pictify", "orbit")
	for i, err := range []error{add, members, team, s.DeleteTeam(ctx, "pictify", "orbit"), s.CreateTeam(ctx, Team{API: "pictify", Name: "orbit"})} {
		var corrupt *keys.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "pictify/orbit") {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func testSetPlansOfATeam(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	team := keystest.Must[*Team](t)(s.SetPlans(ctx, "pictify", "orbit", []string{"free", "pro"}))
	if got := keystest.Must[*Team](t)(s.Team(ctx, "pictify", "orbit")); !reflect.DeepEqual(got, team) || !slices.Equal(got.Plans, []string{"free", "pro"}) {
		t.Errorf("%+v, want %+v", got, team)
	}
	var fault *keys.FieldError
	for _, plans := range [][]string{{""}, {"a", "a"}, {"a\n"}} {
		if _, err := s.SetPlans(ctx, "pictify", "orbit", plans); !errors.As(err, &fault) || !strings.HasPrefix(fault.Field, "plans[") {
			t.Errorf("%q: %v", plans, err)
		}
	}
	if _, err := s.SetPlans(ctx, "pictify", "none", nil); !errors.Is(err, ErrNoTeam) {
		t.Errorf("no team: %v", err)
	}
	c.AddHook(&keystest.Overtake{Name: "evalsha", N: 1, Do: func() {
		if err := c.HSet(ctx, membersKey("pictify", "orbit"), teamField, `{"api":"pictify","name":"orbit"}`).Err(); err != nil {
			t.Error(err)
		}
	}})
	if _, err := s.SetPlans(ctx, "pictify", "orbit", nil); !errors.Is(err, ErrConflict) {
		t.Errorf("somebody else was faster: %v", err)
	}
	c.HSet(ctx, membersKey("pictify", "orbit"), teamField, "{")
	_, err := s.SetPlans(ctx, "pictify", "orbit", nil)
	expectCorrupt(t, "SetPlans", err, "team pictify/orbit", "not the record")
}
