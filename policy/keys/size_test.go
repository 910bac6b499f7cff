package keys

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"
)

// Nobody makes a key too large, and one that is can be read, shortened and ended.
func TestLargeKeys(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := operatorOf(c, nil)
	ctx := t.Context()
	key := func(n int) Key {
		return Key{API: "pictify", Team: "orbit", Name: "site", Environment: "live", Plan: "free", Scopes: []string{"render"}, IPs: keystest.Addresses(n)}
	}
	var field *FieldError
	if _, _, err := m.Create(ctx, key(MaxAddresses+1), false); !errors.As(err, &field) || field.Error() != "ips: 1001 are more than the 1000 that a key may have" {
		t.Errorf("create: %v", err)
	}
	k, _, err := m.Create(ctx, key(MaxAddresses), false)
	if err != nil {
		t.Fatal(err)
	}
	update := func(k *Key, n int) error {
		ips := keystest.Addresses(n)
		_, err := m.Update(ctx, k.ID, Patch{IPs: &ips})
		return err
	}
	if err := update(k, MaxAddresses+1); !errors.As(err, &field) {
		t.Errorf("update: %v", err)
	}

	large := Sample(func(k *Key) {
		k.ID, k.LimitID, k.API, k.Team, k.Environment, k.Plan = "key_large", "key_large", "pictify", "orbit", "live", "free"
		k.IPs, k.Scopes, k.Limits = keystest.Addresses(131_072), []string{"render"}, nil
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
	if err := update(large, 131_071); err != nil {
		t.Errorf("a shorter list: %v", err)
	}
	if got, err := m.Get(ctx, large.ID); err != nil || len(got.IPs) != 131_071 {
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

func TestCheckSize(t *testing.T) {
	k := Sample(func(k *Key) { k.IPs, k.API = keystest.Addresses(2000), "wide" })
	if err := CheckSize(k, plainRules{}); err != nil {
		t.Errorf("the policy says more: %v", err)
	}
	for i := range 1000 {
		k.Scopes = append(k.Scopes, fmt.Sprintf("%0100d", i))
	}
	k.IPs, k.API = nil, "pictify"
	if err := CheckSize(k, plainRules{}); err == nil || !strings.HasPrefix(err.Error(), "scopes: the record would have 10") {
		t.Error(err)
	}
}

// Time and memory grow with a file, whatever it holds.
func TestFilesOfBracketsAndLongLists(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, deep := range []string{"[", "- ", "? ", "&a ", "!a ", "[{a: "} {
		text := "keys:\n- id: " + strings.Repeat(deep, 64_000)
		if _, err := ParseFile("k", []byte(text)); err == nil || !strings.Contains(err.Error(), "nested too deep") {
			t.Errorf("%s: %.200v", deep, err)
		}
		ParseItem(text, 1, func(_ int, _ Entry, err error) bool {
			if err == nil || !strings.Contains(err.Error(), "nested too deep") {
				t.Errorf("%s: %.200v", deep, err)
			}
			return true
		})
	}
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 12*64<<20 {
		t.Errorf("%d MiB for 12 files of brackets", spent>>20)
	}
	if _, err := ParseFile("k", []byte("keys: ["+strings.Repeat("a,", 600_000)+"]")); err == nil || !strings.Contains(err.Error(), "words and signs that are read") {
		t.Errorf("%.200v", err)
	}
	var scopes []string
	for i := range 100_000 {
		scopes = append(scopes, fmt.Sprintf("s%d", i))
	}
	began := time.Now()
	k := Sample(func(k *Key) { k.Scopes = append(scopes, "s5") })
	if err := k.Validate(); err == nil || err.Error() != `scopes[100000]: "s5" is named twice` {
		t.Error(err)
	}
	if spent := time.Since(began); spent > 5*time.Second {
		t.Errorf("100,000 scopes took %v", spent)
	}
}
