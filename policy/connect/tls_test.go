package connect_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
)

// startTLS starts a server that speaks TLS only, wants client certificates of the CA, and has the
// user of serverRules.
func startTLS(t *testing.T, ca *redistest.Authority, dir string, hosts ...string) *server {
	t.Helper()
	ca.Write(t, filepath.Join(dir, "ca.pem"))
	ca.Issue(t, dir, "server", 2, hosts...)
	ca.Issue(t, dir, "client", 3)
	writeUsers(t, dir, "user tollgate on >hunter2 "+strings.Join(serverRules(), " "))
	return start(t, func(s *server) []string {
		return []string{"--port", "0", "--tls-port", s.port, "--tls-ca-cert-file", filepath.Join(dir, "ca.pem"), "--tls-cert-file",
			filepath.Join(dir, "server.pem"), "--tls-key-file", filepath.Join(dir, "server.key"), "--aclfile", filepath.Join(dir, "users.acl")}
	})
}

// files are the parameters that name a folder's CA and client certificate.
func files(dir string) string {
	return "tls_ca=" + dir + "/ca.pem&tls_cert=" + dir + "/client.pem&tls_key=" + dir + "/client.key"
}

func ping(t *testing.T, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return open(t, url).Ping(ctx).Err()
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	s := startTLS(t, redistest.NewAuthority(t), dir, "127.0.0.1", "redis.internal")
	stranger := redistest.NewAuthority(t)
	stranger.Write(t, filepath.Join(other, "ca.pem"))
	stranger.Issue(t, other, "client", 3)
	base := "rediss://tollgate:hunter2@" + s.address()

	everything(t, open(t, base+"?"+files(dir)), 0)
	for url, want := range map[string]string{
		base + "?" + files(dir) + "&tls_server_name=redis.internal":                                     "",
		base + "?" + files(dir) + "&tls_server_name=other.internal":                                     "not other.internal",
		base + "?" + files(dir) + "&tls_server_name=other.internal&tls_skip_hostname_verification=true": "",
		base + "?" + files(other): "unknown authority",
		base + "?" + files(other) + "&tls_skip_hostname_verification=true": "unknown authority",
		base:                                "unknown authority",
		base + "?tls_ca=" + dir + "/ca.pem": refused("certificate required"),
		base + "?tls_ca=" + dir + "/ca.pem&tls_cert=" + other + "/client.pem&tls_key=" + other + "/client.key": refused("unknown certificate authority"),
		"redis://tollgate:hunter2@" + s.address():                                                              "EOF",
		"rediss://tollgate:wrong@" + s.address() + "?" + files(dir):                                            "WRONGPASS",
	} {
		switch err := ping(t, url); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", url, err)
		case want != "" && err == nil:
			t.Errorf("%s: no error", url)
		case want != "" && !regexp.MustCompile(want).MatchString(err.Error()):
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
}

// refused is an alert of the server after the handshake. A client that still writes meanwhile may
// see only that the connection is gone.
func refused(alert string) string { return alert + "|connection reset|broken pipe" }

func TestTLSEverywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := redistest.NewAuthority(t)
	ca.Write(t, filepath.Join(dir, "ca.pem"))
	ca.Issue(t, dir, "server", 2, "127.0.0.1")
	ca.Issue(t, dir, "client", 3)
	tlsArgs := []string{"--tls-ca-cert-file", dir + "/ca.pem", "--tls-cert-file", dir + "/server.pem", "--tls-key-file", dir + "/server.key"}
	t.Run("cluster", func(t *testing.T) {
		node := start(t, func(s *server) []string {
			return append([]string{"--port", "0", "--tls-port", s.port, "--tls-cluster", "yes", "--cluster-enabled", "yes", "--cluster-port", s.bus}, tlsArgs...)
		})
		do(t, node, "cluster", "addslotsrange", 0, 16383)
		await(t, "the cluster is up", func(ctx context.Context) bool {
			return strings.Contains(node.admin.ClusterInfo(ctx).Val(), "cluster_state:ok")
		})
		everything(t, open(t, "rediss+cluster://"+node.address()+"?"+files(dir)), 0)
	})
	t.Run("sentinel", func(t *testing.T) {
		master := start(t, func(s *server) []string { return append([]string{"--port", "0", "--tls-port", s.port}, tlsArgs...) })
		watcher := startSentinel(t, master, append(tlsArgs, "--port", "0", "--tls-replication", "yes"), "")
		everything(t, open(t, "rediss+sentinel://"+watcher.address()+"/main?"+files(dir)), 0)
	})
}

// New connections take what the files hold by then; a bad file changes nothing, and is said once.
func TestCertificatesAreReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := redistest.NewAuthority(t)
	s := startTLS(t, first, dir, "127.0.0.1")
	mine := t.TempDir()
	first.Write(t, filepath.Join(mine, "ca.pem"))
	first.Issue(t, mine, "client", 3)
	var log lockedBuffer
	c, _, err := connect.Open(connect.Options{
		URL:      "rediss://" + s.address() + "?" + files(mine) + "&pool_size=1000", // go-redis dials less often after so many errors
		Deadline: 10 * time.Second, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	again := func() error { // on a new connection
		do(t, s, "client", "kill", "type", "normal", "skipme", "yes")
		return c.Ping(t.Context()).Err()
	}
	until := func(what string, ok func(error) bool) {
		t.Helper()
		await(t, what, func(context.Context) bool { return ok(again()) })
	}
	until("the first connection", func(err error) bool { return err == nil })

	second := redistest.NewAuthority(t)
	second.Write(t, filepath.Join(dir, "ca.pem"))
	second.Issue(t, dir, "server", 2, "127.0.0.1")
	do(t, s, "config", "set", "tls-ca-cert-file", dir+"/ca.pem", "tls-cert-file", dir+"/server.pem", "tls-key-file", dir+"/server.key")
	until("the server's new certificate is refused", func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "unknown authority")
	})
	for _, broken := range []string{"ca.pem", "client.key"} {
		good, err := os.ReadFile(filepath.Join(mine, broken))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mine, broken), []byte("half a fi"), 0o600); err != nil {
			t.Fatal(err)
		}
		warnings := strings.Count(log.String(), "WARN")
		for range 3 { // one of them is heard
			until("the old files stay in force", func(err error) bool {
				return strings.Count(log.String(), "WARN") == warnings+1 && err != nil && strings.Contains(err.Error(), "unknown authority")
			})
		}
		if err := os.WriteFile(filepath.Join(mine, broken), good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second.Write(t, filepath.Join(mine, "ca.pem"))
	second.Issue(t, mine, "client", 3)
	until("the new files are used", func(err error) bool { return err == nil })
	if got := log.String(); strings.Count(got, "WARN") != 2 || !strings.Contains(got, "holds no PEM certificate") || !strings.Contains(got, "client.key") {
		t.Errorf("log:\n%s", got)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
