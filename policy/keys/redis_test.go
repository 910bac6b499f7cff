package keys

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"tollgate/policy/keys/connect"
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
	dir := startRedis(t, "--port", "0", "--unixsocket", "redis.sock")
	o := &redis.Options{Network: "unix", Addr: filepath.Join(dir, "redis.sock"), MaxRetries: -1, ContextTimeoutEnabled: true}
	c := redis.NewClient(o)
	defer c.Close()
	await(t, "the server answers", func(ctx context.Context) bool { return c.Ping(ctx).Err() == nil })
	return o
}

func newServerAs(t *testing.T, acl connect.ACL) redis.UniversalClient {
	o := serverOptions(t)
	admin := redis.NewClient(o)
	t.Cleanup(func() { admin.Close() })
	addUser(t, admin, acl)
	user := *o
	user.Username, user.Password, user.DisableIdentity = userName, userName, true
	user.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c := redis.NewClient(&user)
	c.AddHook(asAdmin{admin})
	t.Cleanup(func() { c.Close() })
	return c
}

func newClusterAs(t *testing.T, acl connect.ACL) redis.UniversalClient {
	port, bus := freePort(t), freePort(t)
	startRedis(t, "--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", bus)
	address := "127.0.0.1:" + port
	node := redis.NewClient(&redis.Options{Addr: address})
	t.Cleanup(func() { node.Close() })
	await(t, "the node answers", func(ctx context.Context) bool { return node.Ping(ctx).Err() == nil })
	if err := node.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "the cluster is up", func(ctx context.Context) bool {
		return strings.Contains(node.ClusterInfo(ctx).Val(), "cluster_state:ok")
	})
	addUser(t, node, acl)
	c := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{address}, MaxRetries: -1, ContextTimeoutEnabled: true, Username: userName, Password: userName, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}, DisableRoutingPolicies: true,
	})
	c.AddHook(asAdmin{node})
	t.Cleanup(func() { c.Close() })
	return c
}

const userName = "tollgate"

// addUser adds a user with these rights, and checks at the end that nothing was refused, not even in passing.
func addUser(t *testing.T, admin *redis.Client, acl connect.ACL) {
	t.Helper()
	args := []any{"acl", "setuser", userName, "on", ">" + userName}
	for _, rule := range acl.Rules() {
		args = append(args, rule)
	}
	if err := admin.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log, err := admin.Do(context.Background(), "acl", "log").Slice(); err != nil || len(log) > 0 {
			t.Errorf("refused to the user, or %v: %v", err, log)
		}
	})
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

// startRedis starts a server of this test's own and returns its folder.
func startRedis(t *testing.T, args ...string) (dir string) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "redis") {
			t.Fatal("redis-server is required and not on PATH")
		}
		t.Skip("SKIPPED: redis-server is not on PATH; install it (Debian: apt-get install redis-server) to test on a real Redis")
	}
	// Not t.TempDir: the path of a unix socket has room for about 100 bytes.
	if dir, err = os.MkdirTemp("", "tollgate-keys"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"--dir", dir, "--save", "", "--appendonly", "no"}, args...)...)
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	return dir
}

// freePort returns a port that no connection going out gets by chance before the server listens on it: those of Linux begin
// at 32768.
func freePort(t *testing.T) string {
	for {
		port := fmt.Sprint(10_000 + rand.IntN(20_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			l.Close()
			return port
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func await(t *testing.T, what string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("not within 10 s: %s", what)
		case <-tick.C:
		}
	}
}
