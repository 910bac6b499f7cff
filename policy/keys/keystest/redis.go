package keystest

import (
	"context"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
)

// OnEveryStore runs a test on the embedded store, on a real server and on a real cluster, where a
// step that touches two slots fails. On the real ones it acts as a user with these rights and those
// of any connection, and no more.
func OnEveryStore(t *testing.T, acl connect.ACL, test func(t *testing.T, c redis.UniversalClient)) {
	t.Parallel() // a new cluster takes two seconds to take writes
	t.Run("embedded", func(t *testing.T) { test(t, NewEmbedded(t)) })
	t.Run("server", func(t *testing.T) { test(t, NewServerAs(t, acl)) })
	t.Run("cluster", func(t *testing.T) { test(t, NewClusterAs(t, acl)) })
}

// Parts are several tests that run on every store, by name.
type Parts map[string]func(t *testing.T, c redis.UniversalClient)

// OnEveryStore runs each part on an empty store of each kind, under the name of the kind and that
// of the part, as OnEveryStore does with one test. Each has an embedded store and a server of its
// own. They share one cluster, which takes two seconds to take writes and is emptied between them,
// with a client for each.
func (p Parts) OnEveryStore(t *testing.T, acl connect.ACL) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) { p.each(t, NewEmbedded) })
	t.Run("server", func(t *testing.T) {
		p.each(t, func(t *testing.T) redis.UniversalClient { return NewServerAs(t, acl) })
	})
	t.Run("cluster", func(t *testing.T) {
		node := redistest.StartCluster(t, 1)[0]
		addUser(t, node, acl)
		p.each(t, func(t *testing.T) redis.UniversalClient {
			c := clusterClient(t, node)
			Empty(t, c)
			return c
		})
	})
}

// each runs the parts, each with a store that start makes.
func (p Parts) each(t *testing.T, start func(t *testing.T) redis.UniversalClient) {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		t.Run(name, func(t *testing.T) { p[name](t, start(t)) })
	}
}

// NewEmbedded returns a client of an embedded store of its own.
func NewEmbedded(t *testing.T) redis.UniversalClient {
	return closed(t, redis.NewClient(&redis.Options{
		Addr: miniredis.RunT(t).Addr(), MaxRetries: -1, ContextTimeoutEnabled: true,
		// In its other modes go-redis writes into what new connections share.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}))
}

// NewServer is NewServerAs for a test that needs more than any user of ours.
func NewServer(t *testing.T) redis.UniversalClient {
	return closed(t, redis.NewClient(optionsOf(redistest.Start(t, redistest.SocketOnly))))
}

// NewServerAs returns a client of a server of its own, as a user with these rights. What only tests
// ask for is carried out by an administrator.
func NewServerAs(t *testing.T, acl connect.ACL) redis.UniversalClient {
	s := redistest.Start(t, redistest.SocketOnly)
	addUser(t, s, acl)
	o := optionsOf(s)
	o.Username, o.Password, o.DisableIdentity = userName, userName, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c := redis.NewClient(o)
	c.AddHook(asAdmin{s.Admin})
	return closed(t, c)
}

// NewServerWith returns a client of a server of its own, as a user with these rules of an ACL and
// nothing else.
func NewServerWith(t *testing.T, rules ...string) redis.UniversalClient {
	s := redistest.Start(t, redistest.SocketOnly)
	s.AddUser(t, userName, rules)
	o := optionsOf(s)
	o.Username, o.Password = userName, userName
	return closed(t, redis.NewClient(o))
}

// NewClusterAs is NewServerAs with a cluster of one node.
func NewClusterAs(t *testing.T, acl connect.ACL) redis.UniversalClient {
	node := redistest.StartCluster(t, 1)[0]
	addUser(t, node, acl)
	return clusterClient(t, node)
}

func clusterClient(t *testing.T, node *redistest.Server) redis.UniversalClient {
	c := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{node.Address()}, MaxRetries: -1, ContextTimeoutEnabled: true, Username: userName, Password: userName, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}, DisableRoutingPolicies: true,
	})
	c.AddHook(asAdmin{node.Admin})
	return closed(t, c)
}

func optionsOf(s *redistest.Server) *redis.Options {
	return &redis.Options{Network: "unix", Addr: s.Socket, MaxRetries: -1, ContextTimeoutEnabled: true}
}

// closed closes a client when the test ends.
func closed(t *testing.T, c redis.UniversalClient) redis.UniversalClient {
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const userName = "tollgate"

// addUser adds a user with these rights and those of any connection, and checks at the end that
// nothing was refused, not even in passing.
func addUser(t *testing.T, s *redistest.Server, acl connect.ACL) {
	t.Helper()
	s.AddUser(t, userName, connect.Join(connect.ConnectionACL(), connect.ClusterACL(), acl).Rules())
	s.RefusesNothing(t)
}

// Administrator returns a client that may do everything on the store of c, which is of one server.
func Administrator(t *testing.T, c redis.UniversalClient) *redis.Client {
	t.Helper()
	var o redis.Options
	switch c := c.(type) {
	case *redis.Client:
		o = redis.Options{Network: c.Options().Network, Addr: c.Options().Addr}
	case *redis.ClusterClient:
		o = redis.Options{Addr: c.Options().Addrs[0]}
	}
	admin := redis.NewClient(&o)
	t.Cleanup(func() { _ = admin.Close() })
	return admin
}

// asAdmin lets an administrator carry out what only tests ask for, before, between and after.
type asAdmin struct{ admin *redis.Client }

func (a asAdmin) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a asAdmin) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch strings.ToLower(cmd.Name()) {
		case "flushall", "keys", "type", "ttl", "dbsize", "config", "script", "client", "zcard", "rpush", "xlen":
			return a.admin.Process(ctx, cmd)
		}
		return next(ctx, cmd)
	}
}

func (a asAdmin) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Empty empties a store: because that is what is tested, or because its next user cannot have one
// of its own.
func Empty(t *testing.T, c redis.UniversalClient) {
	t.Helper()
	if err := c.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

// WithReplica returns a client of a server that has a replica, and the replica.
func WithReplica(t *testing.T) (primary *redis.Client, replica *redistest.Server) {
	t.Helper()
	server := redistest.Start(t, func(s *redistest.Server) []string {
		return append(redistest.Plain(s), "--repl-diskless-sync-delay", "0")
	})
	// Each command takes another connection, unless it keeps its own.
	primary = redis.NewClient(&redis.Options{Addr: server.Address(), MaxRetries: -1, ContextTimeoutEnabled: true, MinIdleConns: 4, PoolFIFO: true})
	t.Cleanup(func() { _ = primary.Close() })
	replica = redistest.Start(t, func(*redistest.Server) []string {
		return []string{"--port", "0", "--replicaof", "127.0.0.1 " + server.Port}
	})
	Await(t, "the replica is there", func(ctx context.Context) bool {
		return strings.Contains(primary.Info(ctx, "replication").Val(), "state=online")
	})
	return primary, replica
}

// NewSilent returns a client of a server that takes connections and never answers.
func NewSilent(t *testing.T) redis.UniversalClient {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return closed(t, redis.NewClient(&redis.Options{Addr: l.Addr().String(), MaxRetries: -1, ContextTimeoutEnabled: true,
		ReadTimeout: time.Minute, DialTimeout: time.Minute}))
}

// Await waits until ok holds, and asks often.
func Await(t *testing.T, what string, ok func(context.Context) bool) {
	t.Helper()
	redistest.Await(t, what, ok)
}
