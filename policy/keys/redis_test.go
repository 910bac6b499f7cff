package keys

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// onEveryStore runs a test on the embedded store, on a real server and on a real cluster, where a step that touches
// two slots fails.
func onEveryStore(t *testing.T, test func(t *testing.T, c redis.UniversalClient)) {
	t.Parallel() // a new cluster takes two seconds to take writes
	t.Run("embedded", func(t *testing.T) { test(t, newEmbedded(t)) })
	t.Run("server", func(t *testing.T) { test(t, newServer(t)) })
	t.Run("cluster", func(t *testing.T) { test(t, newCluster(t)) })
}

func newEmbedded(t *testing.T) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { c.Close() })
	return c
}

func newServer(t *testing.T) redis.UniversalClient {
	dir := startRedis(t, "--port", "0", "--unixsocket", "redis.sock")
	c := redis.NewClient(&redis.Options{
		Network: "unix", Addr: filepath.Join(dir, "redis.sock"), MaxRetries: -1, ContextTimeoutEnabled: true,
	})
	t.Cleanup(func() { c.Close() })
	await(t, "the server answers", func(ctx context.Context) bool { return c.Ping(ctx).Err() == nil })
	return c
}

func newCluster(t *testing.T) redis.UniversalClient {
	port, bus := freePort(t), freePort(t)
	startRedis(t, "--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", bus)
	address := "127.0.0.1:" + port
	node := redis.NewClient(&redis.Options{Addr: address})
	defer node.Close()
	await(t, "the node answers", func(ctx context.Context) bool { return node.Ping(ctx).Err() == nil })
	if err := node.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "the cluster is up", func(ctx context.Context) bool {
		return strings.Contains(node.ClusterInfo(ctx).Val(), "cluster_state:ok")
	})
	c := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{address}, MaxRetries: -1, ContextTimeoutEnabled: true,
	})
	t.Cleanup(func() { c.Close() })
	return c
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

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
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
