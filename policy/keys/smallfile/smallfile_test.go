package smallfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := Read(path, 5); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := Read(path, 5); err != nil || string(data) != "12345" {
		t.Errorf("%s, %v", data, err)
	}
	if _, err := Read(path, 4); err == nil || !strings.Contains(err.Error(), "f: is larger than the 4 bytes that are read") {
		t.Error(err)
	}
	// A pipe has no size.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString("12345")
	w.Close()
	if _, err := Read("/dev/fd/"+fd(r), 4); err == nil || !strings.Contains(err.Error(), "is larger") {
		t.Error(err)
	}
}

func fd(f *os.File) string { return string(rune('0' + f.Fd())) }
