package envoy_test

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// tryBypass runs the script of the Kubernetes pages against an Envoy, and returns what it printed.
func tryBypass(t *testing.T, bootstrap []byte) (string, error) {
	t.Helper()
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile("api: small", "api: pixelbyte"))
	s.Use(t, extauthztest.NewRedis(t, "embedded"), nil)
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	e := startEdge(t, envoy.Version(), envoytest.Settings{Bootstrap: bootstrap, Tollgate: s.Addr, Upstream: upstream.Addr()}, s)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "../k8s/try-bypass.sh", "http://"+e.envoy.Addr()+"/items/1", "api.pixelbyte.io").CombinedOutput()
	return string(out), err
}

// TestTryBypass lets the script try to pass the shipped configuration, and one that does not ask.
func TestTryBypass(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		extauthztest.Require(t, "curl", "no curl")
	}
	out, err := tryBypass(t, bootstrap(t))
	if err != nil || strings.Contains(out, "PASSED") || strings.Count(out, "\n") < 30 {
		t.Errorf("the shipped configuration: %v\n%s", err, out)
	}
	if !strings.Contains(out, "401  no key\n") || !strings.Contains(out, "401  HTTP/2 at once\n") {
		t.Errorf("not asked as was meant:\n%s", out)
	}
	open := bytes.ReplaceAll(bootstrap(t), []byte("check_settings:\n                    context_extensions: {api: pixelbyte}"), []byte("disabled: true"))
	out, err = tryBypass(t, open)
	if err == nil || !strings.Contains(out, "200  PASSED: no key\n") {
		t.Errorf("without a check: %v\n%s", err, out)
	}
}
