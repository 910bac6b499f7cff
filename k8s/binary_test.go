package k8s

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// binary returns the tollgate to ask: TOLLGATE_BIN, else the one that `make build` leaves. This
// module cannot import the server, so without a binary these tests skip, and fail where
// TOLLGATE_REQUIRE says that nothing may be missing.
func binary(t *testing.T) string {
	t.Helper()
	file := os.Getenv("TOLLGATE_BIN")
	if file == "" {
		file = filepath.Join("..", "bin", "tollgate")
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && os.Getenv("TOLLGATE_REQUIRE") == "" {
		t.Skip("SKIPPED: no tollgate to ask for its flags: run `make build`")
	} else if err != nil {
		t.Fatalf("no tollgate to ask: %v", err)
	}
	return file
}

func TestFlagsExist(t *testing.T) {
	help, err := exec.Command(binary(t), "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	flags := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\s+(?:-\w, )?--([a-z][a-z-]*)`).FindAllStringSubmatch(string(help), -1) {
		flags[m[1]] = true
	}
	w := tollgate(t, readSamples(t))
	for name := range arguments(t, w) {
		if !flags[name] {
			t.Errorf("serve has no flag --%s", name)
		}
	}
	for _, e := range w.pod.Spec.Containers[0].Env {
		if name, ours := strings.CutPrefix(e.Name, "TOLLGATE_"); ours && !flags[strings.ReplaceAll(strings.ToLower(name), "_", "-")] {
			t.Errorf("%s sets no flag of serve", e.Name)
		}
	}
}

func TestPolicyIsValid(t *testing.T) {
	tollgate := binary(t)
	for _, c := range objects[*core.ConfigMap](readSamples(t)) {
		for name, text := range c.Data {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(tollgate, "policy", "check", file).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	}
}
