package admin

import (
	"context"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

func TestManagerLifecycle(t *testing.T) {
	keystest.Parts{
		"manager": testManager, "manager refuses": testManagerRefuses, "lost update": testNoLostUpdate, "conflict": testConflict,
		"rotate": testRotate, "rotate refuses": testRotateRefuses, "rotate race": testRotateRace, "verify": testVerify,
		"caps race": testCapsRace, "caps of changes": testCapsOfChanges, "caps of lines": testCapsOfLines,
		"one message": testOneMessage, "crashes": testCrashes, "members": testMembersAndKeys, "audited": testChangesAreAudited,
		"entitlement": testEntitlement, "texts": testTextsHoldNoSecret, "plans": testSetPlans,
		"extras": testExtras, "limits are reset": testResetLimits, "clients": testManagerOfClients, "clients are no keys": testClientsAreNoKeys, "seed is audited": testSeedIsAudited, "repair is audited": testRepairIsAudited,
	}.OnEveryStore(t, asCommand())
}

// dieAt ends the command that brings its count to zero, and all after it, before they are sent: a
// crash there.
type dieAt struct{ left atomic.Int64 }

func (d *dieAt) DialHook(next redis.DialHook) redis.DialHook { return next }
func (d *dieAt) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if d.left.Add(-1) < 0 {
			cmd.SetErr(keystest.ErrDied)
			return keystest.ErrDied
		}
		return next(ctx, cmd)
	}
}

func (d *dieAt) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		left := max(d.left.Add(-int64(len(cmds)))+int64(len(cmds)), 0)
		if left >= int64(len(cmds)) {
			return next(ctx, cmds)
		}
		if left > 0 {
			next(ctx, cmds[:left])
		}
		for _, cmd := range cmds[left:] {
			cmd.SetErr(keystest.ErrDied)
		}
		return keystest.ErrDied
	}
}

const lives = 1 << 40

// later makes a client's clock of the store run ahead by so much that nothing is too young to be
// repaired.
type later struct{ by time.Duration }

func (l later) DialHook(next redis.DialHook) redis.DialHook { return next }
func (l later) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (l later) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if now, ok := cmd.(*redis.TimeCmd); ok && err == nil {
			now.SetVal(now.Val().Add(l.by))
		}
		return err
	}
}

// testCrashes makes every operation of several steps die at every step, looks for half keys that
// work, repairs, and makes the operation again.
func testCrashes(t *testing.T, c redis.UniversalClient) {
	crash := &dieAt{}
	crash.left.Store(lives)
	c.AddHook(crash)
	c.AddHook(later{2 * time.Minute})
	ctx, m := t.Context(), operatorOf(c, map[string]int{"free/live": 5})
	s := m.store
	var k *keys.Key
	make1 := func(status keys.Status) func() {
		return func() {
			k, _ = mustCreate(t, m)
			if status == keys.Revoked {
				k = keystest.Must[*keys.Key](t)(m.Revoke(ctx, k.ID))
			}
		}
	}
	usable := func(d keys.Digest) bool {
		k, err := s.Lookup(ctx, d)
		return err == nil && k.Status == keys.Active
	}
	active := func() (n int) {
		for _, name := range c.Keys(ctx, "tg:v1:secret:*").Val() {
			if usable(digestFromHex(name)) {
				n++
			}
		}
		return n
	}
	from, to := keys.Digest{}, keys.Digest{77}
	for _, op := range []struct {
		name   string
		before func()
		do     func() error
		half   func(t *testing.T) // what must hold after the crash
		again  bool               // the operation can be made again
	}{
		{"create", func() {}, func() error { _, _, err := m.Create(ctx, liveKey(), false); return err },
			func(t *testing.T) {
				if n := active(); n > 1 {
					t.Errorf("%d keys work", n)
				}
			}, true},
		{"revoke", make1(keys.Active), func() error { _, err := m.Revoke(ctx, k.ID); return err }, func(*testing.T) {}, true},
		{"delete", make1(keys.Revoked), func() error { return s.Delete(ctx, k) },
			func(t *testing.T) {
				if n := active(); n != 0 {
					t.Errorf("%d keys work", n)
				}
			}, false},
		{"rehash", func() { make1(keys.Active)(); from = k.Digest }, func() error { return s.Rehash(ctx, k.ID, from, to) },
			func(t *testing.T) {
				// A server asks by the new digest first, and by the old one only if that is
				// unknown.
				if _, err := s.Lookup(ctx, to); err != nil && (!errors.Is(err, keys.ErrUnknown) || !usable(from)) {
					t.Errorf("the key does not work: %v", err)
				}
				// No other key can have the secret by either.
				if got := c.Get(ctx, keystest.SecretKey(from)).Val(); got != k.ID && got != "former:"+k.ID {
					t.Errorf("the place of the old digest holds %q", got)
				}
			}, true},
		{"rotate", make1(keys.Active), func() error { _, _, err := m.Rotate(ctx, k.ID, time.Hour); return err },
			func(t *testing.T) {
				old, err := s.Lookup(ctx, k.Digest)
				if err != nil || old.Status != keys.Active {
					t.Fatalf("the old key does not work: %v, %v", old, err)
				}
				// It never ends without a successor that works.
				if old.RotatedTo == "" {
					if !old.RetiresAt.IsZero() {
						t.Error("the old key ends for nothing")
					}
					return
				}
				next, err := s.Get(ctx, old.RotatedTo)
				if err != nil || !usable(next.Digest) {
					t.Errorf("the old key ends, and its successor does not work: %v, %v", next, err)
				}
			}, false},
		{"deactivate", make1(keys.Active), func() error { _, err := m.Deactivate(ctx, k.ID); return err }, func(*testing.T) {}, true},
	} {
		t.Run(op.name, func(t *testing.T) {
			for n := int64(0); ; n++ {
				keystest.Empty(t, c)
				op.before()
				crash.left.Store(n)
				err := op.do()
				crash.left.Store(lives)
				op.half(t)
				if err == nil {
					if n < 2 {
						t.Fatalf("all done in %d steps", n)
					}
					keystest.Consistent(t, c)
					return
				}
				if !errors.Is(err, keystest.ErrDied) {
					t.Fatalf("step %d: %v", n, err)
				}
				if _, err := s.Repair(ctx, ""); err != nil {
					t.Fatalf("step %d: repair: %v", n, err)
				}
				op.half(t)
				keystest.Consistent(t, c)
				if again, err := s.Repair(ctx, ""); err != nil || !reflect.DeepEqual(again, store.RepairReport{Checked: again.Checked}) {
					t.Errorf("step %d: a second repair did %+v, %v", n, again, err)
				}
				if !op.again {
					continue
				}
				if err := op.do(); err != nil {
					t.Errorf("step %d: again: %v", n, err)
				}
				keystest.Consistent(t, c)
				if t.Failed() {
					t.Fatalf("step %d", n)
				}
			}
		})
	}
}

func digestFromHex(name string) keys.Digest {
	var d keys.Digest
	if _, err := hex.Decode(d[:], []byte(strings.TrimPrefix(name, "tg:v1:secret:"))); err != nil {
		panic(err)
	}
	return d
}
