package admin

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

func testCapsRace(t *testing.T, c redis.UniversalClient) {
	m := operatorOf(c, map[string]int{"free/live": 7})
	errs := make([]error, 50)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			_, _, errs[i] = m.Create(t.Context(), liveKey(func(k *keys.Key) { k.Name = fmt.Sprint(i) }), false)
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, store.ErrCap) {
			t.Error(err)
		}
	}
	if made != 7 {
		t.Errorf("%d of 50 were made, want 7", made)
	}
	if page, _, err := m.List(t.Context(), store.Filter{API: "pictify", Status: []keys.Status{keys.Active}}, "", 100); len(page) != 7 || err != nil {
		t.Errorf("%d keys stand, %v", len(page), err)
	}
	keystest.Consistent(t, c)
}

func testCapsOfChanges(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, map[string]int{"free/live": 2, "pro/live": 3})
	a, _ := mustCreate(t, m)
	b, _ := mustCreate(t, m)
	full := func(what string, f func() error) {
		t.Helper()
		if err := f(); !errors.Is(err, store.ErrCap) {
			t.Errorf("%s: %v, want the cap", what, err)
		}
	}
	create := func(edits ...func(*keys.Key)) func() error {
		return func() error { _, _, err := m.Create(ctx, liveKey(edits...), false); return err }
	}
	full("create", create())
	inactive, _ := mustCreate(t, m, func(k *keys.Key) { k.Status = keys.Inactive })
	full("activate", func() error { _, err := m.Activate(ctx, inactive.ID); return err })
	pro, _ := mustCreate(t, m, func(k *keys.Key) { k.Plan = "pro" })
	free := "free"
	full("update of the plan", func() error { _, err := m.Update(ctx, pro.ID, Patch{Plan: &free}); return err })
	// Other changes of a key that counts are under no cap.
	keystest.Must[*keys.Key](t)(m.Update(ctx, a.ID, Patch{Note: &free}))
	keystest.Must[*keys.Key](t)(m.Activate(ctx, a.ID))
	// A rotation takes no place, neither while the grace lasts nor after it.
	next, _, err := m.Rotate(ctx, a.ID, 1e9)
	if err != nil {
		t.Fatal(err)
	}
	full("create after a rotation", create())
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, a.ID))
	full("create after revoking what was rotated", create())
	keystest.Must[*keys.Key](t)(m.Deactivate(ctx, pro.ID))
	keystest.Must[*keys.Key](t)(m.Deactivate(ctx, b.ID))
	keystest.Must[*keys.Key](t)(m.Activate(ctx, inactive.ID))
	full("activate again", func() error { _, err := m.Activate(ctx, b.ID); return err })
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, next.ID))
	keystest.Must[*keys.Key](t)(m.Activate(ctx, b.ID))
	full("create at the end", create())
	keystest.Consistent(t, c)
	var fault *keys.FieldError
	if err := create(func(k *keys.Key) { k.Team = "" })(); !errors.As(err, &fault) || fault.Field != "team" {
		t.Errorf("without a team: %v", err)
	}
	if err := create(func(k *keys.Key) { k.Team, k.Plan = "", "enterprise" })(); err != nil {
		t.Errorf("without a team and a cap: %v", err)
	}
}

// Who rotates gains no key: neither by ending the successor instead of the old key, nor by rotating
// again and again.
func testCapsOfLines(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, map[string]int{"free/live": 2, "pro/live": 1})
	m.now = time.Now // a grace ends by the clock of the store
	create := func() error {
		_, _, err := m.Create(ctx, liveKey(func(k *keys.Key) { k.Team = "lines" }), false)
		return err
	}
	first, _ := mustCreate(t, m, func(k *keys.Key) { k.Team = "lines" })
	second, _, err := m.Rotate(ctx, first.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, second.ID))
	if err := create(); err != nil { // the old key and this one
		t.Fatal(err)
	}
	if err := create(); !errors.Is(err, store.ErrCap) {
		t.Errorf("beside a key in its grace without a successor: %v", err)
	}
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, first.ID))
	third, _ := mustCreate(t, m, func(k *keys.Key) { k.Team = "lines" })
	fourth, _, err := m.Rotate(ctx, third.ID, time.Hour)
	if err != nil {
		t.Fatalf("a rotation where the cap is reached: %v", err)
	}
	if next, secret, err := m.Rotate(ctx, fourth.ID, time.Hour); !errors.Is(err, store.ErrCap) || next != nil || secret != "" {
		t.Errorf("a third key of a line: %v", err)
	}
	// A key that was switched off in its grace comes back to its place.
	keystest.Must[*keys.Key](t)(m.Deactivate(ctx, third.ID))
	keystest.Must[*keys.Key](t)(m.Activate(ctx, third.ID))
	keystest.Must[*keys.Key](t)(m.Deactivate(ctx, third.ID))
	if _, _, err = m.Rotate(ctx, fourth.ID, 0); err != nil {
		t.Errorf("when the grace of the first is over: %v", err)
	}
	if _, err := m.Activate(ctx, third.ID); err != nil {
		t.Errorf("of a rotation whose older key has ended: %v", err)
	}
	if err := create(); !errors.Is(err, store.ErrCap) {
		t.Errorf("two lines: %v", err)
	}
	// A smaller plan counts what is there.
	pro := "pro"
	if _, err := m.Update(ctx, third.ID, Patch{Plan: &pro}); !errors.Is(err, store.ErrCap) {
		t.Errorf("onto a smaller plan: %v", err)
	}
	keystest.Consistent(t, c)
}
