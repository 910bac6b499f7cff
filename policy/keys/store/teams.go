package store

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// What a call about a team can find. Test with errors.Is.
var (
	ErrNoTeam     = errors.New("keys: there is no such team")
	ErrTeamExists = errors.New("keys: the team exists")
	ErrTeamInUse  = errors.New("keys: the team is in use") // what every *TeamInUseError is
)

// Team owns keys of one API. Its record is the field "team" of the hash
// tg:v1:members:{<api>/<name>}, so that one script sees the team, its members and
// (tg:v1:team:{<api>/<name>}) its keys in one slot of a cluster.
type Team struct {
	API       string    `json:"api"`
	Name      string    `json:"name"`            // what Key.Team says, and X-Consumer-ID
	Plans     []string  `json:"plans,omitempty"` // that members may give their keys; the operator may give any
	CreatedBy string    `json:"created_by,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"` // UTC; zero = not known
	Members   int       `json:"-"`                   // counted when read
	Keys      int       `json:"-"`                   // counted when read
}

// Validate returns a *FieldError for the first field whose value cannot be stored, or nil.
func (t *Team) Validate() error {
	for _, f := range []keys.FieldError{
		{Field: "api", Problem: keys.APIProblem(t.API)},
		{Field: "team", Problem: keys.NameProblem(t.Name)},
		{Field: "created_by", Problem: keys.TextProblem(t.CreatedBy, keys.MaxNameBytes)},
		{Field: "created_at", Problem: keys.TimeProblem(t.CreatedAt)},
	} {
		if f.Problem != "" {
			return &f
		}
	}
	if strings.TrimSpace(t.Name) != t.Name {
		return &keys.FieldError{Field: "team", Problem: "starts or ends with a space"}
	}
	for i, plan := range t.Plans {
		problem := keys.NameProblem(plan)
		if slices.Contains(t.Plans[:i], plan) {
			problem = keys.Quote(plan) + " is named twice"
		}
		if problem != "" {
			return &keys.FieldError{Field: fmt.Sprintf("plans[%d]", i), Problem: problem}
		}
	}
	return nil
}

// TeamInUseError says what stands in the way of deleting a team.
type TeamInUseError struct {
	API, Name     string
	Members, Keys int
}

// Error counts what has to go first.
func (e *TeamInUseError) Error() string {
	return fmt.Sprintf("%v: %s of %s still has %s and %s (one counts until it is deleted); remove them first", ErrTeamInUse, keys.Quote(e.Name), e.API,
		keys.Plural(e.Members, "member"), keys.Plural(e.Keys, "key"))
}

// Is makes errors.Is find ErrTeamInUse.
func (e *TeamInUseError) Is(target error) bool { return target == ErrTeamInUse }

const (
	teamIndexKey = "tg:v1:teams" // ZSET of "<api>/<team>", all with score 0
	teamField    = "team"
	maxTeamPage  = 1000
)

// teamTag names a team in keys of the store. An API's name has no slash, so the first one divides.
func teamTag(api, team string) string { return api + "/" + team }

func membersKey(api, team string) string { return "tg:v1:members:{" + teamTag(api, team) + "}" }

// teamKeysKey is the hash of the team's keys: one field for each that is not deleted.
func teamKeysKey(api, team string) string { return "tg:v1:team:{" + teamTag(api, team) + "}" }

//go:embed lua/team_delete.lua
var teamDeleteSource string

// CreateTeam adds a team. Errors: a *FieldError; ErrTeamExists; any other means that the store did
// not answer, and the same call again completes what was begun.
func (s *Store) CreateTeam(ctx context.Context, t Team) error {
	if err := t.Validate(); err != nil {
		return err
	}
	t.CreatedAt = t.CreatedAt.UTC()
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := s.indexTeam(ctx, t.API, t.Name); err != nil {
		return err
	}
	made, err := s.client.HSetNX(ctx, membersKey(t.API, t.Name), teamField, data).Result()
	if err != nil {
		return memberError(ctx, t.API, t.Name, err)
	}
	if !made {
		return ErrTeamExists
	}
	// Again, because a DeleteTeam that was under way may have taken the first one out.
	return s.indexTeam(ctx, t.API, t.Name)
}

func (s *Store) indexTeam(ctx context.Context, api, team string) error {
	if err := s.client.ZAdd(ctx, teamIndexKey, redis.Z{Member: teamTag(api, team)}).Err(); err != nil {
		return ReadError(ctx, teamIndexKey, err)
	}
	return nil
}

// Team returns one team with its counts. Errors: ErrNoTeam; a *CorruptError; any other means that
// the store did not answer.
func (s *Store) Team(ctx context.Context, api, team string) (*Team, error) {
	found, err := s.readTeams(ctx, []string{teamTag(api, team)})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, ErrNoTeam
	}
	return found[0], nil
}

// Teams returns up to limit teams (1 to 1000) of the API, or of all if api is empty, in the order
// of API and name, after the cursor, which is empty for the start and else what an earlier call
// returned as next. next is empty at the end. A page may be short, or empty, while there is a next.
// Teams that cannot be read are left out, and named in an error beside the others.
func (s *Store) Teams(ctx context.Context, api, cursor string, limit int) (teams []*Team, next string, err error) {
	limit = min(max(limit, 1), maxTeamPage)
	from, to := "-", "+"
	if api != "" {
		from, to = "["+api+"/", "("+api+"0" // 0 follows / in ASCII
	}
	if cursor != "" {
		from = "(" + cursor
	}
	tags, err := s.client.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: teamIndexKey, Start: from, Stop: to, ByLex: true, Count: int64(limit) + 1,
	}).Result()
	if err != nil {
		return nil, "", ReadError(ctx, teamIndexKey, err)
	}
	if len(tags) > limit {
		tags, next = tags[:limit], tags[limit-1]
	}
	teams, err = s.readTeams(ctx, tags)
	return teams, next, err
}

// SetPlans says which plans members may give the keys of a team, in place of those before. Errors:
// a *FieldError; ErrNoTeam; ErrConflict if somebody else has changed the team meanwhile; a
// *CorruptError: nothing is changed. Any other means that the store did not answer.
func (s *Store) SetPlans(ctx context.Context, api, team string, plans []string) (*Team, error) {
	raw, err := s.client.HGet(ctx, membersKey(api, team), teamField).Result()
	if errors.Is(err, redis.Nil) {
		return nil, ErrNoTeam
	}
	if err != nil {
		return nil, memberError(ctx, api, team, err)
	}
	t, err := decodeTeam(teamTag(api, team), []byte(raw))
	if err != nil {
		return nil, err
	}
	t.Plans = slices.Clone(plans)
	if err := t.Validate(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	if err := s.changeMember(ctx, api, team, teamField, raw, string(data)); errors.Is(err, ErrMemberMoved) {
		return nil, ErrConflict
	} else if err != nil {
		return nil, err
	}
	return t, nil
}

// readTeams leaves out the tags that have no team: a create that was cut short, or a delete that is
// under way.
func (s *Store) readTeams(ctx context.Context, tags []string) ([]*Team, error) {
	type reply struct {
		record        *redis.StringCmd
		members, keys *redis.IntCmd
	}
	replies := make([]reply, len(tags))
	pipe := s.client.Pipeline()
	for i, tag := range tags {
		api, team, _ := strings.Cut(tag, "/")
		replies[i] = reply{pipe.HGet(ctx, membersKey(api, team), teamField), pipe.HLen(ctx, membersKey(api, team)),
			pipe.HLen(ctx, teamKeysKey(api, team))}
	}
	if len(tags) > 0 {
		pipe.Exec(ctx) // each reply says what went wrong with it
	}
	var teams []*Team
	var corrupt []error
	for i, tag := range tags {
		data, err := replies[i].record.Bytes()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err = cmp.Or(err, replies[i].members.Err(), replies[i].keys.Err()); err != nil {
			api, team, _ := strings.Cut(tag, "/")
			err = memberError(ctx, api, team, err)
		}
		var t *Team
		if err == nil {
			t, err = decodeTeam(tag, data)
		}
		var bad *keys.CorruptError
		if errors.As(err, &bad) {
			corrupt = append(corrupt, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		t.Members, t.Keys = int(replies[i].members.Val())-1, int(replies[i].keys.Val())
		teams = append(teams, t)
	}
	return teams, errors.Join(corrupt...)
}

func decodeTeam(tag string, data []byte) (*Team, error) {
	var t Team
	if json.Unmarshal(data, &t) != nil || t.Validate() != nil || teamTag(t.API, t.Name) != tag {
		return nil, &keys.CorruptError{ID: "team " + tag, Err: errors.New("it is not the record of this team")}
	}
	return &t, nil
}

// DeleteTeam removes a team that has neither members nor keys. Errors: ErrNoTeam; a
// *TeamInUseError, then nothing is changed; any other means that the store did not answer, and the
// team may be gone or not.
func (s *Store) DeleteTeam(ctx context.Context, api, team string) error {
	found := []string{membersKey(api, team), teamKeysKey(api, team)}
	counts, err := redis.NewScript(teamDeleteSource).Run(ctx, s.client, found, teamField).Int64Slice()
	if err != nil {
		return memberError(ctx, api, team, err)
	}
	switch {
	case len(counts) == 0:
		return ErrNoTeam
	case counts[0] > 0 || counts[1] > 0:
		return &TeamInUseError{API: api, Name: team, Members: int(counts[0]), Keys: int(counts[1])}
	}
	if err := s.client.ZRem(ctx, teamIndexKey, teamTag(api, team)).Err(); err != nil {
		return ReadError(ctx, teamIndexKey, err)
	}
	// A CreateTeam of the same name may have come between.
	back, err := s.client.HExists(ctx, membersKey(api, team), teamField).Result()
	if err == nil && back {
		return s.indexTeam(ctx, api, team)
	}
	return nil
}

// memberError tells a team whose key holds another type from a store that does not answer.
func memberError(ctx context.Context, api, team string, err error) error {
	if IsWrongType(err) {
		return &keys.CorruptError{ID: "team " + teamTag(api, team), Err: errors.New("it is not a hash")}
	}
	return ReadError(ctx, "", err)
}

// IsWrongType also knows what the embedded store makes of the error when a script meets it.
func IsWrongType(err error) bool { return strings.Contains(err.Error(), "WRONGTYPE ") }
