package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
)

// TokenPrefix starts every member's token, so that scanners for leaked secrets can find one.
const TokenPrefix = "tgm_"

// MostMembers is how many members a team can have.
const MostMembers = 1000

const (
	memberPrefix   = "mem_"
	memberIDRandom = 16 // base62 characters
	tokenHash      = "sha256:"
)

// What a call about a member can find. Test with errors.Is.
var (
	// ErrToken is the same for a token that never was, one of a removed member and one of a deleted
	// team.
	ErrToken        = errors.New("keys: the member token is not valid")
	ErrNoMember     = errors.New("keys: there is no such member in the team")
	ErrMemberExists = errors.New("keys: the team has a member of this name")
	ErrTeamFull     = fmt.Errorf("keys: the team has %d members, which is the most", MostMembers)
	ErrMemberMoved  = errors.New("keys: the member was changed by somebody else meanwhile; try again")
	ErrLastAdmin    = errors.New("keys: the last admin of the team") // what every *LastAdminError is
)

// Member is a person or program that acts for a team. It holds neither token nor digest.
type Member struct {
	ID        string     `json:"id"` // mem_ followed by 16 of 0-9 A-Z a-z; set by AddMember
	API       string     `json:"api"`
	Team      string     `json:"team"`
	Name      string     `json:"name"` // name or e-mail address; once in a team, upper and lower case alike
	Role      roles.Role `json:"role"`
	CreatedBy string     `json:"created_by,omitempty"` // who added the member
	CreatedAt time.Time  `json:"created_at,omitzero"`  // UTC; zero = not known
}

// Actor is the member as somebody who asks for something.
func (m *Member) Actor() roles.Actor {
	return roles.Actor{Name: m.Name, ID: m.ID, API: m.API, Team: m.Team, Role: m.Role}
}

// Validate returns a *FieldError for the first field whose value cannot be stored, or nil.
func (m *Member) Validate() error {
	for _, f := range []keys.FieldError{
		{Field: "id", Problem: MemberIDProblem(m.ID)},
		{Field: "api", Problem: keys.APIProblem(m.API)},
		{Field: "team", Problem: keys.NameProblem(m.Team)},
		{Field: "name", Problem: keys.NameProblem(m.Name)},
		{Field: "role", Problem: roles.RoleProblem(m.Role)},
		{Field: "created_by", Problem: keys.TextProblem(m.CreatedBy, keys.MaxNameBytes)},
		{Field: "created_at", Problem: keys.TimeProblem(m.CreatedAt)},
	} {
		if f.Problem != "" {
			return &f
		}
	}
	if strings.TrimSpace(m.Name) != m.Name {
		return &keys.FieldError{Field: "name", Problem: "starts or ends with a space"}
	}
	if strings.Contains(m.Name, TokenPrefix) {
		return &keys.FieldError{Field: "name", Problem: "looks like a token"}
	}
	return nil
}

func MemberIDProblem(id string) string {
	rest, ok := strings.CutPrefix(id, memberPrefix)
	if !ok || len(rest) != memberIDRandom || strings.Trim(rest, keys.Base62) != "" {
		return keys.Quote(id) + " is not mem_ followed by 16 of 0-9 A-Z a-z"
	}
	return ""
}

// LastAdminError says that a change would leave a team with members or keys and without an admin.
type LastAdminError struct {
	ID     string // of the admin
	Others int    // members beside the admin
	Keys   int    // of the team
}

// Error says what would have to change first.
func (e *LastAdminError) Error() string {
	return fmt.Sprintf("%v: %s cannot be removed or given another role while the team has %s and %s; "+
		"make another member admin first", ErrLastAdmin, e.ID, keys.Plural(e.Others, "other member"), keys.Plural(e.Keys, "key"))
}

// Is makes errors.Is find ErrLastAdmin.
func (e *LastAdminError) Is(target error) bool { return target == ErrLastAdmin }

// memberRecord is the JSON of a member, in the field named by its id of the team's hash.
type memberRecord struct {
	Member
	Token string `json:"token"` // "sha256:" and the hexadecimal digest of the token
}

// tokenDigest needs no pepper: a token has 160 random bits, so nobody can guess one from its hash,
// and every command line would have to be given the pepper only to know who is asking. The first
// bytes keep it apart from other digests.
func tokenDigest(token string) keys.Digest {
	return sha256.Sum256([]byte("tollgate member token v1\x00" + token))
}

func memberTokenKey(d keys.Digest) string { return "tg:v1:member:" + d.Hex() }

//go:embed lua/member_add.lua
var memberAddSource string

//go:embed lua/member_change.lua
var memberChangeSource string

// NewMember gives m an id, and returns it with its token, which cannot be had again. Errors: a
// *FieldError.
func NewMember(m Member) (Member, string, error) {
	// The random part of a secret is longer than that of an id.
	m.ID, m.CreatedAt = memberPrefix+keys.NewSecret("")[:memberIDRandom], m.CreatedAt.UTC()
	if err := m.Validate(); err != nil {
		return m, "", err
	}
	return m, keys.NewSecret(TokenPrefix), nil
}

// PutMember adds a new member to a team that exists. Errors: ErrNoTeam, ErrMemberExists,
// ErrTeamFull: nothing is changed. Any other means that the store did not answer; a member that is
// there all the same has a token that nobody knows, so remove it.
func (s *Store) PutMember(ctx context.Context, m *Member, token string) error {
	digest := tokenDigest(token)
	data, err := json.Marshal(memberRecord{Member: *m, Token: tokenHash + digest.Hex()})
	if err != nil {
		return err
	}
	// The way from the token first: without the record it leads nowhere, so a crash leaves nothing
	// that works.
	if err := s.client.Set(ctx, memberTokenKey(digest), m.ID+" "+teamTag(m.API, m.Team), 0).Err(); err != nil {
		return memberError(ctx, m.API, m.Team, err)
	}
	answer, err := redis.NewScript(memberAddSource).Run(ctx, s.client, []string{membersKey(m.API, m.Team)},
		teamField, m.ID, data, MostMembers).Text()
	if err != nil {
		return memberError(ctx, m.API, m.Team, err)
	}
	refused := map[string]error{"ok": nil, "no team": ErrNoTeam, "exists": ErrMemberExists, "full": ErrTeamFull}[answer]
	if refused != nil {
		s.client.Del(ctx, memberTokenKey(digest)) // if it stays, it leads nowhere
	}
	return refused
}

// Members returns the members of a team by name. Errors: ErrNoTeam; those that cannot be read are
// left out, and named in an error beside the others; any other means that the store did not answer.
func (s *Store) Members(ctx context.Context, api, team string) ([]*Member, error) {
	fields, err := s.client.HGetAll(ctx, membersKey(api, team)).Result()
	if err != nil {
		return nil, memberError(ctx, api, team, err)
	}
	if _, ok := fields[teamField]; !ok {
		return nil, ErrNoTeam
	}
	var members []*Member
	var corrupt []error
	for id, data := range fields {
		if id == teamField {
			continue
		}
		r, err := decodeMember(api, team, id, data)
		if err != nil {
			corrupt = append(corrupt, err)
			continue
		}
		members = append(members, &r.Member)
	}
	slices.SortFunc(members, func(a, b *Member) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(corrupt, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return members, errors.Join(corrupt...)
}

// StoredMember is a member as it stands in the store, which a change compares with.
type StoredMember struct {
	Member
	digest keys.Digest // of the token; zero for a record that cannot be read
	raw    string
}

// StoredMember reads one member of a team. Beside a *CorruptError stands what RemoveMember needs,
// else errors come alone: ErrNoTeam, ErrNoMember; any other means that the store did not answer.
func (s *Store) StoredMember(ctx context.Context, api, team, id string) (*StoredMember, error) {
	if MemberIDProblem(id) != "" {
		return nil, ErrNoMember
	}
	values, err := s.client.HMGet(ctx, membersKey(api, team), teamField, id).Result()
	if err != nil {
		return nil, memberError(ctx, api, team, err)
	}
	if values[0] == nil {
		return nil, ErrNoTeam
	}
	raw, ok := values[1].(string)
	if !ok {
		return nil, ErrNoMember
	}
	r, err := decodeMember(api, team, id, raw)
	if err != nil {
		return &StoredMember{Member: Member{ID: id, API: api, Team: team}, raw: raw}, err
	}
	digest, _ := r.digest()
	return &StoredMember{Member: r.Member, digest: digest, raw: raw}, nil
}

// SetRole gives a member another role and returns the changed record. Errors: a *FieldError;
// ErrNoTeam; a *LastAdminError; ErrMemberMoved if it is not what stands; a *CorruptError: nothing
// is changed. Any other means that the store did not answer.
func (s *Store) SetRole(ctx context.Context, m *StoredMember, role roles.Role) (*Member, error) {
	changed := memberRecord{Member: m.Member, Token: tokenHash + m.digest.Hex()}
	changed.Role = role
	if err := changed.Validate(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(changed)
	if err != nil {
		return nil, err
	}
	if err := s.changeMember(ctx, m.API, m.Team, m.ID, m.raw, string(data)); err != nil {
		return nil, err
	}
	return &changed.Member, nil
}

// RemoveMember takes a member out of a team; the token is refused from then on. The last admin can
// go only as the very last of the team: with no other member and no key, so that the team can be
// deleted. A record that cannot be read can be removed. Errors: ErrNoTeam; a *LastAdminError;
// ErrMemberMoved if it is not what stands: nothing is changed. Any other means that the store did
// not answer.
func (s *Store) RemoveMember(ctx context.Context, m *StoredMember) error {
	if err := s.changeMember(ctx, m.API, m.Team, m.ID, m.raw, ""); err != nil {
		return err
	}
	// The member is gone with the record. The way from the token leads nowhere now; if it stays, it
	// does no harm.
	if m.digest != (keys.Digest{}) {
		s.client.Del(ctx, memberTokenKey(m.digest))
	}
	return nil
}

// changeMember replaces the stored text, or removes it if the new one is empty.
func (s *Store) changeMember(ctx context.Context, api, team, id, from, to string) error {
	reply, err := redis.NewScript(memberChangeSource).Run(ctx, s.client,
		[]string{membersKey(api, team), teamKeysKey(api, team)}, teamField, id, from, to, string(roles.Admin)).Int64Slice()
	if err != nil {
		return memberError(ctx, api, team, err)
	}
	switch len(reply) {
	case 0:
		return ErrMemberMoved
	case 2:
		return &LastAdminError{ID: id, Others: int(reply[0]), Keys: int(reply[1])}
	}
	return nil
}

// MemberByToken returns the member whose token this is. The token is taken as it is, without
// trimming. Errors: ErrToken; a *CorruptError; any other means that the store did not answer. None
// of them holds the token.
func (s *Store) MemberByToken(ctx context.Context, token string) (*Member, error) {
	if len(token) != len(TokenPrefix)+keys.SecretBytes || !keys.HasChecksum(token, TokenPrefix) {
		return nil, ErrToken
	}
	digest := tokenDigest(token)
	owner, err := s.client.Get(ctx, memberTokenKey(digest)).Result()
	if errors.Is(err, redis.Nil) {
		return nil, ErrToken
	}
	if err != nil {
		return nil, ReadError(ctx, "(the owner of a token)", err)
	}
	id, tag, _ := strings.Cut(owner, " ") // a team can have spaces in its name, an id cannot
	api, team, ok := strings.Cut(tag, "/")
	if !ok || MemberIDProblem(id) != "" {
		return nil, &keys.CorruptError{Err: errors.New("the token leads to something that is not a member")}
	}
	m, err := s.StoredMember(ctx, api, team, id)
	if errors.Is(err, ErrNoTeam) || errors.Is(err, ErrNoMember) {
		return nil, ErrToken
	}
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(m.digest[:], digest[:]) != 1 {
		return nil, ErrToken
	}
	return &m.Member, nil
}

func decodeMember(api, team, id, data string) (*memberRecord, error) {
	var r memberRecord
	corrupt := func(why string) error { return &keys.CorruptError{ID: id, Err: errors.New(why)} }
	if json.Unmarshal([]byte(data), &r) != nil {
		return nil, corrupt("it is not the JSON of a member")
	}
	if err := r.Validate(); err != nil {
		return nil, &keys.CorruptError{ID: id, Err: err}
	}
	if r.ID != id || r.API != api || r.Team != team {
		return nil, corrupt("it belongs elsewhere")
	}
	if _, ok := r.digest(); !ok {
		return nil, corrupt("its token has no hash")
	}
	return &r, nil
}

func (r *memberRecord) digest() (d keys.Digest, ok bool) {
	digits, ok := strings.CutPrefix(r.Token, tokenHash)
	if !ok || len(digits) != 2*len(d) {
		return keys.Digest{}, false
	}
	_, err := hex.Decode(d[:], []byte(digits))
	return d, err == nil && d != keys.Digest{}
}
