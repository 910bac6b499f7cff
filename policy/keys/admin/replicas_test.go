package admin

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

func TestRevokeWaitsForAReplica(t *testing.T) {
	t.Parallel()
	c, replica := keystest.WithReplica(t)
	ctx, m := t.Context(), operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	if _, err := m.Revoke(ctx, k.ID); err != nil {
		t.Fatalf("with a replica: %v", err)
	}
	// Confirmed means that the replica has it now.
	if got, err := replica.Admin.Get(ctx, keystest.RecordKey(k.ID)).Result(); err != nil || !strings.Contains(got, `"status":"revoked"`) {
		t.Errorf("the replica has %s, %v", got, err)
	}

	// A replica that is paused confirms nothing.
	if err := replica.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.RequireReplicas(AnyReplica, 50*time.Millisecond)
	unconfirmed := func(what string) {
		t.Helper()
		k, secret := mustCreate(t, m)
		got, err := m.Revoke(ctx, k.ID)
		if !errors.Is(err, ErrUnconfirmed) || got == nil || got.Status != keys.Revoked {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if k, err := m.store.Lookup(ctx, m.hasher.Digest(secret)); err != nil || k.Status != keys.Revoked {
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
	keystest.Await(t, "the replica is gone", func(ctx context.Context) bool {
		return strings.Contains(c.Info(ctx, "replication").Val(), "connected_slaves:0")
	})
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
	c.Del(ctx, keystest.Replicas)
	k, _ = mustCreate(t, m)
	if _, err := m.Revoke(ctx, k.ID); err != nil {
		t.Errorf("a store without replicas: %v", err)
	}
}

// The connection is lost between the write and the WAIT.
func TestRevokeWhoseWaitIsLost(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	m.RequireReplicas(1, time.Second)
	c.AddHook(keystest.DieAlways("wait"))
	got, err := m.Revoke(t.Context(), k.ID)
	if !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, keystest.ErrDied) || got == nil || got.Status != keys.Revoked {
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
	if !errors.Is(err, ErrUnconfirmed) || got == nil || got.Status != keys.Revoked {
		t.Errorf("Revoke = %v, %v", got, err)
	}
}

func TestRevokeWithAClientWithoutPrimary(t *testing.T) {
	embedded := keystest.NewEmbedded(t).(*redis.Client)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": embedded.Options().Addr}})
	t.Cleanup(func() { ring.Close() })
	m := operatorOf(ring, nil)
	k, _ := mustCreate(t, m)
	if _, err := m.Revoke(t.Context(), k.ID); err != nil {
		t.Errorf("Revoke: %v", err)
	}
}
