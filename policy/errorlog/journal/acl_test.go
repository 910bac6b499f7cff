package journal_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/errorlog/journal"
)

// as returns a client with these rights, and what a connection does.
func as(t *testing.T, s *redistest.Server, name string, acl connect.ACL) redis.UniversalClient {
	t.Helper()
	s.AddUser(t, name, connect.Join(connect.ConnectionACL(), acl).Rules())
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.Socket, Username: name, Password: name, DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func without(acl connect.ACL, command string) connect.ACL {
	acl.Commands = slices.DeleteFunc(slices.Clone(acl.Commands), func(c string) bool { return c == command })
	return acl
}

// write does all that a server does: it appends, also once more what has been, and gives back.
func write(t *testing.T, admin, c redis.UniversalClient) error {
	t.Helper()
	w := newWorld(t, admin, func(o *journal.Options) { o.Bounds = journal.Bounds{Entries: 2, Bytes: 8000, PerSecond: 100} })
	w.must(admin.FlushAll(t.Context()).Err())
	w.must(admin.ScriptFlush(t.Context()).Err())
	net := &lossy{}
	c.AddHook(net)
	w.writer = w.newWriter(c)
	for i := range 40 {
		w.refuse(fmt.Sprintf("key_%04d", i/4))
		w.wait(time.Second)
		net.lose = i == 20
		if err := w.writer.Tick(t.Context()); err != nil && !net.lose {
			return err
		}
	}
	if s := w.writer.Stats(); s.GivenBack == 0 || s.Failed == 0 {
		t.Errorf("%+v", s)
	}
	return nil
}

// lossy loses an answer.
type lossy struct {
	unreliable
	lose bool
}

func (l *lossy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && l.lose && strings.HasPrefix(cmd.Name(), "eval") {
			cmd.SetErr(errLost)
			return errLost
		}
		return err
	}
}

// A server needs each of its rights, and no other.
func TestServerACL(t *testing.T) {
	s := redistest.Start(t, redistest.SocketOnly)
	if err := write(t, s.Admin, as(t, s, "server", journal.ServerACL())); err != nil {
		t.Fatal(err)
	}
	for _, command := range journal.ServerACL().Commands {
		err := write(t, s.Admin, as(t, s, "without-"+command, without(journal.ServerACL(), command)))
		if err == nil || !strings.Contains(err.Error(), "NOPERM") && !strings.Contains(err.Error(), "can't run this command") {
			t.Errorf("without %s: %v", command, err)
		}
	}
}

// Commands read the error log and cannot change it.
func TestCLIACL(t *testing.T) {
	s := redistest.Start(t, redistest.SocketOnly)
	w := newWorld(t, s.Admin)
	w.refuse("key_0001")
	w.tick()
	ask := func(c redis.UniversalClient) error {
		_, err := journal.NewReader(c).Ask(t.Context(), journal.Question{API: "jobs"})
		return err
	}
	c := as(t, s, "cli", journal.CLIACL())
	if err := ask(c); err != nil {
		t.Error(err)
	}
	for _, command := range journal.CLIACL().Commands {
		if err := ask(as(t, s, "without-"+command, without(journal.CLIACL(), command))); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("without %s: %v", command, err)
		}
	}
	may := as(t, s, "writer", connect.Join(journal.CLIACL(), connect.ACL{Commands: []string{"del"}}))
	if err := may.Del(t.Context(), "tg:v1:errors:{jobs}:of:key_0001").Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("it may delete: %v", err)
	}
}
