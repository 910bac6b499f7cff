package connect_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

func TestSentinel(t *testing.T) {
	t.Parallel()
	acl := func(s *server) []string {
		writeUsers(t, s.dir, "user replica on >replica +psync +replconf +ping",
			"user tollgate on >hunter2 "+strings.Join(serverRules(), " "))
		return append(plain(s), "--masterauth", "replica", "--masteruser", "replica", "--aclfile", "users.acl", "--repl-diskless-sync-delay", "0")
	}
	master := start(t, acl)
	replica := start(t, func(s *server) []string {
		return append(acl(s), "--replicaof", "127.0.0.1 "+master.port)
	})
	await(t, "the replica has caught up", func(ctx context.Context) bool {
		return strings.Contains(replica.admin.Info(ctx, "replication").Val(), "master_link_status:up")
	})
	watcher := startSentinel(t, master, nil, "user default on nopass ~* &* +@all\nuser watcher on >hunter3 "+strings.Join(connect.SentinelACL().Rules(), " ")+"\n")
	c := open(t, "redis+sentinel://tollgate:hunter2@"+watcher.address()+"/main?sentinel_username=watcher&sentinel_password=hunter3")
	everything(t, c, 0)
	if stats := replica.admin.Info(t.Context(), "commandstats").Val(); strings.Contains(stats, "cmdstat_get:") {
		t.Errorf("a replica was read:\n%s", stats)
	}
	if clients := do(t, watcher, "client", "list").(string); !strings.Contains(clients, "user=watcher") {
		t.Errorf("the sentinel is not asked as its user:\n%s", clients)
	}
	await(t, "the replica has it all", func(ctx context.Context) bool { // what it has not would be lost
		return offset(master.admin.Info(ctx, "replication").Val(), "master_repl_offset:") ==
			offset(replica.admin.Info(ctx, "replication").Val(), "slave_repl_offset:")
	})
	failover(t, watcher, replica, c)
	everything(t, c, 1)
	for _, s := range []*server{watcher, master, replica} {
		nothingRefused(t, s)
	}
	if role := replica.admin.Do(t.Context(), "role").Val(); role.([]any)[0] != "master" {
		t.Errorf("the replica is %v", role)
	}
}

func offset(info, name string) string {
	_, value, _ := strings.Cut(info, name)
	value, _, _ = strings.Cut(value, "\r")
	return value
}

// worker looks a key up and spends until it is stopped.
type worker struct {
	began    time.Time
	stop     chan struct{}
	promoted atomic.Bool
	worked   atomic.Int64 // tries since the promotion

	// To be read when run has ended:
	unknown, failed int
	last, gap       time.Duration // since began; the longest time without success
}

func (w *worker) run(ctx context.Context, c redis.UniversalClient) {
	k, store, counters := newKey(0), store.New(c), counters.NewStore(c, nil)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		_, lookErr := store.Lookup(ctx, k.Digest)
		_, err := counters.Spend(ctx, &limits.Spend{ID: "failover", Windows: day(1 << 40), Cost: 1})
		if errors.Is(lookErr, keys.ErrUnknown) {
			w.unknown++
		}
		if err != nil || lookErr != nil {
			w.failed++
			continue
		}
		now := time.Since(w.began)
		w.gap, w.last = max(w.gap, now-w.last), now
		if w.promoted.Load() {
			w.worked.Add(1)
		}
	}
}

// failover makes the replica the master while a key is looked up and spends, and measures the gap.
func failover(t *testing.T, watcher, replica *server, c redis.UniversalClient) {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	sub := c.Subscribe(ctx, changes)
	defer sub.Close()
	messages := sub.Channel()
	w := &worker{began: time.Now(), stop: make(chan struct{})}
	var work sync.WaitGroup
	work.Go(func() { w.run(ctx, c) })
	await(t, "the replica is the master", func(ctx context.Context) bool {
		if role, _ := replica.admin.Do(ctx, "role").Slice(); len(role) > 0 && role[0] == "master" {
			return true
		}
		_ = watcher.admin.Do(ctx, "sentinel", "failover", "main").Err() // refused while it does not know the replica well, and while one is under way
		return false
	})
	w.promoted.Store(true)
	at := time.Now()
	await(t, "look-ups and spends work on the new master", func(ctx context.Context) bool {
		stats := replica.admin.Info(ctx, "commandstats").Val()
		return w.worked.Load() > 0 && strings.Contains(stats, "cmdstat_evalsha:") && strings.Contains(stats, "cmdstat_get:")
	})
	recovered := time.Since(at)
	await(t, "messages arrive", func(ctx context.Context) bool {
		_ = publishFrom(c)(ctx)
		select {
		case m := <-messages:
			return m.Payload == "news"
		default:
			return false
		}
	})
	close(w.stop)
	work.Wait()
	t.Logf("works %v after the promotion; longest gap %v; %d tries failed", recovered, w.gap, w.failed)
	if w.unknown > 0 {
		t.Errorf("the key was unknown %d times", w.unknown)
	}
}
