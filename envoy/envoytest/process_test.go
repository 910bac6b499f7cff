package envoytest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"tollgate/envoy"
)

func TestShippedBootstrapsLoad(t *testing.T) {
	hosts := map[string][]string{
		"genapi":     {"api.example.com"},
		"pictify":    {"api.pictify.io", "sandbox.pictify.io"},
		"pixelbyte":  {"api.pixelbyte.io"},
		"pixelmagic": {"api.pixelmagicai.com"},
	}
	eachEnvoy(t, func(t *testing.T, binary string) {
		for _, file := range []string{"envoy.yaml", "http/envoy.yaml"} {
			out, err := exec.Command(binary, "--mode", "validate", "--log-level", "warning",
				"--config-path", filepath.Join("..", file)).CombinedOutput()
			if err != nil {
				t.Errorf("validate %s: %v\n%s", file, err, out)
			}
		}
		e := newEdge(t, binary, nil)
		if log := e.envoy.Log(); strings.Contains(log, "[warning]") || strings.Contains(log, "deprecated") {
			t.Errorf("Envoy warns about envoy.yaml:\n%s", log)
		}
		for api, names := range hosts {
			t.Run(api, func(t *testing.T) {
				for _, host := range names {
					checkContext(t, e, host)
				}
			})
		}
	})
}

// checkContext checks that a host, with and without a port, carries the context that names its API,
// and that an unknown host carries none.
func checkContext(t *testing.T, e *edge, host string) {
	t.Helper()
	want := map[string]string{
		"api.example.com":      "map[api:genapi]",
		"api.pictify.io":       "map[api:pictify environment:live]",
		"sandbox.pictify.io":   "map[api:pictify environment:test]",
		"api.pixelbyte.io":     "map[api:pixelbyte]",
		"api.pixelmagicai.com": "map[api:pixelmagic]",
		"else." + host:         "map[]",
	}
	for _, sent := range []string{host, host + ":10000", strings.ToUpper(host), "else." + host} {
		response, err := e.send(t, "h1", get(sent, "/"))
		if err != nil || response.Status != 200 {
			t.Fatalf("%s: %v, %v", sent, response, err)
		}
		name, _, _ := strings.Cut(strings.ToLower(sent), ":")
		check, _ := e.authority.last()
		if got := fmt.Sprint(check.GetAttributes().GetContextExtensions()); got != want[name] {
			t.Errorf("%s: context_extensions %s, want %s", sent, got, want[name])
		}
	}
}

func TestStopLeavesNoProcess(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, binary string) {
		shipped, err := envoy.Bootstrap()
		if err != nil {
			t.Fatal(err)
		}
		e, err := Start(deadline(t), Settings{Binary: binary, Bootstrap: shipped})
		if err != nil {
			t.Fatal(err)
		}
		pid, dir := e.cmd.Process.Pid, e.dir
		if err := syscall.Kill(pid, 0); err != nil {
			t.Fatalf("before Stop: %v", err)
		}
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d after Stop: %v, want no such process", pid, err)
		}
		select {
		case <-e.Done():
		default:
			t.Error("Done is open after Stop")
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s after Stop: %v, want it gone", dir, err)
		}
		if err := e.Stop(); err != nil {
			t.Errorf("second Stop: %v", err)
		}
	})
}

func TestStopReportsAnEarlierEnd(t *testing.T) {
	shipped, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	e, err := Start(deadline(t), Settings{Binary: requireEnvoy(t, Find), Bootstrap: shipped})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-e.Done()
	if err := e.Stop(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Stop of a killed Envoy: %v, want an error that says so", err)
	}
}

func TestStartNamesTheReason(t *testing.T) {
	binary := requireEnvoy(t, Find)
	shipped, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	unknown := strings.Replace(string(shipped), "use_remote_address:", "use_remote_adress:", 1)
	for _, c := range []struct {
		name     string
		ctx      context.Context
		settings Settings
		want     string
	}{
		{"unknown field", deadline(t), Settings{Bootstrap: []byte(unknown)}, "use_remote_adress"},
		{"port taken", deadline(t), Settings{Bootstrap: shipped, ListenPort: taken.Addr().(*net.TCPAddr).Port}, "bind"},
		{"no YAML", deadline(t), Settings{Bootstrap: []byte("a: [")}, "bootstrap"},
		{"no listener", deadline(t), Settings{Bootstrap: []byte("a: 1")}, `nothing named "ingress"`},
		{"bad address", deadline(t), Settings{Bootstrap: shipped, Tollgate: "nowhere"}, "cluster tollgate"},
		{"no binary", deadline(t), Settings{Bootstrap: shipped, Binary: "/nonexistent/envoy"}, "/nonexistent/envoy"},
		{"cancelled", cancelled, Settings{Bootstrap: shipped}, context.Canceled.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.settings.Binary == "" {
				c.settings.Binary = binary
			}
			e, err := Start(c.ctx, c.settings)
			if err == nil {
				_ = e.Stop()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

// childMark is the variable that makes TestEnvoyDiesWithItsParent play the parent that dies.
const childMark = "TOLLGATE_TEST_CHILD_BINARY"

func TestEnvoyDiesWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent-death signal")
	}
	if binary := os.Getenv(childMark); binary != "" {
		shipped, _ := envoy.Bootstrap()
		e, err := Start(deadline(t), Settings{Binary: binary, Bootstrap: shipped, Dir: os.Getenv(childMark + "_DIR")})
		fmt.Printf("\nadmin=%s err=%v\n", e.Admin(), err)
		os.Exit(3) // no Stop, as after a panic
	}
	child := exec.Command(os.Args[0], "-test.run=^TestEnvoyDiesWithItsParent$")
	child.Env = append(os.Environ(), childMark+"="+requireEnvoy(t, Find), childMark+"_DIR="+t.TempDir())
	out, _ := child.Output() // status 3 on purpose
	_, rest, found := strings.Cut(string(out), "admin=")
	admin, _, _ := strings.Cut(rest, " ")
	if !found || admin == "" {
		t.Fatalf("the child started no Envoy:\n%s", out)
	}
	eventually(t, "Envoy's admin port to be closed", func() bool {
		conn, err := net.Dial("tcp", admin)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
}
