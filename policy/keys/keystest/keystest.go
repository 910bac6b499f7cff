// Package keystest is what the tests of the packages about keys share: keys, stores and their
// clients, hooks that break or overtake a client's commands, and a second, independent description
// of what a store contains. Only tests import it.
package keystest

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Noon is an instant that tests take for now.
func Noon() time.Time { return time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC) }

// Clock moves by hand only, from Noon. It is safe for concurrent use.
type Clock struct{ at atomic.Int64 }

// Now returns its time.
func (c *Clock) Now() time.Time { return Noon().Add(time.Duration(c.at.Load())) }

// Advance moves it.
func (c *Clock) Advance(d time.Duration) { c.at.Add(int64(d)) }

// Must returns what gives the value of a call that has to succeed: Must[int](t)(strconv.Atoi("1")).
func Must[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Lines is a log that may be read while it is written.
type Lines struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write takes part of the log.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all of it.
func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Addresses returns n single addresses.
func Addresses(n int) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	return all
}
