package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/policy/keys"
)

func TestOlderPeppers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "older")
	if err := os.WriteFile(file, []byte("earlier\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Shared{OlderPeppers: " " + file + ", none,sha256,"}
	methods, err := s.OlderMethods()
	if err != nil || len(methods) != 3 {
		t.Fatalf("%d methods, %v", len(methods), err)
	}
	h := keys.NewHasher([]byte("now"), methods...)
	for i, want := range []keys.Digest{
		keys.NewHasher([]byte("earlier")).Digest("secret"), keys.NewHasher(nil).Digest("secret"),
		keys.NewHasher(nil, keys.Method{Algorithm: keys.AlgorithmSHA256}).OlderDigest(0, "secret"),
	} {
		if h.OlderDigest(i, "secret") != want {
			t.Errorf("method %d gives another digest", i)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{empty, file + ".none"} {
		s := Shared{OlderPeppers: bad}
		if _, err := s.OlderMethods(); err == nil || !strings.HasPrefix(err.Error(), "--older-peppers: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if m, err := (&Shared{}).OlderMethods(); err != nil || len(m) != 0 {
		t.Errorf("%v, %v", m, err)
	}
}
