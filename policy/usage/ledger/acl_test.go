package ledger_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys/store"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// as returns a client with these rights, and what a connection does.
func as(t *testing.T, s *redistest.Server, name string, acl connect.ACL) redis.UniversalClient {
	t.Helper()
	s.AddUser(t, name, acl.Rules())
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.Socket, Username: name, Password: name, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func without(acl connect.ACL, command string) connect.ACL {
	acl.Commands = slices.DeleteFunc(slices.Clone(acl.Commands), func(c string) bool { return c == command })
	return acl
}

// writeAndFold does all that a server does until a month is too old.
func writeAndFold(t *testing.T, admin, c redis.UniversalClient) error {
	t.Helper()
	w := newWorld(t, admin)
	w.must(admin.FlushAll(t.Context()).Err())
	w.must(admin.ScriptFlush(t.Context()).Err())
	w.client = c
	w.writer = w.newWriter()
	w.decide("key_aaaa", "job", policy.Allowed)
	if err := w.writer.Flush(t.Context()); err != nil {
		return err
	}
	w.client = admin // tells the time
	roller := w.newRollerOn(c, policy.DefaultUsage())
	for _, days := range []int{4, 70, 400} {
		w.now = w.now.AddDate(0, 0, days)
		if err := roller.Roll(t.Context()); err != nil {
			return err
		}
	}
	if left := w.keys("tg:v1:usage:*"); !slices.Equal(left, []string{"tg:v1:usage:apis"}) {
		t.Errorf("left are %q", left)
	}
	return nil
}

// A server needs each of its rights for usage, and no other.
func TestServerACL(t *testing.T) {
	s := redistest.Start(t, redistest.SocketOnly)
	base := connect.ACL{Commands: []string{"ping"}}
	if err := writeAndFold(t, s.Admin, as(t, s, "server", connect.Join(base, ledger.ServerACL()))); err != nil {
		t.Fatal(err)
	}
	for _, command := range ledger.ServerACL().Commands {
		c := as(t, s, "without-"+command, without(connect.Join(base, ledger.ServerACL()), command))
		if err := writeAndFold(t, s.Admin, c); err == nil || !strings.Contains(err.Error(), "NOPERM") && !strings.Contains(err.Error(), "can't run this command") {
			t.Errorf("without %s: %v", command, err)
		}
	}
}

// Commands read usage and cannot change it.
func TestCLIACL(t *testing.T) {
	s := redistest.Start(t, redistest.SocketOnly)
	w := newWorld(t, s.Admin)
	w.decide("key_aaaa", "job", policy.Allowed)
	w.must(w.writer.Flush(t.Context()))
	day := w.now
	w.now = w.now.AddDate(0, 0, 4)
	w.must(w.newRoller(policy.DefaultUsage()).Roll(t.Context()))
	w.decide("key_aaaa", "job", policy.Allowed)
	w.must(w.writer.Flush(t.Context()))
	ask := func(c redis.UniversalClient) error {
		r := ledger.NewReader(c)
		if _, err := r.APIs(t.Context()); err != nil {
			return err
		}
		_, err := r.Ask(t.Context(), ledger.Question{APIs: []string{"jobs"}, By: usage.ByKey, From: usage.HourOf(day), To: usage.DayOf(w.now)})
		return err
	}
	base := connect.Join(connect.ConnectionACL(), store.RecordsACL(), store.ListsACL(), store.ManageACL(), ledger.CLIACL())
	c := as(t, s, "cli", base)
	if err := ask(c); err != nil {
		t.Error(err)
	}
	name := "tg:v1:usage:{key_aaaa}:" + w.now.Format("20060102")
	for _, change := range []redis.Cmder{c.HSet(t.Context(), name, "a1", 1), c.Del(t.Context(), name), c.Set(t.Context(), name, 1, 0)} {
		if !redis.HasErrorPrefix(change.Err(), "NOPERM") {
			t.Errorf("%v: %v", change.Args(), change.Err())
		}
	}
	own := connect.Join(connect.ConnectionACL(), ledger.CLIACL())
	if err := ask(as(t, s, "own", own)); err != nil {
		t.Error(err)
	}
	for _, command := range ledger.CLIACL().Commands {
		if err := ask(as(t, s, "without-"+command, without(own, command))); !strings.Contains(errText(err), "NOPERM") {
			t.Errorf("without %s: %v", command, err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
