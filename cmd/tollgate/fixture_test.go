package main

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/testdata"
)

// limit bounds every wait of a test.
const limit = 20 * time.Second

// eventually waits until ready says so.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	if !tollgatetest.Within(t.Context(), limit, ready) {
		t.Fatalf("waited %s for: %s", limit, what)
	}
}

// shortDir returns a directory whose path leaves room for a unix socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pixelbyte returns a file of one of the proof APIs.
func pixelbyte(t *testing.T, name string) []byte {
	t.Helper()
	data, err := testdata.File("pixelbyte", name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// goroutines are those that ran before what a test does.
type goroutines struct{ before goleak.Option }

func leaks() goroutines { return goroutines{goleak.IgnoreCurrent()} }

func (g goroutines) check(t *testing.T) {
	t.Helper()
	if err := goleak.Find(g.before); err != nil {
		t.Error(err)
	}
}
