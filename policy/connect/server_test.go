package connect_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits/counters"
)

// server is a redis-server of one test's own, by short names.
type server struct {
	*redistest.Server
	dir       string
	port, bus string // bus of a cluster's node
	admin     *redis.Client
	process   *os.Process
}

func (s *server) address() string { return s.Address() }

func named(s *redistest.Server) *server {
	return &server{Server: s, dir: s.Dir, port: s.Port, bus: s.Bus, admin: s.Admin, process: s.Process}
}

// start starts a server with the arguments that args makes of its ports, and waits until it
// answers.
func start(t *testing.T, args func(*server) []string) *server {
	t.Helper()
	return named(redistest.Start(t, func(s *redistest.Server) []string { return args(named(s)) }))
}

// plain are the arguments of a server without anything special.
func plain(s *server) []string { return redistest.Plain(s.Server) }

func startSentinel(t *testing.T, master *server, args []string, config string) *server {
	t.Helper()
	return named(redistest.StartSentinel(t, master.Server, args, config))
}

func startCluster(t *testing.T, masters int, args ...string) (nodes []*server) {
	t.Helper()
	for _, n := range redistest.StartCluster(t, masters, args...) {
		nodes = append(nodes, named(n))
	}
	return nodes
}

func do(t testing.TB, s *server, args ...any) any {
	t.Helper()
	return s.Do(t, args...)
}

func await(t testing.TB, what string, ok func(context.Context) bool) {
	t.Helper()
	redistest.Await(t, what, ok)
}

// open opens a URL with a deadline that no slow machine exceeds.
func open(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	c, _, err := connect.Open(connect.Options{URL: url, Deadline: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func writeUsers(t *testing.T, dir string, users ...string) {
	t.Helper()
	redistest.WriteUsers(t, dir, users...)
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

// serverRules are what a server may do with records and counters.
func serverRules() []string {
	return connect.Join(connect.ConnectionACL(), connect.ClusterACL(), store.RecordsACL(), store.ListsACL(), store.FollowACL(), counters.ACL()).Rules()
}
