package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"

	"github.com/redis/go-redis/v9"
)

func mustMember(t *testing.T, s *Store, team, name string, role roles.Role) *Member {
	t.Helper()
	m, _, err := addMember(t.Context(), s, Member{API: "pictify", Team: team, Name: name, Role: role})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func testMembers(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	if _, err := s.Members(ctx, "pictify", "orbit"); !errors.Is(err, ErrNoTeam) {
		t.Errorf("Members of no team: %v", err)
	}
	if _, _, err := addMember(ctx, s, Member{API: "pictify", Team: "orbit", Name: "Ann", Role: roles.Admin}); !errors.Is(err, ErrNoTeam) {
		t.Errorf("AddMember to no team: %v", err)
	}
	if n := c.Exists(ctx, membersKey("pictify", "orbit")).Val(); n != 0 {
		t.Error("a refused member left something")
	}
	mustTeam(t, s, "pictify", "orbit")
	at := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	ann, token, err := addMember(ctx, s, Member{API: "pictify", Team: "orbit", Name: `A"nn <ann@example.com>`, Role: roles.Admin, CreatedBy: "ops", CreatedAt: at})
	if err != nil || MemberIDProblem(ann.ID) != "" || ann.Role != roles.Admin || !ann.CreatedAt.Equal(at) {
		t.Fatalf("AddMember = %+v, %v", ann, err)
	}
	if !keys.HasChecksum(token, "tgm_") || len(token) != 4+27+6 {
		t.Error("the token has another form")
	}
	bob := mustMember(t, s, "orbit", "bob", roles.Viewer)
	for _, name := range []string{"bob", "BOB"} {
		if _, _, err := addMember(ctx, s, Member{API: "pictify", Team: "orbit", Name: name, Role: roles.Admin}); !errors.Is(err, ErrMemberExists) {
			t.Errorf("a second %s: %v", name, err)
		}
	}
	mustMember(t, s, "orbit", "orbit", roles.Viewer) // the team's own name is not taken
	got, err := s.Members(ctx, "pictify", "orbit")
	if err != nil || len(got) != 3 || !reflect.DeepEqual(got[:2], []*Member{ann, bob}) {
		t.Errorf("Members = %+v, %v", got, err)
	}
	if got, err := member(ctx, s, "pictify", "orbit", bob.ID); err != nil || !reflect.DeepEqual(got, bob) {
		t.Errorf("Member = %+v, %v", got, err)
	}
	for _, id := range []string{"mem_0123456789abcdef", "team", ""} {
		_, one := member(ctx, s, "pictify", "orbit", id)
		_, role := setRole(ctx, s, "pictify", "orbit", id, roles.Viewer)
		for _, err := range []error{one, role, removeMember(ctx, s, "pictify", "orbit", id)} {
			if !errors.Is(err, ErrNoMember) {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	if by, err := s.MemberByToken(ctx, token); err != nil || !reflect.DeepEqual(by, ann) {
		t.Errorf("MemberByToken = %+v, %v", by, err)
	}
	want := roles.Actor{Name: ann.Name, ID: ann.ID, API: "pictify", Team: "orbit", Role: roles.Admin}
	if ann.Actor() != want {
		t.Errorf("Actor = %+v", ann.Actor())
	}
	changed, err := setRole(ctx, s, "pictify", "orbit", bob.ID, roles.Editor)
	if err != nil || changed.Role != roles.Editor || changed.Name != "bob" {
		t.Errorf("SetRole = %+v, %v", changed, err)
	}
	if got, err := member(ctx, s, "pictify", "orbit", bob.ID); err != nil || got.Role != roles.Editor {
		t.Errorf("Member = %+v, %v", got, err)
	}
	var field *keys.FieldError
	if _, err := setRole(ctx, s, "pictify", "orbit", bob.ID, "owner"); !errors.As(err, &field) || field.Field != "role" {
		t.Errorf("a role that is none: %v", err)
	}
}

// A token that never was, one of a removed member, of a deleted team and of somebody else get the
// same answer.
func testTokensThatAreRefused(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	mustTeam(t, s, "pictify", "nova")
	add := func(team, name string, role roles.Role) (*Member, string) {
		m, token, err := addMember(ctx, s, Member{API: "pictify", Team: team, Name: name, Role: role})
		if err != nil {
			t.Fatal(err)
		}
		return m, token
	}
	_, good := add("orbit", "Ann", roles.Admin)
	removed, removedToken := add("orbit", "Bob", roles.Viewer)
	left, leftToken := add("orbit", "Eve", roles.Viewer)
	last, lastToken := add("nova", "Zoe", roles.Admin)
	swapped, swappedToken := add("orbit", "Kim", roles.Viewer)
	for _, m := range []*Member{removed, last} {
		if err := removeMember(ctx, s, "pictify", m.Team, m.ID); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.Exists(ctx, memberTokenKey(tokenDigest(removedToken))).Val(); n != 0 {
		t.Error("the way from the token stays")
	}
	if err := s.DeleteTeam(ctx, "pictify", "nova"); err != nil {
		t.Fatal(err)
	}
	// The way from the token is left over: after a crash, of a removed member and of a deleted
	// team.
	c.HDel(ctx, membersKey("pictify", "orbit"), left.ID)
	c.Set(ctx, memberTokenKey(tokenDigest(lastToken)), last.ID+" pictify/nova", 0)
	// A token that leads to a member who has another one.
	stray := keys.NewSecret(TokenPrefix)
	c.Set(ctx, memberTokenKey(tokenDigest(stray)), swapped.ID+" pictify/orbit", 0)
	for name, token := range map[string]string{
		"unknown": keys.NewSecret(TokenPrefix), "removed": removedToken, "removed, way left over": leftToken, "deleted team": lastToken, "of another": stray,
		"empty": "", "no prefix": "x" + good, "a key": keys.NewSecret("pk_live_"), "spaces": good + " ", "too long": keys.Seal(TokenPrefix, strings.Repeat("a", 28)),
		"checksum": good[:len(good)-1] + map[bool]string{true: "B", false: "A"}[good[len(good)-1] == 'A'],
	} {
		m, err := s.MemberByToken(ctx, token)
		if m != nil || !errors.Is(err, ErrToken) || err.Error() != ErrToken.Error() {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	for _, token := range []string{good, swappedToken} {
		if _, err := s.MemberByToken(ctx, token); err != nil {
			t.Error(err)
		}
	}
}

func TestTokenOfAWrongFormNeverReachesTheStore(t *testing.T) {
	c := keystest.NewEmbedded(t)
	c.Close()
	token := keys.NewSecret(TokenPrefix)
	wrong := map[bool]string{true: "B", false: "A"}[strings.HasSuffix(token, "A")]
	for _, form := range []string{token[:len(token)-1], token[:len(token)-1] + wrong, token + "A"} {
		if _, err := New(c).MemberByToken(t.Context(), form); !errors.Is(err, ErrToken) {
			t.Errorf("%v", err)
		}
	}
	if _, err := New(c).MemberByToken(t.Context(), token); errors.Is(err, ErrToken) || strings.Contains(err.Error(), token) {
		t.Errorf("a whole token, without a store: %v", err)
	}
}

func testTheLastAdminStays(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	ann := mustMember(t, s, "orbit", "Ann", roles.Admin)
	bob := mustMember(t, s, "orbit", "Bob", roles.Viewer)
	refused := func(others, keys int) {
		t.Helper()
		_, demote := setRole(ctx, s, "pictify", "orbit", ann.ID, roles.Editor)
		for _, err := range []error{demote, removeMember(ctx, s, "pictify", "orbit", ann.ID)} {
			var last *LastAdminError
			if !errors.As(err, &last) || !errors.Is(err, ErrLastAdmin) || last.Others != others || last.Keys != keys || !strings.Contains(err.Error(), ann.ID) {
				t.Errorf("the last admin: %v", err)
			}
		}
		if m, err := member(ctx, s, "pictify", "orbit", ann.ID); err != nil || m.Role != roles.Admin {
			t.Errorf("the last admin is %+v, %v", m, err)
		}
	}
	refused(1, 0)
	if _, err := setRole(ctx, s, "pictify", "orbit", ann.ID, roles.Admin); err != nil {
		t.Errorf("the same role: %v", err)
	}
	// With a second admin either may go.
	if _, err := setRole(ctx, s, "pictify", "orbit", bob.ID, roles.Admin); err != nil {
		t.Fatal(err)
	}
	if _, err := setRole(ctx, s, "pictify", "orbit", bob.ID, roles.Viewer); err != nil {
		t.Fatal(err)
	}
	// An admin whose record nobody can read does not count.
	c.HSet(ctx, membersKey("pictify", "orbit"), "mem_0123456789abcdef", `"role":"admin"`)
	refused(2, 0)
	for _, id := range []string{"mem_0123456789abcdef", bob.ID} {
		if err := removeMember(ctx, s, "pictify", "orbit", id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	// Alone, but with keys to look after.
	c.HSet(ctx, teamKeysKey("pictify", "orbit"), "key_abcd", "live")
	refused(0, 1)
	c.Del(ctx, teamKeysKey("pictify", "orbit"))
	if _, err := setRole(ctx, s, "pictify", "orbit", ann.ID, roles.Viewer); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("demoted though alone: %v", err)
	}
	if err := removeMember(ctx, s, "pictify", "orbit", ann.ID); err != nil {
		t.Errorf("the very last member of a team without keys: %v", err)
	}
	if err := s.DeleteTeam(ctx, "pictify", "orbit"); err != nil {
		t.Error(err)
	}
}

// Two admins remove each other at once: one of them stays.
func testTwoAdminsRemoveEachOther(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	for i := range 10 {
		team := fmt.Sprintf("orbit%d", i)
		mustTeam(t, s, "pictify", team)
		mustMember(t, s, team, "Viewer", roles.Viewer)
		var wg sync.WaitGroup
		for _, m := range []*Member{mustMember(t, s, team, "Ann", roles.Admin), mustMember(t, s, team, "Bob", roles.Admin)} {
			wg.Go(func() { removeMember(ctx, s, "pictify", team, m.ID) })
			wg.Go(func() { setRole(ctx, s, "pictify", team, m.ID, roles.Viewer) })
		}
		wg.Wait()
		members, err := s.Members(ctx, "pictify", team)
		admins := 0
		for _, m := range members {
			if m.Role == roles.Admin {
				admins++
			}
		}
		if err != nil || admins != 1 {
			t.Errorf("%d admins are left, %v", admins, err)
		}
	}
}

// A change that was decided on an older record is not made.
func testMemberChangedMeanwhile(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	mustMember(t, s, "orbit", "Ann", roles.Admin)
	bob := mustMember(t, s, "orbit", "Bob", roles.Viewer)
	c.AddHook(&keystest.Overtake{N: 1, Name: "evalsha", Do: func() { setRole(ctx, s, "pictify", "orbit", bob.ID, roles.Editor) }})
	if _, err := setRole(ctx, s, "pictify", "orbit", bob.ID, roles.Admin); !errors.Is(err, ErrMemberMoved) {
		t.Errorf("SetRole = %v", err)
	}
	c.AddHook(&keystest.Overtake{N: 1, Name: "evalsha", Do: func() { removeMember(ctx, s, "pictify", "orbit", bob.ID) }})
	if _, err := setRole(ctx, s, "pictify", "orbit", bob.ID, roles.Admin); !errors.Is(err, ErrMemberMoved) {
		t.Errorf("SetRole of a removed member = %v", err)
	}
	if _, err := member(ctx, s, "pictify", "orbit", bob.ID); !errors.Is(err, ErrNoMember) {
		t.Errorf("the removed member is back: %v", err)
	}
}

func testMostMembers(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	var fields []any
	for i := range MostMembers - 1 {
		fields = append(fields, fmt.Sprintf("mem_%016d", i), "{}")
	}
	c.HSet(ctx, membersKey("pictify", "orbit"), fields...)
	mustMember(t, s, "orbit", "the last", roles.Viewer)
	keys := c.DBSize(ctx).Val()
	if _, _, err := addMember(ctx, s, Member{API: "pictify", Team: "orbit", Name: "too many", Role: roles.Viewer}); !errors.Is(err, ErrTeamFull) {
		t.Errorf("one too many: %v", err)
	}
	if n := c.DBSize(ctx).Val(); n != keys {
		t.Errorf("the refused member left %d keys", n-keys)
	}
}

func testCorruptMembers(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	mustMember(t, s, "orbit", "Ann", roles.Admin)
	bob, token, err := addMember(ctx, s, Member{API: "pictify", Team: "orbit", Name: "Bob", Role: roles.Viewer})
	if err != nil {
		t.Fatal(err)
	}
	key := membersKey("pictify", "orbit")
	good := c.HGet(ctx, key, bob.ID).Val()
	for name, bad := range map[string]string{
		"not JSON": "{", "other type": "[1]", "no role": strings.Replace(good, "viewer", "owner", 1),
		"other id": strings.Replace(good, bob.ID, "mem_0123456789abcdef", 1), "other team": strings.Replace(good, "orbit", "nova", 1),
		"other algorithm": strings.Replace(good, "sha256:", "sha1:", 1), "not hexadecimal": strings.Replace(good, "sha256:", "sha256:x", 1),
	} {
		c.HSet(ctx, key, bob.ID, bad)
		members, list := s.Members(ctx, "pictify", "orbit")
		_, by := s.MemberByToken(ctx, token)
		_, role := setRole(ctx, s, "pictify", "orbit", bob.ID, roles.Admin)
		_, one := member(ctx, s, "pictify", "orbit", bob.ID)
		for i, err := range []error{list, by, role, one} {
			var corrupt *keys.CorruptError
			if !errors.As(err, &corrupt) || corrupt.ID != bob.ID || strings.Contains(err.Error(), tokenDigest(token).Hex()) {
				t.Errorf("%s, %d: %v", name, i, err)
			}
		}
		if len(members) != 1 || members[0].Name != "Ann" {
			t.Errorf("%s: the others are %+v", name, members)
		}
	}
	if err := removeMember(ctx, s, "pictify", "orbit", bob.ID); err != nil {
		t.Errorf("a corrupt member cannot be removed: %v", err)
	}
	if _, err := s.MemberByToken(ctx, token); !errors.Is(err, ErrToken) {
		t.Errorf("%v", err)
	}
	for _, owner := range []string{"", "mem_x pictify/orbit", bob.ID, bob.ID + " pictify"} {
		c.Set(ctx, memberTokenKey(tokenDigest(token)), owner, 0)
		var corrupt *keys.CorruptError
		if _, err := s.MemberByToken(ctx, token); !errors.As(err, &corrupt) {
			t.Errorf("a token that leads to %q: %v", owner, err)
		}
	}
}

func TestMemberFields(t *testing.T) {
	s := New(keystest.NewEmbedded(t))
	mustTeam(t, s, "pictify", "orbit")
	before := s.client.DBSize(t.Context()).Val()
	whole := func(edit func(*Member)) Member {
		m := Member{API: "pictify", Team: "orbit", Name: "Ann", Role: roles.Admin}
		edit(&m)
		return m
	}
	for field, m := range map[string]Member{
		"api":        whole(func(m *Member) { m.API = "" }),
		"team":       whole(func(m *Member) { m.Team = "" }),
		"name":       whole(func(m *Member) { m.Name = "" }),
		"role":       whole(func(m *Member) { m.Role = "" }),
		"created_by": whole(func(m *Member) { m.CreatedBy = "\n" }),
		"created_at": whole(func(m *Member) { m.CreatedAt = time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC) }),
		"name ":      whole(func(m *Member) { m.Name = "Ann " }),
		"name  ":     whole(func(m *Member) { m.Name = "a" + keys.NewSecret(TokenPrefix) }),
	} {
		var got *keys.FieldError
		_, _, err := addMember(t.Context(), s, m)
		if !errors.As(err, &got) || got.Field != strings.TrimSpace(field) || strings.Contains(err.Error(), TokenPrefix) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if n := s.client.DBSize(t.Context()).Val(); n != before {
		t.Errorf("%d before were written", n-before)
	}
}

// The store has the digest and never the token, and nothing that is printed has either.
func testTokenIsShownOnceAndStoredNowhere(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	m, token, err := addMember(ctx, s, Member{API: "pictify", Team: "orbit", Name: "Ann", Role: roles.Admin})
	if err != nil {
		t.Fatal(err)
	}
	var stored []string
	for _, key := range c.Keys(ctx, "*").Val() {
		stored = append(stored, key, c.Get(ctx, key).Val())
		for field, value := range c.HGetAll(ctx, key).Val() {
			stored = append(stored, field, value)
		}
	}
	all := strings.Join(stored, "\n")
	digest := tokenDigest(token).Hex()
	if strings.Contains(all, token[4:31]) || !strings.Contains(all, digest) {
		t.Errorf("the store holds %s", all)
	}
	if c.Exists(ctx, "tg:v1:member:"+digest).Val() != 1 || c.TTL(ctx, "tg:v1:member:"+digest).Val() != -1 {
		t.Error("the way from the token is not where it should be")
	}
	var shown bytes.Buffer
	members, err := s.Members(ctx, "pictify", "orbit")
	for _, v := range []any{m, members, m.Actor(), err} {
		fmt.Fprintf(&shown, "%v %+v %#v", v, v, v)
		slog.New(slog.NewJSONHandler(&shown, nil)).Info("a", "v", v)
		json.NewEncoder(&shown).Encode(v)
	}
	if strings.Contains(shown.String(), token) || strings.Contains(shown.String(), digest) {
		t.Errorf("shown: %s", &shown)
	}
}

// setRole changes what stands.
func setRole(ctx context.Context, s *Store, api, team, id string, role roles.Role) (*Member, error) {
	m, err := s.StoredMember(ctx, api, team, id)
	if err != nil {
		return nil, err
	}
	return s.SetRole(ctx, m, role)
}

// removeMember removes what stands, also if it cannot be read.
func removeMember(ctx context.Context, s *Store, api, team, id string) error {
	m, err := s.StoredMember(ctx, api, team, id)
	if m == nil {
		return err
	}
	return s.RemoveMember(ctx, m)
}

// addMember makes a member and its token, and adds it.
func addMember(ctx context.Context, s *Store, m Member) (*Member, string, error) {
	m, token, err := NewMember(m)
	if err != nil {
		return nil, "", err
	}
	if err := s.PutMember(ctx, &m, token); err != nil {
		return nil, "", err
	}
	return &m, token, nil
}

// member reads one member of a team.
func member(ctx context.Context, s *Store, api, team, id string) (*Member, error) {
	m, err := s.StoredMember(ctx, api, team, id)
	if err != nil {
		return nil, err
	}
	return &m.Member, nil
}
