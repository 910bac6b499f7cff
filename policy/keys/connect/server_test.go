package connect

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a redis-server of one test's own.
type server struct {
	dir       string
	port, bus string // bus of a cluster's node
	admin     *redis.Client
	process   *os.Process
}

func (s *server) address() string { return "127.0.0.1:" + s.port }

// start starts a server with the arguments that args makes of its ports, and waits until it answers. Its admin client
// uses a unix socket, where neither TLS nor ports are in the way.
func start(t *testing.T, args func(*server) []string) *server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "redis") {
			t.Fatal("redis-server is required and not on PATH")
		}
		t.Skip("SKIPPED: redis-server is not on PATH; install it (Debian: apt-get install redis-server) to test on a real Redis")
	}
	// Not t.TempDir: the path of a unix socket has room for about 100 bytes.
	dir, err := os.MkdirTemp("", "tollgate-connect")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for range 5 { // somebody else may take a free port first
		s := &server{dir: dir, port: freePort(t), bus: freePort(t)}
		if s.try(t, path, args(s)) {
			return s
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Fatalf("redis-server does not start:\n%s", log)
	return nil
}

func (s *server) try(t *testing.T, path string, args []string) bool {
	socket := filepath.Join(s.dir, "s")
	if args[0] != "sentinel.conf" {
		args = append(args, "--save", "", "--appendonly", "no")
	}
	cmd := exec.Command(path, append(args, "--dir", s.dir, "--logfile", "log", "--bind", "127.0.0.1", "--unixsocket", socket)...)
	cmd.Dir = s.dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.process = cmd.Process
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	s.admin = redis.NewClient(&redis.Options{Network: "unix", Addr: socket, ReadTimeout: 20 * time.Second})
	t.Cleanup(func() { s.admin.Close() })
	up := false
	await(t, "the server answers or ends", func(ctx context.Context) bool {
		up = s.admin.Ping(ctx).Err() == nil
		select {
		case <-ended:
			return true
		default:
			return up
		}
	})
	return up
}

// plain are the arguments of a server without anything special.
func plain(s *server) []string { return []string{"--port", s.port} }

// freePort returns a port that no connection going out gets by chance before the server listens on it: those of Linux begin
// at 32768.
func freePort(t testing.TB) string {
	for {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
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

// await waits until ok holds, and asks often.
func await(t testing.TB, what string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("not within 20 s: %s", what)
		case <-tick.C:
		}
	}
}

// open opens a URL with a deadline that no slow machine exceeds.
func open(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	c, _, err := Open(Options{URL: url, Deadline: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// writeUsers writes dir/users.acl with these users; the default one may do everything.
func writeUsers(t *testing.T, dir string, users ...string) {
	t.Helper()
	text := "user default on nopass ~* &* +@all\n" + strings.Join(users, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "users.acl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
