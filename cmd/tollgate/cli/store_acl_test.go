package cli

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

	"tollgate/policy/alerts/networks"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/policy/manage/once"
	"tollgate/policy/usage/ledger"
)

// duty is something that a kind of user must be able to do. The number keeps runs apart.
type duty func(ctx context.Context, c redis.UniversalClient, n int) error

// redisUser is what a user of Redis may do, must do and must not do.
type redisUser struct {
	acl      connect.ACL
	do, deny []duty
}

func users() map[string]redisUser {
	return map[string]redisUser{
		"server": {acl: serverACL(), do: []duty{lookAtStore, findKeys, count, takeSlots, followChanges, confirmChanges, changeFromServer, lookThroughKeys}, deny: []duty{manageTeams, readAudit, foreignKey, foreignChannel}},
		"cli":    {acl: cliACL(), do: []duty{acceptEmpty, findKeys, manageKeys, blockClient, awaitServers, repair, manageTeams, readAudit, peek, lookAfterLimits}, deny: []duty{count, takeSlots, foreignKey, foreignChannel}},
		"manage": {acl: manageACL(), do: []duty{findKeys, manageKeys, awaitServers, manageTeams, serveMembers}, deny: []duty{acceptEmpty, blockClient, repair, count, takeSlots, peek, lookAfterLimits, readAudit, foreignKey, foreignChannel}},
	}
}

// followChanges is what a server's cache does all the time: it hears of changes, and sends its
// heartbeat.
func followChanges(ctx context.Context, c redis.UniversalClient, _ int) error {
	records := store.New(c)
	stream, err := records.Subscribe(ctx, 5*time.Second)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := records.PublishHeartbeat(ctx); err != nil {
		return err
	}
	message, _, err := stream.Next(ctx)
	if err == nil && message != store.Heartbeat {
		err = fmt.Errorf("heard %q", message)
	}
	return err
}

// aclKey returns a key; equal numbers give equal keys.
func aclKey(n int) *keys.Key {
	id := fmt.Sprintf("key_test%06d", n)
	return &keys.Key{
		ID: id, API: "api", Team: "team", Name: "name", LimitID: id, Status: keys.Active, AnchorDay: 1, Version: 1,
		Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.NewHasher([]byte("pepper")).Digest(id),
	}
}

// findKeys adds a key and finds it, and finds none for a secret that is nobody's. A secret that is
// taken is not taken again, and nothing is left of who wanted it.
func findKeys(ctx context.Context, c redis.UniversalClient, n int) error {
	if err := c.Ping(ctx).Err(); err != nil {
		return err
	}
	records, k := store.New(c), aclKey(n)
	if err := records.Create(ctx, k); err != nil {
		return err
	}
	thief := aclKey(n)
	thief.ID += "_thief"
	if err := records.Create(ctx, thief); !errors.Is(err, store.ErrSecretTaken) || strings.Contains(err.Error(), "\n") {
		return fmt.Errorf("create with a taken secret: %w", err)
	}
	if _, err := records.Lookup(ctx, k.Digest); err != nil {
		return err
	}
	if _, err := records.Lookup(ctx, keys.NewHasher(nil).Digest("nobody's")); !errors.Is(err, keys.ErrUnknown) {
		return fmt.Errorf("look-up of an unknown secret: %w", err)
	}
	return nil
}

// lookThroughKeys is what one server does for alerts.
func lookThroughKeys(ctx context.Context, c redis.UniversalClient, _ int) error {
	_, _, err := store.New(c).List(ctx, store.Filter{API: "api"}, "", 10)
	return err
}

// count spends what a limit allows.
func count(ctx context.Context, c redis.UniversalClient, n int) error {
	window := limits.Window{Name: "month", Limit: 1, Per: limits.Month}
	leases := counters.NewLeases(counters.NewStore(c, nil), counters.Options{Timeout: 20 * time.Second})
	r, err := leases.Spend(ctx, &limits.Spend{ID: aclKey(n).ID, Windows: []limits.Window{window}, Cost: 1})
	if err == nil && !r.Allowed {
		err = errors.New("the first is refused")
	}
	return err
}

// takeSlots is about requests under way: one takes the only slot, another gets none, and the first,
// checked once more, takes the place of its first try.
func takeSlots(ctx context.Context, c redis.UniversalClient, n int) error {
	s := counters.NewStore(c, nil)
	for _, try := range []struct {
		slot, earlier string
		want          bool
	}{{"r:1", "", true}, {"2", "", false}, {"r:3", "", true}, {"r:4", "r:3", true}} {
		r, err := s.Spend(ctx, &limits.Spend{ID: aclKey(n).ID, Slot: limits.Slot{ID: try.slot, Earlier: try.earlier, Places: 1, Hold: time.Minute}})
		if err != nil || r.Allowed != try.want {
			return fmt.Errorf("slot %s: allowed is %v: %w", try.slot, r.Allowed, err)
		}
	}
	return nil
}

// peek reads counters.
func peek(ctx context.Context, c redis.UniversalClient, n int) error {
	_, _, err := counters.NewStore(c, nil).Peek(ctx, &limits.Spend{
		ID: aclKey(n).ID, Windows: []limits.Window{{Name: "month", Limit: 1, Per: limits.Month}}, Cost: 1,
		Slot: limits.Slot{ID: "s", Places: 1, Hold: time.Minute},
	})
	return err
}

// lookAfterLimits is what the commands about limits do with counters that a server has begun.
func lookAfterLimits(ctx context.Context, c redis.UniversalClient, n int) error {
	s, id, month := counters.NewStore(c, nil), aclKey(n).ID, []limits.Window{{Name: "month", Limit: 9, Per: limits.Month}}
	start, _ := month[0].Bounds(time.Now())
	if err := c.HSet(ctx, "tg:v1:count:{"+id+"}", "month:month", fmt.Sprintf("%d:5", start.Unix()), "previous:month:month", "0:3").Err(); err != nil {
		return err
	}
	before, _, err := s.Reset(ctx, id, month)
	if err != nil {
		return err
	}
	after, _, err := s.Peek(ctx, &limits.Spend{ID: id, Windows: month, ReadOnly: true})
	if err != nil || before[0].Spent != 5 || after.States[0].Spent != 0 {
		return fmt.Errorf("%d spent, then %+v: %w", before[0].Spent, after, err)
	}
	return store.New(c).PublishReset(ctx, aclKey(n))
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
	err := store.New(c).AwaitServers(ctx, aclKey(n).ID, time.Millisecond)
	if errors.As(err, &unheard) && unheard.Err == nil {
		return nil
	}
	return err
}

// changeFromServer is what a server writes besides its counters.
func changeFromServer(ctx context.Context, c redis.UniversalClient, n int) error {
	records, k := store.New(c), aclKey(n)
	serve := admin.NewManager(records, keys.NewHasher([]byte("pepper")), nil, audit.New(c, 1000), roles.Actor{Name: "serve", Operator: true}, time.Now)
	if added, err := serve.Seed(ctx, []keyfile.Entry{{Key: *aclKey(300_000 + n)}}, admin.SeedSource{}); err != nil || added != 1 {
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
	k := aclKey(100_000 + n)
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

// blockClient makes the record of a client and finds it in its list.
func blockClient(ctx context.Context, c redis.UniversalClient, n int) error {
	records, k := store.New(c), keys.NewClient("api", keys.Client{Issuer: "https://as.example.com", ID: fmt.Sprint(n)})
	k.Digest = keys.NewHasher([]byte("pepper")).Digest(k.Client.Lookup(k.API))
	if err := records.Create(ctx, k); err != nil {
		return err
	}
	next := k.Clone()
	next.Status = keys.Inactive
	if _, err := records.Write(ctx, k, next); err != nil {
		return err
	}
	page, _, err := records.List(ctx, store.Filter{API: k.API, Clients: true}, "", 0)
	if err == nil && !slices.ContainsFunc(page, func(found *keys.Key) bool { return found.ID == k.ID }) {
		err = errors.New("a client is not listed")
	}
	return err
}

// serveMembers is what tollgate manage does beyond the commands' changes of records.
func serveMembers(ctx context.Context, c redis.UniversalClient, n int) error {
	if err := standing.CheckPepper(ctx, c, keys.NewHasher([]byte("pepper"))); err != nil && !errors.Is(err, standing.ErrUnclaimed) {
		return err
	}
	names := once.New(c)
	for range 2 { // the second makes room
		if _, _, err := names.Reserve(ctx, "mem_a", fmt.Sprint(n), [32]byte{}, "key_a", time.Unix(int64(n), 0)); err != nil {
			return err
		}
	}
	entry := audit.NewEntry(roles.Actor{Name: "member"}, roles.ActionUpdate, "api", "team", aclKey(n).ID)
	return audit.New(c, 1000).Do(ctx, entry, func(context.Context) error { return nil })
}

// repair looks through everything, and mends a key that has left its lists.
func repair(ctx context.Context, c redis.UniversalClient, n int) error {
	k := aclKey(200_000 + n)
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

// Each user of Redis can do its duties and nothing else, and needs every rule for that.
func TestACL(t *testing.T) {
	t.Parallel()
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, redistest.SocketOnly)
			n := 0
			// as runs the duties as a new user with these rules, on a new connection and scripts
			// that are not cached.
			as := func(rules []string, all []duty) error {
				n++
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				s.Do(t, "script", "flush")
				s.Do(t, "acl", "setuser", name, "reset")
				s.AddUser(t, name, rules)
				c, _, err := connect.Open(connect.Options{URL: "unix://" + name + ":" + name + "@" + s.Socket, Deadline: 10 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				return perform(ctx, c, n, all)
			}
			rules := user.acl.Rules()
			if err := as(rules, user.do); err != nil {
				t.Fatal(err)
			}
			if log := s.Do(t, "acl", "log").([]any); len(log) > 0 { // not even in passing
				t.Errorf("refused: %v", log)
			}
			for i, d := range user.deny {
				if err := as(rules, []duty{d}); !denied(err) {
					t.Errorf("what is not its duty (%d) is not refused: %v", i, err)
				}
			}
			for i, rule := range rules {
				if i < 3 || slices.Contains(connect.ClusterACL().Commands, rule[1:]) { // TestCluster has these
					continue
				}
				if err := as(slices.Delete(slices.Clone(rules), i, i+1), user.do); !denied(err) {
					t.Errorf("%s is not needed: %v", rule, err)
				}
			}
		})
	}
}

// denied reports whether an ACL refused a command, a key or a channel, also inside a script.
func denied(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "The user executing the script can't"))
}

// The lists hold every command that the packages' code names, so that a new one cannot be
// forgotten: add it to its ACL there, and what needs it to users.
func TestACLKnowsEveryCommand(t *testing.T) {
	t.Parallel()
	listed := map[string]bool{}
	for _, u := range users() {
		for _, c := range u.acl.Commands {
			listed[c] = true
		}
	}
	for _, c := range slices.Concat(ledger.ServerACL().Commands, ledger.CLIACL().Commands, journal.ServerACL().Commands, journal.CLIACL().Commands, outbox.ServerACL().Commands, outbox.CLIACL().Commands, networks.ServerACL().Commands) { // with tests of their own
		listed[c] = true
	}
	var sources []string
	err := filepath.WalkDir("../../../policy", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "keystest" || path == "../../../policy/connect"):
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
		"SetArgs": "set", "SetNX": "set", "HSetNX": "hsetnx", "ZRangeArgs": "zrange", "ZRangeArgsWithScores": "zrange", "ZRangeWithScores": "zrange", "ZRangeByLex": "zrangebylex",
		"XRangeN": "xrange", "XRevRangeN": "xrevrange", "Exec": "", "Close": "", "Pipelined": "", "Watch": "", "Process": "", "LookupFor": "", "MasterForKey": "", "ForEachMaster": "",
	}
}
