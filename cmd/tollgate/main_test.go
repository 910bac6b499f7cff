package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tollgate/cmd/tollgate/exit"
)

func TestMain(m *testing.M) {
	flag.Int("usage", 0, "how many requests TestUsageThroughEnvoy makes; 0 is a few thousand")
	flag.String("chart", "", "file for a picture of what TestUsageThroughEnvoy has counted")
	flag.Int("outage", 0, "how often TestReplicasLeave measures each of its settings; 0 is a short look at some")
	// With the race detector each command would wait a second at its end.
	_ = os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	testscript.Main(m, map[string]func(){"tollgate": func() {
		// The server and the commands of a script are two users of its Redis.
		if store := os.Getenv(usersStore); store != "" && len(os.Args) > 1 {
			user := "cli"
			if os.Args[1] == "serve" {
				user = "server"
			}
			_ = os.Setenv("TOLLGATE_STORE", fmt.Sprintf(store, user))
		}
		main()
	}})
}

// usersStore is the variable with the URL of a Redis for scripts, and %s for the
// user and password.
const usersStore = "TEST_STORE"

// command runs tollgate inside the test.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

func TestUsageMistakesAreSaidOnce(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "a command is missing"},
		{[]string{"nonsense"}, `unknown command "nonsense"`},
		{[]string{"policy"}, "check, test, render or schema"},
		{[]string{"policy", "check"}, "requires at least 1 arg"},
		{[]string{"policy", "check", "missing.yaml"}, "missing.yaml: no such file"},
		{[]string{"serve"}, "give --policy FILE|DIR or TOLLGATE_POLICY"},
		{[]string{"serve", "extra"}, `unknown command "extra"`},
		{[]string{"serve", "--nonsense"}, "unknown flag: --nonsense"},
		{[]string{"serve", "--deadline", "soon"}, `invalid argument "soon"`},
		{[]string{"serve", "--policy", "p", "--deadline", "0s"}, "--deadline: 0s is not more than 0"},
		{[]string{"serve", "--policy", "p", "--reload-interval", "-1s"}, "--reload-interval: -1s is not more than 0"},
		{[]string{"serve", "--policy", "p", "--drain-timeout", "-1s"}, "--drain-timeout: -1s is less than 0"},
		{[]string{"serve", "--policy", "p", "--drain-delay", "-1s"}, "--drain-delay: -1s is less than 0"},
		{[]string{"serve", "--policy", "p", "--replicas", "0"}, "--replicas: 0 is less than 1"},
		{[]string{"serve", "--policy", "p", "--log-level", "loud"}, `--log-level: unknown value "loud"`},
		{[]string{"serve", "--policy", "p", "--log-format", "xml"}, `--log-format: unknown value "xml"`},
		{[]string{"serve", "--policy", "p", "--limits", "most"}, `--limits: unknown value "most", want auto or exact`},
		{[]string{"serve", "--policy", "p", "--log-decisions", "some"}, `--log-decisions: unknown value "some"`},
		{[]string{"serve", "--policy", "p", "--grpc-address", "9001"}, `--grpc-address: "9001" is neither HOST:PORT nor unix:PATH`},
		{[]string{"serve", "--policy", "p", "--grpc-address", "unix:"}, `--grpc-address: "unix:" names no path`},
		{[]string{"serve", "--policy", "p", "--http-address", "unix:x"}, ""},
		{[]string{"serve", "--policy", "missing.yaml"}, "missing.yaml: no such file"},
		{[]string{"serve", "--config", "missing.yaml"}, "--config: open missing.yaml"},
		{[]string{"serve", "--policy", "p", "--pprof-address", "0.0.0.0:6060"}, `--pprof-address: "0.0.0.0:6060" is not IP:PORT on the loopback`},
		{[]string{"serve", "--policy", "p", "--pprof-address", "localhost:6060"}, `--pprof-address: "localhost:6060" is not IP:PORT on the loopback`},
	} {
		code, _, stderr := command(t, c.args...)
		if code != exit.CodeUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("tollgate %q: exit %d, %q; want exit 2, %q", c.args, code, stderr, c.want)
		}
		if n := strings.Count(stderr, "tollgate: "); n != 1 || c.want != "" && strings.Count(stderr, c.want) != 1 {
			t.Errorf("tollgate %q: the error is said more than once or not at all:\n%s", c.args, stderr)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--help"}, "serve"},
		{[]string{"serve", "--help"}, "TOLLGATE_GRPC_ADDRESS"},
		{[]string{"policy", "check", "--help"}, "file:line:col"},
		{[]string{"version"}, "tollgate "},
	} {
		code, stdout, stderr := command(t, c.args...)
		if code != exit.CodeOK || stderr != "" || !strings.Contains(stdout, c.want) {
			t.Errorf("tollgate %q: exit %d, stdout %q, stderr %q; want %q", c.args, code, stdout, stderr, c.want)
		}
	}
}

// The end of the context does what SIGINT does, and nothing stays behind.
func TestRunEndsWithItsContext(t *testing.T) {
	before := leaks()
	start(t).end(t)
	before.check(t)
}
