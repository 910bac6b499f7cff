package tollgatetest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// Require skips the test loudly where a part that it needs is missing, or fails it where
// TOLLGATE_REQUIRE says that the part must be there. how says how to get it.
func Require(t testing.TB, part string, err error, how string) {
	t.Helper()
	if err == nil {
		return
	}
	if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), part) {
		t.Fatalf("%s is required: %s: %v", part, how, err)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s: %v", how, err)
}

// Within reports whether ready said so in time.
func Within(ctx context.Context, limit time.Duration, ready func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
