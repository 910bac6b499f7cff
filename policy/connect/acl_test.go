package connect_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/usage/ledger"
)

// duty is something that a kind of user must be able to do. The number keeps runs apart.
type duty func(ctx context.Context, c redis.UniversalClient, n int) error

// user is what a user may do, must do and must not do.
type user struct {
	acl      connect.ACL
	do, deny []duty
}

func users() map[string]user {
	return map[string]user{
		"server": {acl: connect.ServerACL(), do: []duty{lookAtStore, exercise, spendOne, followChanges, confirmChanges, changeFromServer}, deny: []duty{manageTeams, readAudit, foreignKey, foreignChannel}},
		"cli":    {acl: connect.CLIACL(), do: []duty{acceptEmpty, exercise, manageKeys, awaitServers, repair, manageTeams, readAudit}, deny: []duty{spendOne, foreignKey, foreignChannel}},
	}
}

// followChanges is what a server's cache does all the time: it hears of changes, and sends its
// heartbeat.
func followChanges(ctx context.Context, c redis.UniversalClient, _ int) error {
	return hear(ctx, c, func(ctx context.Context) error { return c.Publish(ctx, changes, "news").Err() })
}

// lookAtStore is what a server does first, and each second.
func lookAtStore(ctx context.Context, c redis.UniversalClient, _ int) error {
	w := standing.New(c, keys.NewHasher([]byte("pepper")), standing.Options{Timeout: 5 * time.Second})
	state, err := w.Look(ctx)
	return errors.Join(err, state.Unseen, w.Vouch(ctx, "tg:v1:secret:00"))
}

// acceptEmpty is what makes a new store one for the commands, which look at its pepper first.
func acceptEmpty(ctx context.Context, c redis.UniversalClient, n int) error {
	h := keys.NewHasher([]byte("pepper"))
	if err := standing.AcceptEmpty(ctx, c, h); err != nil {
		return err
	}
	return standing.CheckPepper(ctx, c, h)
}

// confirmChanges is how a server says which changes it has heard of.
func confirmChanges(ctx context.Context, c redis.UniversalClient, n int) error {
	return store.New(c).ConfirmChanges(ctx, fmt.Sprint("server ", n), 1, time.Second, true)
}

// awaitServers is the end of a revocation, which no server hears here.
func awaitServers(ctx context.Context, c redis.UniversalClient, n int) error {
	var unheard *store.UnheardError
	err := store.New(c).AwaitServers(ctx, newKey(n).ID, time.Millisecond)
	if errors.As(err, &unheard) && unheard.Err == nil {
		return nil
	}
	return err
}

// changeFromServer is what a server writes besides its counters.
func changeFromServer(ctx context.Context, c redis.UniversalClient, n int) error {
	records, k := store.New(c), newKey(n)
	serve := admin.NewManager(records, keys.NewHasher([]byte("pepper")), nil, audit.New(c, 1000), roles.Actor{Name: "serve", Operator: true}, time.Now)
	if added, err := serve.Seed(ctx, []keyfile.Entry{{Key: *newKey(300_000 + n)}}, admin.SeedSource{}); err != nil || added != 1 {
		return fmt.Errorf("%d added: %w", added, err)
	}
	if err := records.Touch(ctx, []store.Use{{ID: k.ID, At: time.Now()}}); err != nil {
		return err
	}
	return records.Rehash(ctx, k.ID, k.Digest, keys.NewHasher([]byte("newer")).Digest(k.ID))
}

// manageKeys is the life of a key.
func manageKeys(ctx context.Context, c redis.UniversalClient, n int) error {
	records, room := store.New(c), &store.Cap{Most: 1000}
	k := newKey(100_000 + n)
	if err := records.CreateWithin(ctx, k, room); err != nil {
		return err
	}
	if page, _, err := records.List(ctx, store.Filter{}, "", 10); err != nil || len(page) == 0 {
		return fmt.Errorf("%d keys listed: %w", len(page), err)
	}
	if _, err := records.Replication(ctx, k.ID); err != nil {
		return err
	}
	old, err := records.Get(ctx, k.ID)
	if err != nil {
		return err
	}
	next := *old
	next.Note = "noted"
	now, err := records.Write(ctx, old, &next)
	if err != nil {
		return err
	}
	if _, err := records.WriteWithin(ctx, old, &next, room); !errors.Is(err, store.ErrConflict) || strings.Contains(err.Error(), "NOPERM") {
		return fmt.Errorf("an overtaken write: %w", err)
	}
	last := *now
	last.Status = keys.Revoked
	if _, _, err := records.WriteAndWait(ctx, now, &last, 1, time.Millisecond); err != nil {
		return err
	}
	return records.Delete(ctx, k)
}

// repair looks through everything, and mends a key that has left its lists.
func repair(ctx context.Context, c redis.UniversalClient, n int) error {
	k := newKey(200_000 + n)
	if err := store.New(c).CreateWithin(ctx, k, &store.Cap{Most: 1000}); err != nil {
		return err
	}
	_, err := store.New(c).Repair(ctx, k.API)
	return err
}

// manageTeams is the life of a team.
func manageTeams(ctx context.Context, c redis.UniversalClient, n int) error {
	records, name := store.New(c), fmt.Sprint("team", n)
	if err := records.CreateTeam(ctx, store.Team{API: "api", Name: name}); err != nil {
		return err
	}
	added, token, err := store.NewMember(store.Member{API: "api", Team: name, Name: "Ada", Role: roles.Admin})
	if err == nil {
		err = records.PutMember(ctx, &added, token)
	}
	if err != nil {
		return err
	}
	if _, err := records.MemberByToken(ctx, token); err != nil {
		return err
	}
	if teams, _, err := records.Teams(ctx, "api", "", 10); err != nil || len(teams) == 0 {
		return fmt.Errorf("%d teams: %w", len(teams), err)
	}
	if members, err := records.Members(ctx, "api", name); err != nil || len(members) != 1 {
		return fmt.Errorf("%d members: %w", len(members), err)
	}
	stored, err := records.StoredMember(ctx, "api", name, added.ID)
	if err != nil {
		return err
	}
	if _, err := records.SetRole(ctx, stored, roles.Admin); err != nil {
		return err
	}
	if stored, err = records.StoredMember(ctx, "api", name, added.ID); err != nil {
		return err
	}
	if err := records.RemoveMember(ctx, stored); err != nil {
		return err
	}
	return records.DeleteTeam(ctx, "api", name)
}

func readAudit(ctx context.Context, c redis.UniversalClient, _ int) error {
	a := audit.New(c, 1000)
	if err := a.Do(ctx, audit.Entry{Who: "me", Action: roles.ActionCreate}, func(context.Context) error { return nil }); err != nil {
		return err
	}
	for _, order := range []audit.Order{audit.OldestFirst, audit.NewestFirst} {
		if entries, _, err := a.Read(ctx, "", 10, order); err != nil || len(entries) < 2 {
			return fmt.Errorf("%d entries: %w", len(entries), err)
		}
	}
	return nil
}

func foreignKey(ctx context.Context, c redis.UniversalClient, _ int) error {
	return c.Get(ctx, "tg:v2:key:{a}").Err()
}

func foreignChannel(ctx context.Context, c redis.UniversalClient, _ int) error {
	sub := c.Subscribe(ctx, "other")
	defer sub.Close()
	_, err := sub.Receive(ctx)
	return err
}

// perform does all duties and returns the first failure.
func perform(ctx context.Context, c redis.UniversalClient, n int, all []duty) error {
	for _, d := range all {
		if err := d(ctx, c, n); err != nil {
			return err
		}
	}
	return nil
}

// forClusters are the commands that a server by itself is not asked; TestClusterACL has them.
func forClusters() []string { return []string{"cluster|slots", "asking"} }

// Each user can do its duties and nothing else, and needs every rule for that.
func TestACL(t *testing.T) {
	t.Parallel()
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, plain)
			n := 0
			// as runs the duties as a new user with these rules, on a new connection and scripts
			// that are not cached.
			as := func(rules []string, all []duty) error {
				n++
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				do(t, s, "script", "flush")
				do(t, s, append([]any{"acl", "setuser", name, "reset", "on", ">pw"}, anys(rules)...)...)
				c := open(t, "redis://"+name+":pw@"+s.address())
				defer c.Close()
				return perform(ctx, c, n, all)
			}
			rules := user.acl.Rules()
			if err := as(rules, user.do); err != nil {
				t.Fatal(err)
			}
			nothingRefused(t, s)
			for i, d := range user.deny {
				if err := as(rules, []duty{d}); !denied(err) {
					t.Errorf("what is not its duty (%d) is not refused: %v", i, err)
				}
			}
			for i, rule := range rules {
				if i < 3 || slices.Contains(forClusters(), rule[1:]) {
					continue
				}
				if err := as(slices.Delete(slices.Clone(rules), i, i+1), user.do); !denied(err) {
					t.Errorf("%s is not needed: %v", rule, err)
				}
			}
		})
	}
}

// nothingRefused shows that the client did not ask for more than the user may, in passing and
// without an error.
func nothingRefused(t *testing.T, s *server) {
	t.Helper()
	if log := do(t, s, "acl", "log").([]any); len(log) > 0 {
		t.Errorf("refused: %v", log)
	}
}

// denied reports whether an ACL refused a command, a key or a channel, also inside a script.
func denied(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "The user executing the script can't"))
}

// The lists hold every command that the packages' code names, so that a new one cannot be
// forgotten: add it to acl.go, and what needs it to users.
func TestACLKnowsEveryCommand(t *testing.T) {
	t.Parallel()
	listed := map[string]bool{}
	for _, u := range users() {
		for _, c := range u.acl.Commands {
			listed[c] = true
		}
	}
	for _, c := range slices.Concat(ledger.ServerACL().Commands, ledger.CLIACL().Commands) { // with tests of their own
		listed[c] = true
	}
	var sources []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "keystest" || path == "../connect"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"), strings.HasSuffix(path, ".lua"):
			sources = append(sources, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	inScript := regexp.MustCompile(`redis\.p?call\('(\w+)'`)
	inGo := regexp.MustCompile(`\b(?:client|conn|pipe|p|c)\.([A-Z]\w+)\(ctx`)
	seen := 0
	for _, path := range sources {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range append(inScript.FindAllStringSubmatch(string(text), -1), inGo.FindAllStringSubmatch(string(text), -1)...) {
			command := strings.ToLower(m[1])
			if other, ok := spelled()[m[1]]; ok {
				command = other
			}
			if command == "" {
				continue
			}
			seen++
			if !listed[command] {
				t.Errorf("%s uses %s, which no list has: %s", path, m[1], command)
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d commands found", seen)
	}
}

// spelled gives the commands of go-redis' methods that have another name; "" for methods that are
// no command.
func spelled() map[string]string {
	return map[string]string{
		"SetArgs": "set", "SetNX": "set", "HSetNX": "hsetnx", "ZRangeArgs": "zrange", "ZRangeByLex": "zrangebylex",
		"XRangeN": "xrange", "XRevRangeN": "xrevrange", "Exec": "", "Close": "", "Pipelined": "", "Watch": "", "Process": "", "LookupFor": "", "MasterForKey": "", "ForEachMaster": "",
	}
}
