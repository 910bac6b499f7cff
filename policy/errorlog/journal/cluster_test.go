package journal_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect/redistest"
	"tollgate/policy/errorlog/journal"
)

// In a cluster, all that belongs to an API is on one node.
func TestCluster(t *testing.T) {
	nodes := redistest.StartCluster(t, 3)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Address()}})
	t.Cleanup(func() { _ = c.Close() })
	w := newWorld(t, c, func(o *journal.Options) { o.Bounds = journal.Bounds{Entries: 2, Bytes: 40_000, PerSecond: 100} })
	last := ""
	for i := range 60 {
		last = w.refuse(fmt.Sprintf("key_%04d", i))
		w.wait(time.Second)
		w.tick()
	}
	if got := w.ask(journal.Question{}).Entries; len(got) < 20 || got[len(got)-1].Decision != last || w.writer.Stats().GivenBack == 0 {
		t.Errorf("%d entries, %+v", len(got), w.writer.Stats())
	}
	if e, err := w.reader.Find(t.Context(), []string{"jobs"}, last); err != nil || e == nil {
		t.Errorf("%v, %v", e, err)
	}
	full := 0
	for _, n := range nodes {
		if n.Admin.DBSize(t.Context()).Val() > 0 {
			full++
		}
	}
	if full != 1 {
		t.Errorf("%d nodes hold something", full)
	}
}
