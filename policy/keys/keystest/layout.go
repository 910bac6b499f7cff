package keystest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Where things are in Redis. Stores that stand rely on each of these, so tests say them again.
const (
	Audit    = "tg:v1:audit"    // the stream of changes for people
	Changes  = "tg:v1:changes"  // the channel of changes for servers
	Servers  = "tg:v1:servers"  // the hash of servers that hear of changes
	Replicas = "tg:v1:replicas" // that the store has had replicas
)

// RecordKey is where the record of a key is.
func RecordKey(id string) string { return "tg:v1:key:{" + id + "}" }

// SecretKey is where the id of the key with this digest is.
func SecretKey(digest [32]byte) string { return "tg:v1:secret:" + hex.EncodeToString(digest[:]) }

// IndexKey is the list of the ids of an API's keys, or, with a team, of that team's.
func IndexKey(api, team string) string { return "tg:v1:index:{" + place(api, team) + "}" }

// ClientsKey is the list of the ids of the records of an API's clients.
func ClientsKey(api string) string { return "tg:v1:clients:{" + api + "}" }

// TeamKeysKey is what is counted of a team's keys.
func TeamKeysKey(api, team string) string { return "tg:v1:team:{" + place(api, team) + "}" }

// MembersKey is the hash of a team's members, whose field "team" is the team's own record.
func MembersKey(api, team string) string { return "tg:v1:members:{" + place(api, team) + "}" }

func place(api, team string) string {
	if team == "" {
		return api
	}
	return api + "/" + team
}

// stored is what a record says of how it is found.
type stored struct {
	ID          string
	API         string
	Team        string
	Environment string
	Status      string
	LimitID     string    `json:"limit_id"`
	RetiresAt   time.Time `json:"retires_at"`
	Version     int64
	Hash        string
	OtherHash   string `json:"other_hash"`
	Client      any    // of a client, not a key
}

// Consistent checks, without the code that it is about, that everything in the store fits together.
func Consistent(t *testing.T, c redis.UniversalClient) {
	t.Helper()
	ctx := t.Context()
	secrets := map[string]bool{}
	lists := map[string][]string{} // what every list should hold
	for _, name := range c.Keys(ctx, "tg:v1:key:*").Val() {
		var r stored
		if err := json.Unmarshal([]byte(c.Get(ctx, name).Val()), &r); err != nil || RecordKey(r.ID) != name || r.API == "" || r.Version < 1 {
			t.Errorf("%s: %+v, %v", name, r, err)
			continue
		}
		if r.Status == "deleted" && r.Hash == "" {
			continue
		}
		if r.OtherHash != "" {
			t.Errorf("%s has two digests", r.ID)
		}
		_, digest, _ := strings.Cut(r.Hash, ":")
		secret := "tg:v1:secret:" + digest
		secrets[secret] = true
		if owner := c.Get(ctx, secret).Val(); owner != r.ID {
			t.Errorf("the secret of %s leads to %q", r.ID, owner)
		}
		if r.Client != nil {
			lists[ClientsKey(r.API)] = append(lists[ClientsKey(r.API)], r.ID)
			continue
		}
		lists[IndexKey(r.API, "")] = append(lists[IndexKey(r.API, "")], r.ID)
		if r.Team != "" {
			list := IndexKey(r.API, r.Team)
			lists[list] = append(lists[list], r.ID)
			counted(t, c, r)
		}
	}
	ownSecrets(t, c, secrets)
	for _, name := range append(c.Keys(ctx, "tg:v1:index:*").Val(), c.Keys(ctx, "tg:v1:clients:*").Val()...) {
		got := c.ZRange(ctx, name, 0, -1).Val()
		slices.Sort(lists[name])
		if !slices.Equal(got, lists[name]) {
			t.Errorf("%s has %q, want %q", name, got, lists[name])
		}
		delete(lists, name)
	}
	if len(lists) > 0 {
		t.Errorf("no lists for %v", lists)
	}
}

// counted checks what the set of a key's team says of the key.
func counted(t *testing.T, c redis.UniversalClient, r stored) {
	t.Helper()
	ctx := t.Context()
	mark, end, line := "-", int64(0), r.LimitID
	if r.Status == "active" {
		mark = "+"
	}
	if !r.RetiresAt.IsZero() {
		end = r.RetiresAt.UnixMilli()
	}
	if line == r.ID {
		line = "="
	}
	want := fmt.Sprintf(" %s %d %s %s", mark, end, line, r.Environment)
	if got := c.HGet(ctx, TeamKeysKey(r.API, r.Team), r.ID).Val(); !strings.HasSuffix(got, want) {
		t.Errorf("the team's set has %q for %s, which is %s", got, r.ID, r.Status)
	}
	if n := c.HLen(ctx, TeamKeysKey(r.API, r.Team)).Val(); int(n) != len(c.ZRange(ctx, IndexKey(r.API, r.Team), 0, -1).Val()) {
		t.Errorf("the set of team %s has %d keys", r.Team, n)
	}
}

// ownSecrets checks that every secret leads to its key, or to one that once had it.
func ownSecrets(t *testing.T, c redis.UniversalClient, own map[string]bool) {
	t.Helper()
	ctx := t.Context()
	for _, name := range c.Keys(ctx, "tg:v1:secret:*").Val() {
		owner := c.Get(ctx, name).Val()
		if id, deleted := strings.CutPrefix(owner, "deleted:"); deleted && strings.Contains(c.Get(ctx, RecordKey(id)).Val(), `"status":"deleted"`) {
			continue
		}
		if id, former := strings.CutPrefix(owner, "former:"); former && !own[name] && c.Get(ctx, RecordKey(id)).Val() != "" {
			continue
		}
		if !own[name] {
			t.Errorf("a secret leads to %q without being its own", owner)
		}
	}
}

// Dump returns everything in the store but the audit stream.
func Dump(t *testing.T, c redis.UniversalClient) map[string]string {
	t.Helper()
	all := map[string]string{}
	admin, ctx := Administrator(t, c), t.Context()
	names, err := admin.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		switch admin.Type(ctx, name).Val() {
		case "string":
			all[name] = admin.Get(ctx, name).Val()
		case "zset":
			all[name] = fmt.Sprint(admin.ZRange(ctx, name, 0, -1).Val())
		case "set":
			all[name] = fmt.Sprint(admin.SMembers(ctx, name).Val())
		case "hash":
			// A team's set says when a key was noted in it.
			all[name] = regexp.MustCompile(` [0-9]{10} `).ReplaceAllString(fmt.Sprint(admin.HGetAll(ctx, name).Val()), " then ")
		}
	}
	return all
}

// TokenDigest is the hexadecimal digest of a member's token, as the store has it.
func TokenDigest(token string) string {
	sum := sha256.Sum256([]byte("tollgate member token v1\x00" + token))
	return hex.EncodeToString(sum[:])
}
