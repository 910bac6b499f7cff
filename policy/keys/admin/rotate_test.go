package admin

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

func testRotate(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	for _, test := range []struct {
		name           string
		expires, grace time.Duration // from now; expires 0 = never
		retires        time.Duration
	}{
		{"grace", 0, time.Hour, time.Hour},
		{"no grace", 0, 0, 0},
		{"grace before the expiry", 2 * time.Hour, time.Hour, time.Hour},
		{"grace after the expiry", time.Hour, 24 * time.Hour, time.Hour},
	} {
		old, secret := mustCreate(t, m, keystest.WithIPs("10.0.0.0/8"), func(k *keys.Key) {
			k.Note, k.Limits, k.AnchorDay = "note", []keys.Override{{Name: "minute", Requests: 5}}, 9
			if test.expires > 0 {
				k.ExpiresAt = keystest.Noon().Add(test.expires)
			}
		})
		next, second, err := m.Rotate(ctx, old.ID, test.grace)
		if err != nil {
			t.Fatal(test.name, err)
		}
		want := old.Clone()
		want.ID, want.RotatedFrom, want.Digest = next.ID, old.ID, m.hasher.Digest(second)
		if next.ID == old.ID || second == secret || !keys.HasChecksum(second, "pk_live_") || !reflect.DeepEqual(next, want) {
			t.Errorf("%s: the successor is %+v", test.name, next)
		}
		if got := keystest.Must[*keys.Key](t)(m.store.Lookup(ctx, m.hasher.Digest(second))); !reflect.DeepEqual(got, next) {
			t.Errorf("%s: stored is %+v", test.name, got)
		}
		retired := keystest.Must[*keys.Key](t)(m.store.Lookup(ctx, m.hasher.Digest(secret)))
		want = old.Clone()
		want.RotatedTo, want.RetiresAt, want.Version = next.ID, keystest.Noon().Add(test.retires), 2
		if !reflect.DeepEqual(retired, want) {
			t.Errorf("%s: the old key is %+v", test.name, retired)
		}
		end := keystest.Noon().Add(test.retires)
		if retired.Expired(end.Add(-1)) || !retired.Expired(end) {
			t.Errorf("%s: the old key ends otherwise", test.name)
		}
	}
	// The counters stay those of the first over any number of rotations.
	first, _ := mustCreate(t, m)
	last := first
	for range 3 {
		next, _, err := m.Rotate(ctx, last.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		last = next
	}
	if last.LimitID != first.ID || last.ID == first.ID {
		t.Errorf("the last one counts at %s", last.LimitID)
	}
	keystest.Consistent(t, c)
}

func testRotateRefuses(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	refuse := func(id string, want error) {
		t.Helper()
		before := len(c.Keys(ctx, "tg:v1:key:*").Val())
		next, secret, err := m.Rotate(ctx, id, time.Hour)
		if !errors.Is(err, want) || next != nil || secret != "" {
			t.Errorf("Rotate = %v, %v; want %v", next, err, want)
		}
		if n := len(c.Keys(ctx, "tg:v1:key:*").Val()); n != before {
			t.Error("a successor was left")
		}
	}
	k, _ := mustCreate(t, m)
	var fault *keys.FieldError
	if _, _, err := m.Rotate(ctx, k.ID, -1); !errors.As(err, &fault) || fault.Field != "grace" {
		t.Errorf("a negative grace: %v", err)
	}
	next, _, err := m.Rotate(ctx, k.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	refuse(k.ID, ErrRotated)
	var rotated *RotatedError
	if _, _, err := m.Rotate(ctx, k.ID, 0); !errors.As(err, &rotated) || rotated.To != next.ID || !strings.Contains(err.Error(), next.ID) {
		t.Errorf("%v", err)
	}
	keystest.Must[*keys.Key](t)(m.Deactivate(ctx, next.ID))
	refuse(next.ID, ErrInactive)
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, next.ID))
	refuse(next.ID, store.ErrFinal)
	refuse("key_none", store.ErrNoKey)
	expired, _, err := m.Create(ctx, liveKey(func(k *keys.Key) { k.ExpiresAt = keystest.Noon() }), true)
	if err != nil {
		t.Fatal(err)
	}
	refuse(expired.ID, ErrExpired)
	moon := keystest.Sample(func(k *keys.Key) { k.Environment = "moon" })
	if err := m.store.Create(ctx, moon); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Rotate(ctx, moon.ID, 0); !errors.As(err, &fault) || fault.Field != "environment" {
		t.Errorf("an environment that is gone: %v", err)
	}
}

// A key is rotated once, however many ask at a time, and the others leave nothing.
func testRotateRace(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, map[string]int{"free/live": 1})
	k, _ := mustCreate(t, m)
	errs := make([]error, 10)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, _, errs[i] = m.Rotate(ctx, k.ID, time.Hour) })
	}
	name := "meanwhile"
	if _, err := m.Update(ctx, k.ID, Patch{Name: &name}); err != nil {
		t.Error(err)
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrRotated) && !errors.Is(err, store.ErrCap) { // of two on their way the second is one key too many
			t.Error(err)
		}
	}
	if n := len(c.Keys(ctx, "tg:v1:key:*").Val()); won != 1 || n != 2 {
		t.Errorf("%d rotations and %d keys", won, n)
	}
	if got := keystest.Must[*keys.Key](t)(m.Get(ctx, k.ID)); got.Name != name {
		t.Errorf("the name is %s", got.Name)
	}
	keystest.Consistent(t, c)
}

// A key that stops being one to rotate in the middle of a rotation stays as it is, and no successor
// is left.
func TestRotateOvertaken(t *testing.T) {
	for name, test := range map[string]struct {
		overtake func(c redis.UniversalClient, m *Manager, id string) error
		want     error
	}{
		"revoked": {func(c redis.UniversalClient, m *Manager, id string) error {
			_, err := m.Revoke(t.Context(), id)
			return err
		}, store.ErrFinal},
		"deactivated": {func(c redis.UniversalClient, m *Manager, id string) error {
			_, err := m.Deactivate(t.Context(), id)
			return err
		}, ErrInactive},
		"deleted": {func(c redis.UniversalClient, m *Manager, id string) error {
			_, err := m.Revoke(t.Context(), id)
			_, deleted := m.Delete(t.Context(), id)
			return errors.Join(err, deleted)
		}, store.ErrDeleted},
		"away": {func(c redis.UniversalClient, m *Manager, id string) error { return c.Close() }, redis.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			c := keystest.NewEmbedded(t)
			m := operatorOf(c, nil)
			k, _ := mustCreate(t, m)
			var overtaken error
			c.AddHook(&keystest.Overtake{N: 1, Name: "evalsha", Argument: keystest.RecordKey(k.ID), Do: func() { overtaken = test.overtake(c, m, k.ID) }})
			next, secret, err := m.Rotate(t.Context(), k.ID, time.Hour)
			if overtaken != nil {
				t.Fatal(overtaken)
			}
			if !errors.Is(err, test.want) || next != nil || secret != "" {
				t.Errorf("Rotate = %v, %v; want %v", next, err, test.want)
			}
			if name == "away" {
				if !strings.Contains(err.Error(), "repair") {
					t.Errorf("the error does not say what to do: %v", err)
				}
				return
			}
			if n := len(c.Keys(t.Context(), "tg:v1:key:*").Val()); n != 1 {
				t.Errorf("%d keys", n)
			}
			keystest.Consistent(t, c)
		})
	}
}

// A successor never has rights that its key lost in the middle of the rotation.
func TestRotateMeetsAnUpdate(t *testing.T) {
	ctx, c := t.Context(), keystest.NewEmbedded(t)
	m := operatorOf(c, nil)
	k, _ := mustCreate(t, m, keystest.WithIPs("10.0.0.0/8"))
	less := Patch{IPs: &[]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Limits: &[]keys.Override{{Name: "minute", Requests: 1}}}
	var overtaken error
	c.AddHook(&keystest.Overtake{N: 1, Name: "evalsha", Argument: keystest.RecordKey(k.ID), Do: func() { _, overtaken = m.Update(ctx, k.ID, less) }})
	next, secret, err := m.Rotate(ctx, k.ID, time.Hour)
	if overtaken != nil || err != nil {
		t.Fatal(overtaken, err)
	}
	got := keystest.Must[*keys.Key](t)(m.store.Lookup(ctx, m.hasher.Digest(secret)))
	if !reflect.DeepEqual(got, next) || !reflect.DeepEqual(got.IPs, *less.IPs) || !reflect.DeepEqual(got.Limits, *less.Limits) {
		t.Errorf("the successor has %v and %v", got.IPs, got.Limits)
	}
	if n := len(c.Keys(ctx, "tg:v1:key:*").Val()); n != 2 {
		t.Errorf("%d keys", n)
	}
	keystest.Consistent(t, c)
}
