package policyfile

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The size of a file is judged before it is read: a running server reads them again.
func TestLargeFilesAreNotRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 300<<20); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, place := range []string{path, dir} {
		for name, read := range map[string]func(string) ([]File, error){"policy": ReadFiles, "keys": ReadKeyFiles} {
			if _, err := read(place); err == nil || !strings.Contains(err.Error(), "large.yaml: is larger than the ") {
				t.Errorf("%s of %s: %v", name, place, err)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 8<<20 {
		t.Errorf("%d MiB", spent>>20)
	}
	// Many files are large, too.
	if err := os.Truncate(path, 40<<20); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.yaml")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(other, 40<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeyFiles(dir); err == nil || !strings.Contains(err.Error(), "bytes together") {
		t.Error(err)
	}
}
