package envoytest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a file with its folders.
func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindOrder(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	outside := write(t, filepath.Join(root, ".tools", "envoy"), "", 0o755)
	repo := filepath.Join(root, "repo")
	write(t, filepath.Join(repo, "go.mod"), "// Tollgate\nmodule tollgate\n\ngo 1.26\n", 0o644)
	deep := filepath.Dir(write(t, filepath.Join(repo, "a", "b", "file"), "", 0o644))
	onPath := write(t, filepath.Join(root, "bin", "envoy"), "", 0o755)
	chosen := write(t, filepath.Join(root, "chosen"), "", 0o755)

	t.Chdir(deep)
	expect := func(want, wantErr string) {
		t.Helper()
		got, err := Find()
		if got != want || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("Find() = %q, %v, want %q, %q", got, err, want, wantErr)
		}
	}
	t.Setenv("ENVOY_BIN", "")
	t.Setenv("PATH", filepath.Join(root, "empty"))
	expect("", "make tools") // not the one outside of the repository
	t.Setenv("PATH", filepath.Join(root, "bin"))
	expect(onPath, "")
	tool := write(t, filepath.Join(repo, ".tools", "envoy"), "", 0o644)
	expect(onPath, "") // a file that cannot be run is none
	if err := os.Chmod(tool, 0o755); err != nil {
		t.Fatal(err)
	}
	expect(tool, "")
	t.Setenv("ENVOY_BIN", chosen)
	expect(chosen, "")
	t.Setenv("ENVOY_BIN", filepath.Join(root, "missing"))
	expect("", "ENVOY_BIN")
	t.Chdir(root)
	t.Setenv("ENVOY_BIN", "")
	expect(outside, "")

	if _, err := FindVersion("9.9.9"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "fetch.sh 9.9.9") {
		t.Errorf("FindVersion(9.9.9): %v", err)
	}
}
