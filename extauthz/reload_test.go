package extauthz_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
)

func TestPolicyReload(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "small.yaml")
	extauthztest.WriteFile(t, file, []byte(extauthztest.Small))
	registry, out := prometheus.NewRegistry(), &extauthztest.Logs{}
	log := slog.New(slog.NewTextHandler(out, nil))
	policies, err := extauthz.LoadPolicies(dir, log, extauthz.NewMetrics(registry), nil)
	if err != nil {
		t.Fatal(err)
	}
	counted := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			if all := extauthztest.MetricsOf(registry); !strings.Contains(all, text) {
				t.Errorf("no %q in:\n%s", text, all)
			}
		}
	}
	now := time.Now()
	first := policies.Current()
	policies.Refresh(now)
	if policies.Current() != first {
		t.Error("unchanged files were loaded again")
	}

	extauthztest.WriteFile(t, file, []byte(strings.Replace(extauthztest.Small, "per: minute", "per: fortnight", 1)))
	policies.Refresh(now)
	policies.Refresh(now.Add(time.Second))
	if policies.Current() != first {
		t.Error("a bad file took the place of the old policy")
	}
	if n := strings.Count(out.String(), "fortnight"); n != 1 {
		t.Errorf("told %d times within a second", n)
	}
	policies.Refresh(now.Add(2 * time.Minute))
	if n := strings.Count(out.String(), "fortnight"); n != 2 {
		t.Errorf("told %d times after two minutes", n)
	}
	if _, refused := policies.Status(); refused == nil || !strings.Contains(refused.Error(), "small.yaml:11:59") || !strings.Contains(refused.Error(), `unknown unit "fortnight"`) {
		t.Errorf("refused: %v", refused)
	}
	counted("tollgate_policy_rejected 1", `tollgate_policy_loads_total{result="rejected"} 3`)

	if err := os.Rename(file, file+".bak"); err != nil {
		t.Fatal(err)
	}
	policies.Refresh(now)
	if policies.Current() != first {
		t.Error("an empty folder took the place of the old policy")
	}
	extauthztest.WriteFile(t, file, []byte(strings.Replace(extauthztest.Small, "requests: 5", "requests: 6", 1)))
	ctx, cancel := context.WithCancel(t.Context())
	ticks, followed := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(followed)
		policies.Follow(ctx, ticks)
	}()
	ticks <- now
	ticks <- now // the first has been worked off
	if policies.Current() == first {
		t.Error("the mended file is not in force")
	}
	cancel()
	<-followed
	if _, refused := policies.Status(); refused != nil {
		t.Errorf("refused: %v", refused)
	}
	counted("tollgate_policy_rejected 0", "tollgate_policy_apis 1")
}

func TestFirstPolicyMustLoad(t *testing.T) {
	log, m := slog.New(slog.DiscardHandler), extauthz.NewMetrics(prometheus.NewRegistry())
	if _, err := extauthz.LoadPolicies(filepath.Join(t.TempDir(), "none"), log, m, nil); err == nil {
		t.Error("a missing folder loaded")
	}
	bad := extauthztest.WriteFile(t, filepath.Join(t.TempDir(), "bad.yaml"), []byte("api: Bad\n"))
	if _, err := extauthz.LoadPolicies(bad, log, m, nil); err == nil || !strings.Contains(err.Error(), `bad api name "Bad"`) {
		t.Errorf("%v", err)
	}
}

// What holds up or breaks a reload must hold up nothing else.
func TestReloadThatHangsOrPanics(t *testing.T) {
	dir := t.TempDir()
	extauthztest.WriteFile(t, filepath.Join(dir, "small.yaml"), []byte(extauthztest.Small))
	policies, err := extauthz.LoadPolicies(dir, slog.New(slog.DiscardHandler), extauthz.NewMetrics(prometheus.NewRegistry()), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := policies.Current()
	pipe := filepath.Join(dir, "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	policies.Refresh(time.Now())
	if _, refused := policies.Status(); refused == nil || !strings.Contains(refused.Error(), "pipe.yaml is not a regular file") {
		t.Errorf("a pipe: %v", refused)
	}
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	nested := "code: unauthorized, message: No., details: {\"item[0\": \"{nope}\"}}"
	extauthztest.WriteFile(t, filepath.Join(dir, "small.yaml"), []byte(strings.Replace(extauthztest.Small, "code: unauthorized, message: No.}", nested, 1)))
	policies.Refresh(time.Now())
	if _, refused := policies.Status(); refused == nil || !strings.Contains(refused.Error(), `bad details name "item[0"`) {
		t.Errorf("a name that is no path: %v", refused)
	}
	if policies.Current() != first {
		t.Error("the old policy is no longer in force")
	}
}
