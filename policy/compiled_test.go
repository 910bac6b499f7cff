package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/policy"
	"tollgate/policy/policyfile"
)

// changed is the text of the shortest good policy file with each old text, which must be there,
// replaced by a new one.
func changed(t testing.TB, oldNew ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "small.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("small.yaml does not hold %q", oldNew[i])
		}
		text = strings.Replace(text, oldNew[i], oldNew[i+1], 1)
	}
	return text
}

func compiled(t testing.TB, texts ...string) *policy.Set {
	t.Helper()
	files := make([]policyfile.File, len(texts))
	for i, text := range texts {
		files[i] = policyfile.File{Name: fmt.Sprintf("file%d.yaml", i), Data: []byte(text)}
	}
	set, err := policyfile.Compile(files...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
