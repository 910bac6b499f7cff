// Package tollgatetest is what the tests of the programs share.
package tollgatetest

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// Build builds tollgate, without the profile that makes a build slow, and returns the
// path of its binary.
func Build(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "tollgate")
	out, err := exec.Command("go", "build", "-pgo=off", "-o", binary, "tollgate/cmd/tollgate").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}
