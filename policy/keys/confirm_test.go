package keys

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

func TestRevokeWaitsForAReplica(t *testing.T) {
	t.Parallel()
	c, replica := keystest.WithReplica(t)
	ctx, m := t.Context(), operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	if _, err := m.Revoke(ctx, k.ID); err != nil {
		t.Fatalf("with a replica: %v", err)
	}
	// Confirmed means that the replica has it now.
	data, err := replica.Admin.Get(ctx, recordKey(k.ID)).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeRecord(data); err != nil || got.Status != Revoked {
		t.Errorf("the replica has %+v, %v", got, err)
	}
	wrote, n, err := m.store.WriteAndWait(ctx, keystest.Must[*Key](t)(m.Get(ctx, k.ID)), k2(t, m, k.ID), 1, time.Second)
	if err != nil || n != 1 || wrote.Version != 3 {
		t.Errorf("WriteAndWait = %v, %d, %v", wrote, n, err)
	}

	// A replica that is paused confirms nothing.
	settledKey, _ := mustCreate(t, m)
	keystest.Await(t, "the replica has all", func(ctx context.Context) bool {
		n, err := c.Wait(ctx, 1, 10*time.Millisecond).Result()
		return err == nil && n == 1
	})
	if err := replica.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// First a write whose connection has nothing else to wait for: to wait on another one would confirm it.
	if _, n, err := m.store.WriteAndWait(ctx, settledKey, settledKey, 1, 50*time.Millisecond); err != nil || n != 0 {
		t.Errorf("a paused replica confirms: %d, %v", n, err)
	}
	m.RequireReplicas(AnyReplica, 50*time.Millisecond)
	unconfirmed := func(what string) {
		t.Helper()
		k, secret := mustCreate(t, m)
		got, err := m.Revoke(ctx, k.ID)
		if !errors.Is(err, ErrUnconfirmed) || got == nil || got.Status != Revoked {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if k, err := m.store.Lookup(ctx, m.hasher.Digest(secret)); err != nil || k.Status != Revoked {
			t.Errorf("%s: the change is not made: %v, %v", what, k, err)
		}
	}
	unconfirmed("paused")
	m.RequireReplicas(2, 50*time.Millisecond)
	unconfirmed("two wanted")
	m.RequireReplicas(0, 0)
	k, _ = mustCreate(t, m)
	if _, err := m.Revoke(ctx, k.ID); err != nil {
		t.Errorf("none wanted: %v", err)
	}
	// So does one that is dead, although the primary no longer names it.
	if err := replica.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	state := func(what string, ok func(Replication) bool) {
		t.Helper()
		keystest.Await(t, what, func(ctx context.Context) bool {
			r, err := m.store.Replication(ctx, "key_any")
			return err == nil && ok(r)
		})
	}
	state("the replica is gone", func(r Replication) bool { return r == Replication{Expected: true} })
	m.RequireReplicas(1, 50*time.Millisecond)
	unconfirmed("killed, and wanted")
	m.RequireReplicas(AnyReplica, 50*time.Millisecond)
	unconfirmed("killed")
	k, _ = mustCreate(t, m)
	if _, err := m.Revoke(ctx, k.ID); err == nil || !strings.Contains(err.Error(), "has had replicas, and none is there now") {
		t.Errorf("killed: %v", err)
	}
	// When the primary has forgotten that it had one, the note says so, until that ends, too.
	if err := c.ConfigSet(ctx, "repl-backlog-ttl", "1").Err(); err != nil {
		t.Fatal(err)
	}
	keystest.Await(t, "the backlog is gone", func(ctx context.Context) bool {
		return strings.Contains(c.Info(ctx, "replication").Val(), "repl_backlog_active:0")
	})
	unconfirmed("long gone")
	if ttl := c.TTL(ctx, replicasKey).Val(); ttl <= replicasTTL-time.Minute || ttl > replicasTTL {
		t.Errorf("the note ends in %v", ttl)
	}
	c.Del(ctx, replicasKey)
	k, _ = mustCreate(t, m)
	if _, err := m.Revoke(ctx, k.ID); err != nil {
		t.Errorf("a store without replicas: %v", err)
	}
	// A primary that is told to write only with replicas should have some, whatever it has seen.
	if err := c.ConfigSet(ctx, "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	state("one is expected", func(r Replication) bool { return r == Replication{Expected: true} })
	if err := c.ConfigSet(ctx, "min-replicas-to-write", "0").Err(); err != nil {
		t.Fatal(err)
	}
	// What was refused is not confirmed either.
	if k, n, err := m.store.WriteAndWait(ctx, Sample(), Sample(), 1, time.Millisecond); !errors.Is(err, ErrNoKey) || k != nil || n != 0 {
		t.Errorf("an absent key: %v, %d, %v", k, n, err)
	}
}

func k2(t *testing.T, m *Manager, id string) *Key {
	k := keystest.Must[*Key](t)(m.Get(t.Context(), id))
	k.Note = "again"
	return k
}

// The connection is lost between the write and the WAIT.
func TestWaitThatIsLost(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	m.RequireReplicas(1, time.Second)
	c.AddHook(keystest.DieAlways("wait"))
	got, err := m.Revoke(t.Context(), k.ID)
	if !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, keystest.ErrDied) || got == nil || got.Status != Revoked {
		t.Errorf("Revoke = %v, %v", got, err)
	}
}

// Who cannot count the replicas still revokes, and says that nobody knows who has it.
func TestRevokeWithoutKnowingOfReplicas(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	c.AddHook(keystest.DieAlways("info"))
	got, err := m.Revoke(t.Context(), k.ID)
	if !errors.Is(err, ErrUnconfirmed) || got == nil || got.Status != Revoked {
		t.Errorf("Revoke = %v, %v", got, err)
	}
}

func TestClientsWithoutPrimary(t *testing.T) {
	embedded := keystest.NewEmbedded(t).(*redis.Client)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": embedded.Options().Addr}})
	t.Cleanup(func() { ring.Close() })
	ctx, m := t.Context(), operatorOf(ring, nil)
	k, _ := mustCreate(t, m)
	if _, err := m.store.Replication(ctx, k.ID); !errors.Is(err, errNoPrimary) {
		t.Errorf("Replication: %v", err)
	}
	if _, _, err := m.store.WriteAndWait(ctx, k, k, 1, time.Second); !errors.Is(err, errNoPrimary) {
		t.Errorf("WriteAndWait: %v", err)
	}
	if _, err := m.store.Repair(ctx, ""); !errors.Is(err, errNoPrimary) {
		t.Errorf("Repair: %v", err)
	}
	if _, err := m.Revoke(ctx, k.ID); err != nil {
		t.Errorf("Revoke: %v", err)
	}
}
