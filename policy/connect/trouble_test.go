package connect_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/cache"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

// trouble is a way in which a Redis answers and does not serve.
type trouble struct {
	name        string
	says        string // in each error that it causes
	serves      bool   // reads
	hangsUp     bool   // and may say something else, or nothing
	begin, heal func(t *testing.T, s *server)
}

// hangUp ends the connections of everybody else, so that the next ones greet.
func hangUp(t *testing.T, s *server) { do(t, s, "client", "kill", "type", "normal", "skipme", "yes") }

func config(name string, value any) func(*testing.T, *server) {
	return func(t *testing.T, s *server) { do(t, s, "config", "set", name, value) }
}

func rules(list ...string) func(*testing.T, *server) {
	return func(t *testing.T, s *server) {
		do(t, s, append([]any{"acl", "setuser", "tollgate"}, anys(list)...)...)
		hangUp(t, s)
	}
}

func troubles() []trouble {
	return []trouble{
		{"password changed", "WRONGPASS", false, false, rules("resetpass", ">other"), rules("resetpass", ">hunter2")},
		{"user switched off", "WRONGPASS", false, false, rules("off"), rules("on")},
		{"no right to read or spend", "NOPERM", false, false, rules("-get", "-evalsha", "-eval"), rules("+get", "+evalsha", "+eval")},
		{"no right to choose the database", "NOPERM", false, false, rules("-select"), rules("+select")},
		{"a replica without its master", "MASTERDOWN", false, false,
			func(t *testing.T, s *server) {
				do(t, s, "config", "set", "replica-serve-stale-data", "no")
				do(t, s, "replicaof", "127.0.0.1", "1")
			}, func(t *testing.T, s *server) { do(t, s, "replicaof", "no", "one") }},
		{"a replica", "READONLY", true, false,
			func(t *testing.T, s *server) {
				do(t, s, "config", "set", "replica-serve-stale-data", "yes")
				do(t, s, "replicaof", "127.0.0.1", "1")
			}, func(t *testing.T, s *server) { do(t, s, "replicaof", "no", "one") }},
		{"full", "OOM", true, false, config("maxmemory", 1), config("maxmemory", 0)},
		{"too few replicas", "NOREPLICAS", true, false, config("min-replicas-to-write", 1), config("min-replicas-to-write", 0)},
		{"loading", "LOADING", false, false, load, config("key-load-delay", 0)},
		{"cannot save", "MISCONF", true, false, failToSave, config("save", "")},
		{"too many clients", "max number of clients", false, true,
			func(t *testing.T, s *server) { do(t, s, "config", "set", "maxclients", 1); hangUp(t, s) }, config("maxclients", 1000)},
	}
}

// failToSave lets a snapshot fail, for want of a folder.
func failToSave(t *testing.T, s *server) {
	do(t, s, "config", "set", "save", "3600 1")
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	do(t, s, "bgsave")
	await(t, "the snapshot has failed", func(ctx context.Context) bool {
		return strings.Contains(s.admin.Info(ctx, "persistence").Val(), "rdb_last_bgsave_status:err")
	})
}

// load lets the server load its data, slowly.
func load(t *testing.T, s *server) {
	filler := make([]byte, 2<<10)
	for n := range 300 {
		_, _ = rand.Read(filler)
		do(t, s, "set", fmt.Sprint("filler", n), filler)
	}
	do(t, s, "config", "set", "key-load-delay", 20_000, "loading-process-events-interval-bytes", 1024)
	other := redis.NewClient(s.admin.Options())
	ended := make(chan struct{})
	go func() { defer close(ended); other.Do(context.Background(), "debug", "reload") }()
	t.Cleanup(func() { <-ended; other.Close() })
	await(t, "it loads", func(ctx context.Context) bool { return redis.IsLoadingError(s.admin.Get(ctx, "filler0").Err()) })
}

// steady is a server with keys that a cache knows, and what serves them.
type steady struct {
	client redis.UniversalClient
	cache  *cache.Cache
	leases *counters.Leases
	later  *atomic.Int64 // seconds
}

const known = 4

func newSteady(t *testing.T, url string) *steady {
	t.Helper()
	st := &steady{client: open(t, url), later: new(atomic.Int64)}
	began := time.Now()
	st.cache = cache.New(store.New(st.client), cache.Options{
		Timeout: 10 * time.Second, Now: func() time.Time { return began.Add(time.Duration(st.later.Load()) * time.Second) },
	})
	st.leases = counters.NewLeases(counters.NewStore(st.client, nil), counters.Options{Exact: true, Timeout: 10 * time.Second})
	for n := range known {
		if err := store.New(st.client).Create(t.Context(), newKey(n)); err != nil && !errors.Is(err, store.ErrExists) {
			t.Fatal(err)
		}
	}
	st.serves(t)
	return st
}

// serves looks up and spends as long as everything is right.
func (st *steady) serves(t *testing.T) {
	t.Helper()
	await(t, "the store serves again", func(context.Context) bool {
		st.later.Add(31)
		_, err := st.cache.Lookup(t.Context(), newKey(0).Digest)
		stale := st.cache.Stats().Stale
		for n := range known {
			_, e := st.cache.Lookup(t.Context(), newKey(n).Digest)
			err = errors.Join(err, e)
		}
		return err == nil && st.cache.Stats().Stale == stale && len(told(st.spend(t, 40))) == 0
	})
}

// spend spends the limits of so many keys at once: from 33 on in more than one script.
func (st *steady) spend(t *testing.T, n int) []error {
	list := make([]error, n)
	var work sync.WaitGroup
	for i := range list {
		work.Go(func() {
			_, list[i] = st.leases.Spend(t.Context(), &limits.Spend{ID: fmt.Sprint("spend", i), Windows: day(1_000_000), Cost: 1})
		})
	}
	work.Wait()
	return list
}

func told(list []error) (errs []error) {
	for _, err := range list {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// A Redis that answers and does not serve is a Redis that is away: known keys go on, spends fail by
// the store and not by their limits, and nothing is said to be corrupt or unknown. So it is at the
// greeting of a connection too, where go-redis leaves the commands of a pipeline without an error.
func TestStoreThatDoesNotServe(t *testing.T) {
	t.Parallel()
	s := start(t, func(s *server) []string { return []string{"--port", s.port, "--enable-debug-command", "local"} })
	do(t, s, append([]any{"acl", "setuser", "tollgate", "on", ">hunter2"}, anys(serverRules())...)...)
	do(t, s, "acl", "setuser", "tollgate", "+select")
	st := newSteady(t, "redis://tollgate:hunter2@"+s.address()+"/2")
	for _, trouble := range troubles() {
		t.Run(trouble.name, func(t *testing.T) {
			trouble.begin(t, s)
			st.suffers(t, trouble)
			trouble.heal(t, s)
			st.serves(t)
		})
	}
}

// The same where a client without a password meets a server that has got one.
func TestStoreThatAsksForAPassword(t *testing.T) {
	t.Parallel()
	s := start(t, plain)
	for _, url := range []string{"redis://" + s.address(), "redis://" + s.address() + "/2"} {
		st := newSteady(t, url)
		trouble := trouble{says: "NOAUTH", hangsUp: true} // on who sends much without a password
		do(t, s, "config", "set", "requirepass", "hunter2")
		// The administrator's connection was there before.
		hangUp(t, s)
		st.suffers(t, trouble)
		do(t, s, "config", "set", "requirepass", "")
		st.serves(t)
	}
}

// The same for a cluster that does not serve, and for clients that know clusters or not.
func TestClusterThatDoesNotServe(t *testing.T) {
	t.Parallel()
	node := startCluster(t, 1)[0]
	asServer(t, []*server{node}, serverRules()...)
	for url, trouble := range map[string]trouble{
		"redis://tollgate:hunter2@" + node.address(): {"no slots", "CLUSTERDOWN", false, false,
			func(t *testing.T, s *server) { do(t, s, "cluster", "delslotsrange", 0, 16383) },
			func(t *testing.T, s *server) { do(t, s, "cluster", "addslotsrange", 0, 16383) }},
		clusterURL([]*server{node}): {"password changed", "WRONGPASS", false, false, rules("resetpass", ">other"), rules("resetpass", ">hunter2")},
	} {
		st := newSteady(t, url)
		trouble.begin(t, node)
		st.suffers(t, trouble)
		trouble.heal(t, node)
		st.serves(t)
	}
}

// suffers checks what is said during a trouble.
func (st *steady) suffers(t *testing.T, trouble trouble) {
	t.Helper()
	st.later.Add(31) // all are to be read again
	for n := range known {
		if g, err := st.cache.Lookup(t.Context(), newKey(n).Digest); err != nil || g.ID() != newKey(n).ID {
			t.Errorf("a known key: %v", err)
		}
	}
	_, err := st.cache.Lookup(t.Context(), newKey(known+1).Digest)
	if trouble.serves {
		if !errors.Is(err, keys.ErrUnknown) {
			t.Errorf("a secret of nobody: %v", err)
		}
	} else {
		st.away(t, trouble, err)
	}
	// As the CLI does.
	if _, err := store.New(st.client).Lookup(t.Context(), newKey(0).Digest); !trouble.serves {
		st.away(t, trouble, err)
	}
	cli := admin.NewManager(store.New(st.client), nil, nil, nil, roles.Actor{Operator: true}, time.Now)
	if _, err := cli.Get(t.Context(), newKey(0).ID); !trouble.serves {
		st.away(t, trouble, err)
	}
	for _, err := range st.spend(t, 40) {
		st.away(t, trouble, err)
	}
	// Those that are not the first on their connections.
	for _, err := range st.spend(t, 40) {
		st.away(t, trouble, err)
	}
}

func (st *steady) away(t *testing.T, trouble trouble, err error) {
	t.Helper()
	var corrupt *keys.CorruptError
	var broken *limits.BrokenError
	switch {
	case err == nil, errors.Is(err, keys.ErrUnknown), errors.As(err, &corrupt), errors.As(err, &broken), errors.Is(err, redis.Nil):
		t.Errorf("taken for an answer: %v", err)
	case !strings.Contains(err.Error(), trouble.says) && !trouble.hangsUp:
		t.Errorf("%v: does not say %s", err, trouble.says)
	}
}
