package admin

import (
	"errors"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// Nobody makes a key too large, and one that is can be read, shortened and ended.
func TestLargeKeys(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := operatorOf(c, nil)
	ctx := t.Context()
	key := func(n int) keys.Key {
		return keys.Key{API: "pictify", Team: "orbit", Name: "site", Environment: "live", Plan: "free", Scopes: []string{"render"}, IPs: keystest.Addresses(n)}
	}
	var field *keys.FieldError
	if _, _, err := m.Create(ctx, key(keys.MaxAddresses+1), false); !errors.As(err, &field) || field.Error() != "ips: 1001 are more than the 1000 that a key may have" {
		t.Errorf("create: %v", err)
	}
	k, _, err := m.Create(ctx, key(keys.MaxAddresses), false)
	if err != nil {
		t.Fatal(err)
	}
	update := func(k *keys.Key, n int) error {
		ips := keystest.Addresses(n)
		_, err := m.Update(ctx, k.ID, Patch{IPs: &ips})
		return err
	}
	if err := update(k, keys.MaxAddresses+1); !errors.As(err, &field) {
		t.Errorf("update: %v", err)
	}

	large := keystest.Sample(func(k *keys.Key) {
		k.ID, k.LimitID, k.API, k.Team, k.Environment, k.Plan = "key_large", "key_large", "pictify", "orbit", "live", "free"
		k.IPs, k.Scopes, k.Limits = keystest.Addresses(32_768), []string{"render"}, nil
	})
	if err := m.store.Create(ctx, large); err != nil {
		t.Fatal(err)
	}
	note := "n"
	if _, err := m.Update(ctx, large.ID, Patch{Note: &note}); !errors.As(err, &field) {
		t.Errorf("a large key grows: %v", err)
	}
	if _, _, err := m.Rotate(ctx, large.ID, time.Hour); !errors.As(err, &field) {
		t.Errorf("a large key has a successor: %v", err)
	}
	if err := update(large, 32_767); err != nil {
		t.Errorf("a shorter list: %v", err)
	}
	if got, err := m.Get(ctx, large.ID); err != nil || len(got.IPs) != 32_767 {
		t.Errorf("read: %v", err)
	}
	for _, end := range []func() error{
		func() error { _, err := m.Deactivate(ctx, large.ID); return err },
		func() error { _, err := m.Revoke(ctx, large.ID); return err },
		func() error { _, err := m.Delete(ctx, large.ID); return err },
	} {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}
