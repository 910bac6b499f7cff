package keys

import (
	"context"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
)

// onEveryStore runs a test on the embedded store, on a real server and on a real cluster, where a step that touches
// two slots fails. On the real ones it acts as the user of the commands, who may do what connect.CLIACL says and no more.
func onEveryStore(t *testing.T, test func(t *testing.T, c redis.UniversalClient)) {
	onEveryStoreAs(t, connect.CLIACL(), test)
}

// onEveryStoreAs is onEveryStore as a user with these rights.
func onEveryStoreAs(t *testing.T, acl connect.ACL, test func(t *testing.T, c redis.UniversalClient)) {
	t.Parallel() // a new cluster takes two seconds to take writes
	t.Run("embedded", func(t *testing.T) { test(t, newEmbedded(t)) })
	t.Run("server", func(t *testing.T) { test(t, newServerAs(t, acl)) })
	t.Run("cluster", func(t *testing.T) { test(t, newClusterAs(t, acl)) })
}

func newEmbedded(t *testing.T) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { c.Close() })
	return c
}

// newServer is newServerAs for a test that needs more than any user of ours.
func newServer(t *testing.T) redis.UniversalClient {
	c := redis.NewClient(serverOptions(t))
	t.Cleanup(func() { c.Close() })
	return c
}

// serverOptions starts a server.
func serverOptions(t *testing.T) *redis.Options {
	return optionsOf(redistest.Start(t, redistest.SocketOnly))
}

func optionsOf(s *redistest.Server) *redis.Options {
	return &redis.Options{Network: "unix", Addr: s.Socket, MaxRetries: -1, ContextTimeoutEnabled: true}
}

func newServerAs(t *testing.T, acl connect.ACL) redis.UniversalClient {
	s := redistest.Start(t, redistest.SocketOnly)
	addUser(t, s, acl)
	o := optionsOf(s)
	o.Username, o.Password, o.DisableIdentity = userName, userName, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c := redis.NewClient(o)
	c.AddHook(asAdmin{s.Admin})
	t.Cleanup(func() { c.Close() })
	return c
}

func newClusterAs(t *testing.T, acl connect.ACL) redis.UniversalClient {
	node := redistest.StartCluster(t, 1)[0]
	addUser(t, node, acl)
	c := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{node.Address()}, MaxRetries: -1, ContextTimeoutEnabled: true, Username: userName, Password: userName, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}, DisableRoutingPolicies: true,
	})
	c.AddHook(asAdmin{node.Admin})
	t.Cleanup(func() { c.Close() })
	return c
}

const userName = "tollgate"

// addUser adds a user with these rights, and checks at the end that nothing was refused, not even in passing.
func addUser(t *testing.T, s *redistest.Server, acl connect.ACL) {
	t.Helper()
	s.AddUser(t, userName, acl.Rules())
	s.RefusesNothing(t)
}

// administrator may do everything on the store of c, which is of one server.
func administrator(t *testing.T, c redis.UniversalClient) *redis.Client {
	t.Helper()
	var o redis.Options
	switch c := c.(type) {
	case *redis.Client:
		o = redis.Options{Network: c.Options().Network, Addr: c.Options().Addr}
	case *redis.ClusterClient:
		o = redis.Options{Addr: c.Options().Addrs[0]}
	}
	admin := redis.NewClient(&o)
	t.Cleanup(func() { admin.Close() })
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

func await(t *testing.T, what string, ok func(context.Context) bool) {
	t.Helper()
	redistest.Await(t, what, ok)
}
