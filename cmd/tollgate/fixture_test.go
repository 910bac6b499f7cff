package main

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tollgate/policy/connect/redistest"
	"tollgate/testdata"
)

// limit bounds every wait of a test.
const limit = 20 * time.Second

// eventually waits until ready says so.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	redistest.Await(t, what, func(context.Context) bool { return ready() })
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
