package store

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

// expectReplication waits for what is known of the replicas.
func expectReplication(t *testing.T, s *Store, what string, want Replication) {
	t.Helper()
	keystest.Await(t, what, func(ctx context.Context) bool {
		r, err := s.Replication(ctx, "key_any")
		return err == nil && r == want
	})
}

func TestWriteWaitsForAReplica(t *testing.T) {
	t.Parallel()
	c, replica := keystest.WithReplica(t)
	ctx, s, k := t.Context(), New(c), keystest.Sample()
	expectReplication(t, s, "it is online", Replication{Online: 1, Expected: true})
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	next := k.Clone()
	next.Note = "again"
	wrote, n, err := s.WriteAndWait(ctx, k, next, 1, time.Second)
	if err != nil || n != 1 || wrote.Version != 2 {
		t.Errorf("WriteAndWait = %v, %d, %v", wrote, n, err)
	}
	// Confirmed means that the replica has it now.
	data, err := replica.Admin.Get(ctx, recordKey(k.ID)).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeRecord(data); err != nil || got.Note != "again" {
		t.Errorf("the replica has %+v, %v", got, err)
	}
	// A replica that is paused confirms nothing. The connection of the write has nothing else to
	// wait for: to wait on another one would confirm it.
	keystest.Await(t, "the replica has all", func(ctx context.Context) bool {
		n, err := c.Wait(ctx, 1, 10*time.Millisecond).Result()
		return err == nil && n == 1
	})
	if err := replica.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, n, err := s.WriteAndWait(ctx, wrote, wrote, 1, 50*time.Millisecond); err != nil || n != 0 {
		t.Errorf("a paused replica confirms: %d, %v", n, err)
	}
	// What was refused is not confirmed either.
	absent := keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID = "key_absent", "key_absent" })
	if k, n, err := s.WriteAndWait(ctx, absent, absent, 1, time.Millisecond); !errors.Is(err, ErrNoKey) || k != nil || n != 0 {
		t.Errorf("an absent key: %v, %d, %v", k, n, err)
	}
}

func TestReplicasThatAreGoneAreExpected(t *testing.T) {
	t.Parallel()
	c, replica := keystest.WithReplica(t)
	ctx, s := t.Context(), New(c)
	if err := s.NoteReplicas(ctx, "key_any"); err != nil {
		t.Fatal(err)
	}
	if err := replica.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	expectReplication(t, s, "the replica is gone", Replication{Expected: true})
	// When the primary has forgotten that it had one, the note says so, until that ends, too.
	if err := c.ConfigSet(ctx, "repl-backlog-ttl", "1").Err(); err != nil {
		t.Fatal(err)
	}
	keystest.Await(t, "the backlog is gone", func(ctx context.Context) bool {
		return strings.Contains(c.Info(ctx, "replication").Val(), "repl_backlog_active:0")
	})
	expectReplication(t, s, "it is noted", Replication{Expected: true})
	if ttl := c.TTL(ctx, replicasKey).Val(); ttl <= replicasTTL-time.Minute || ttl > replicasTTL {
		t.Errorf("the note ends in %v", ttl)
	}
	c.Del(ctx, replicasKey)
	expectReplication(t, s, "a store without replicas", Replication{})
	// A primary that is told to write only with replicas should have some, whatever it has seen.
	if err := c.ConfigSet(ctx, "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	expectReplication(t, s, "one is expected", Replication{Expected: true})
}

// The connection is lost between the write and the WAIT: the change is made, and nobody knows who
// has it.
func TestWaitThatIsLost(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s, k := New(c), keystest.Sample()
	if err := s.Create(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	c.AddHook(keystest.DieAlways("wait"))
	if got, n, err := s.WriteAndWait(t.Context(), k, k, 1, time.Second); !errors.Is(err, keystest.ErrDied) || got == nil || n != 0 {
		t.Errorf("WriteAndWait = %v, %d, %v", got, n, err)
	}
}

// Not to be able to count the replicas is not to have none.
func TestReplicasThatNobodyMayCount(t *testing.T) {
	c := keystest.NewEmbedded(t)
	c.AddHook(keystest.DieAlways("info"))
	if _, err := New(c).Replication(t.Context(), "key_any"); !errors.Is(err, keystest.ErrDied) {
		t.Errorf("Replication: %v", err)
	}
}

func TestClientsWithoutPrimary(t *testing.T) {
	embedded := keystest.NewEmbedded(t).(*redis.Client)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": embedded.Options().Addr}})
	t.Cleanup(func() { ring.Close() })
	ctx, s, k := t.Context(), New(ring), keystest.Sample()
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replication(ctx, k.ID); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("Replication: %v", err)
	}
	if _, _, err := s.WriteAndWait(ctx, k, k, 1, time.Second); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("WriteAndWait: %v", err)
	}
	if _, err := s.Repair(ctx, ""); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("Repair: %v", err)
	}
}
