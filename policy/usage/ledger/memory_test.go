package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/usage"
)

// TestMemoryInRedis holds what a key that is used every day takes of Redis, its name and its place
// on the list included: a month by day, and the hash of a day by hour, which stays in the compact
// form whatever comes.
func TestMemoryInRedis(t *testing.T) {
	for _, c := range []struct {
		name         string
		routes       int
		seen         bool
		month, today int // bytes at most
	}{
		{"one route, no access log", 1, false, 640, 700},
		{"one route, access log", 1, true, 1024, 800},
		{"three routes, no access log", 3, false, 1536, 1800},
		{"three routes, access log", 3, true, 3072, 2048},
		{"six routes, access log", 6, true, 4096, 3072},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := redistest.Start(t, redistest.SocketOnly)
			w := newWorld(t, server.Admin)
			roller := w.newRoller(policy.DefaultUsage())
			// The first of a month, 34 days ahead at most, so that one record has 30 days.
			first := (usage.MonthOf(w.now) + 1).First()
			routes := []string{"job", "submit", "r0", "r1", "r2", "r3"}[:c.routes]
			key := "key_0123456789abcdef"
			largest := int64(0)
			for day := range 30 {
				for hour := range 24 {
					w.now = (first + usage.Day(day)).Hour(hour).Start().Add(time.Minute)
					for i, route := range routes {
						for n := range 40 + 10*i + day%7 + hour%5 { // some 1,000 to 2,000 requests a day and route
							w.decide(key, route, policy.Allowed)
							if c.seen {
								w.finish(key, route, 200+300*(n%40/39), time.Duration(n*n)*time.Millisecond)
							}
						}
						w.decide(key, route, policy.RateLimited)
					}
					w.must(w.writer.Flush(t.Context()))
				}
				name := "tg:v1:usage:{" + key + "}:" + w.now.Format("20060102")
				if got := server.Do(t, "object", "encoding", name); got != "listpack" {
					t.Fatalf("the hash of a day is a %v", got)
				}
				largest = max(largest, server.Do(t, "memory", "usage", name).(int64))
				if day == 29 {
					for field, value := range server.Admin.HGetAll(t.Context(), name).Val() {
						if len(value) > 64 {
							t.Errorf("%s has %d bytes", field, len(value))
						}
					}
				}
			}
			w.now = w.now.Add(4 * 24 * time.Hour)
			w.must(roller.Roll(t.Context()))
			month := server.Do(t, "memory", "usage", fmt.Sprintf("tg:v1:usage:{%s}:%s", key, first.Month())).(int64)
			place := int64(96) // on the list of the month: an entry of a table and some 45 bytes
			t.Logf("a month: %d bytes and %d on its list; the hash of a day: %d bytes at most", month, place, largest)
			if month+place > int64(c.month) || largest > int64(c.today) {
				t.Errorf("want at most %d and %d", c.month, c.today)
			}
			for _, left := range w.keys("tg:v1:usage:{" + key + "}:*") {
				if !strings.HasSuffix(left, ":"+first.Month().String()) {
					t.Errorf("%s is left", left)
				}
			}
		})
	}
}
