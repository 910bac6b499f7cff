package journal_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/policy/connect/redistest"
	"tollgate/policy/errorlog/journal"
)

// usedMemory is what Redis says that it uses, in bytes.
func usedMemory(t *testing.T, s *redistest.Server) int {
	t.Helper()
	_, rest, _ := strings.Cut(s.Do(t, "info", "memory").(string), "used_memory:")
	text, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What the scripts count is what Redis uses, or a little more, for many keys with few entries and
// for few with many: so an API that is at its bound takes no more than that.
func TestMemory(t *testing.T) {
	for _, c := range []struct{ keys, entries int }{{8000, 1}, {2000, 5}, {200, 100}} {
		t.Run(fmt.Sprintf("%d entries", c.entries), func(t *testing.T) {
			server := redistest.Start(t, redistest.SocketOnly)
			w := newWorld(t, server.Admin, func(o *journal.Options) { o.Bounds = journal.Bounds{Entries: 100, Bytes: 64 << 20, PerSecond: 100} })
			w.refuse("key_first")
			w.tick()
			before := usedMemory(t, server)
			for range c.entries {
				for i := range c.keys {
					w.refuse(fmt.Sprintf("key_%08d%08d", i*7919, i)) // as long as real ones
					if i%100 == 99 {
						w.wait(time.Second)
						w.tick()
					}
				}
			}
			used := usedMemory(t, server) - before
			counted, err := server.Admin.HGet(t.Context(), "tg:v1:errors:{jobs}:sizes", "total").Int()
			w.must(err)
			t.Logf("%d keys with %d entries each: %d bytes a key, %d counted", c.keys, c.entries, used/c.keys, counted/c.keys)
			if used > counted || used < counted*6/10 {
				t.Errorf("Redis uses %d bytes, counted are %d", used, counted)
			}
			if s := w.writer.Stats(); s.Written != uint64(c.keys*c.entries+1) {
				t.Errorf("%+v", s)
			}
		})
	}
}
