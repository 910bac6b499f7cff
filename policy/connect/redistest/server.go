// Package redistest runs real Redis servers, sentinels and clusters for tests, each one test's own.
// Only tests import it.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// limit bounds each wait.
const limit = 20 * time.Second

// T is what is needed of a test, a benchmark, or the command of a test script.
type T interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Server is a running redis-server. It ends with the test.
type Server struct {
	Dir       string // its working directory
	Socket    string // its unix socket
	Port, Bus string // free ports; Bus is for a cluster's node
	Admin     *redis.Client
	Process   *os.Process
	stop      func()
}

// Address returns host and port.
func (s *Server) Address() string { return "127.0.0.1:" + s.Port }

// Stop kills the server, and may be called again.
func (s *Server) Stop() { s.stop() }

// SocketOnly are the arguments of a server that has its unix socket and no port.
func SocketOnly(*Server) []string { return []string{"--port", "0"} }

// Plain are the arguments of a server with a port and nothing special.
func Plain(s *Server) []string { return []string{"--port", s.Port} }

// Need skips the test loudly where no redis-server is on PATH, or fails it where TOLLGATE_REQUIRE
// says that one must be.
func Need(t T) (path string) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err == nil {
		return path
	}
	const how = "redis-server is not on PATH (Debian: apt-get install redis-server)"
	if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "redis") {
		t.Fatalf("redis is required: %s", how)
	}
	t.Skipf("SKIPPED, NOT TESTED ON A REAL REDIS: %s", how)
	return ""
}

// Start starts a server with the arguments that args makes of its directory and ports, and with
// additions to its environment, and waits until it answers. Nothing is written to disk. Admin uses
// the unix socket, where neither TLS nor ports are in the way.
func Start(t T, args func(*Server) []string, environ ...string) *Server {
	t.Helper()
	path := Need(t)
	// Not the test's TempDir: the path of a unix socket has room for about 100 bytes.
	dir, err := os.MkdirTemp("", "tg")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for range 5 { // somebody else may take a free port first
		s := &Server{Dir: dir, Socket: filepath.Join(dir, "s"), Port: FreePort(t), Bus: FreePort(t)}
		if s.try(t, path, args(s), environ) {
			return s
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Fatalf("redis-server does not start:\n%s", log)
	return nil
}

func (s *Server) try(t T, path string, args, environ []string) (up bool) {
	t.Helper()
	if args[0] != sentinelConf {
		args = append(args, "--save", "", "--appendonly", "no")
	}
	cmd := exec.Command(path, append(args, "--dir", s.Dir, "--logfile", "log", "--bind", "127.0.0.1", "--unixsocket", s.Socket)...)
	cmd.Dir, cmd.Env = s.Dir, append(os.Environ(), environ...)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v", err)
	}
	s.Process = cmd.Process
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	s.stop = sync.OnceFunc(func() { _ = cmd.Process.Kill(); <-ended })
	t.Cleanup(s.stop)
	s.Admin = redis.NewClient(&redis.Options{Network: "unix", Addr: s.Socket, ReadTimeout: limit})
	t.Cleanup(func() { _ = s.Admin.Close() })
	Await(t, "the server answers or ends", func(ctx context.Context) bool {
		err := s.Admin.Ping(ctx).Err()
		up = err == nil || redis.HasErrorPrefix(err, "NOAUTH") // it has a password
		select {
		case <-ended:
			return true
		default:
			return up
		}
	})
	return up
}

// Do runs a command as the administrator.
func (s *Server) Do(t T, args ...any) any {
	t.Helper()
	v, err := s.Admin.Do(t.Context(), args...).Result()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

// AddUser adds a user who may do what the rules say, with the name as the password.
func (s *Server) AddUser(t T, name string, rules []string) {
	t.Helper()
	args := []any{"acl", "setuser", name, "on", ">" + name}
	for _, rule := range rules {
		args = append(args, rule)
	}
	s.Do(t, args...)
}

// RefusesNothing checks, when the test ends, that nothing was refused to a user, not even in
// passing.
func (s *Server) RefusesNothing(t T) {
	t.Cleanup(func() {
		if log, err := s.Admin.Do(context.Background(), "acl", "log").Slice(); err != nil || len(log) > 0 {
			t.Errorf("refused to a user, or %v: %v", err, log)
		}
	})
}

// WriteUsers writes DIR/users.acl with these users; the default one may do everything.
func WriteUsers(t T, dir string, users ...string) {
	t.Helper()
	text := "user default on nopass ~* &* +@all\n" + strings.Join(users, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "users.acl"), []byte(text), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
}

// FreePort returns a port that no outgoing connection gets by chance before a server listens on it:
// those of Linux begin at 32768.
func FreePort(t T) string {
	t.Helper()
	for {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = l.Close()
			return port
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("%v", err)
		}
	}
}

// Await waits until ok holds, and asks often.
func Await(t T, what string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

// sentinelConf is the file that a sentinel must have, because it writes it itself.
const sentinelConf = "sentinel.conf"

// StartSentinel starts a sentinel, alone enough to decide, that watches a master under the name
// main. config is added to its file.
func StartSentinel(t T, master *Server, args []string, config string) *Server {
	t.Helper()
	s := Start(t, func(s *Server) []string {
		text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 5000\nsentinel failover-timeout main 2000\n%s", master.Port, config)
		if err := os.WriteFile(filepath.Join(s.Dir, sentinelConf), []byte(text), 0o600); err != nil {
			t.Fatalf("%v", err)
		}
		port := "--port"
		for _, a := range args {
			if strings.HasPrefix(a, "--tls") {
				port = "--tls-port"
			}
		}
		return append(append([]string{sentinelConf, "--sentinel"}, args...), port, s.Port)
	})
	// Its own intervals are too long for a test: what it knows of a replica is up to 10 s old.
	s.Do(t, "sentinel", "debug", "info-period", 100, "publish-period", 100, "ping-period", 100)
	return s
}

// StartCluster starts masters that share the slots evenly.
func StartCluster(t T, masters int, args ...string) []*Server {
	t.Helper()
	nodes := make([]*Server, masters)
	for i := range nodes {
		nodes[i] = Start(t, func(s *Server) []string {
			return append([]string{"--port", s.Port, "--cluster-enabled", "yes", "--cluster-port", s.Bus}, args...)
		})
	}
	for i, n := range nodes {
		first, last := 16384*i/masters, 16384*(i+1)/masters-1
		n.Do(t, "cluster", "addslotsrange", first, last)
		n.Do(t, "cluster", "set-config-epoch", i+1)
		nodes[0].Do(t, "cluster", "meet", "127.0.0.1", n.Port, n.Bus)
	}
	for _, n := range nodes {
		Await(t, "the cluster is up", func(ctx context.Context) bool {
			slots, err := n.Admin.Do(ctx, "cluster", "slots").Slice()
			return err == nil && len(slots) == masters && strings.Contains(n.Admin.ClusterInfo(ctx).Val(), "cluster_state:ok")
		})
	}
	return nodes
}
