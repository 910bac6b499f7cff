package admin

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

func testVerify(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	now := keystest.Noon()
	m.now = func() time.Time { return now }
	m.hasher = keys.NewHasher([]byte("pepper"), keys.Method{Pepper: []byte("old")}, keys.Method{Algorithm: keys.AlgorithmSHA256})
	k, secret := mustCreate(t, m, func(k *keys.Key) { k.ExpiresAt = keystest.Noon().Add(2 * time.Hour) })
	expect := func(secret string, id string, want VerifyStatus) {
		t.Helper()
		got, status, err := m.Verify(ctx, secret)
		if err != nil || status != want || (got == nil) != (id == "") || got != nil && got.ID != id {
			t.Errorf("Verify = %v, %s, %v; want %s", got, status, err, want)
		}
	}
	expect(secret, k.ID, VerifyActive)
	for _, around := range []string{" %s", "%s\n", "\"%s\"", "'%s'\r\n", "\t`%s` ", "\u201c%s\u201d"} {
		expect(strings.Replace(around, "%s", secret, 1), k.ID, VerifyActive)
	}
	for _, bad := range []string{"", "short", secret[:20] + " " + secret[20:], strings.Repeat("x", 513), "ü" + secret} {
		expect(bad, "", VerifyMalformed)
	}
	expect(keys.NewSecret("pk_live_"), "", VerifyUnknown)
	// What nobody but Verify trims.
	if _, err := m.store.Lookup(ctx, m.hasher.Digest(" "+secret)); !errors.Is(err, keys.ErrUnknown) {
		t.Errorf("Lookup with a space: %v", err)
	}
	for i, legacy := range []string{keys.NewSecret("a_"), keys.NewSecret("b_")} {
		old := keystest.Sample(func(k *keys.Key) {
			k.ID, k.Digest = "key_old"+legacy[:1], m.hasher.OlderDigest(i, legacy)
		})
		if err := m.store.Create(ctx, old); err != nil {
			t.Fatal(err)
		}
		expect(legacy, old.ID, VerifyActive)
	}
	if err := m.store.Touch(ctx, []store.Use{{ID: k.ID, At: now}}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := m.Verify(ctx, secret); got == nil || !got.LastUsed.Equal(now) {
		t.Errorf("last used: %v", got)
	}
	keystest.Must[*keys.Key](t)(m.Deactivate(ctx, k.ID))
	expect(secret, k.ID, VerifyInactive)
	keystest.Must[*keys.Key](t)(m.Activate(ctx, k.ID))
	next, second, err := m.Rotate(ctx, k.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	expect(secret, k.ID, VerifyActive)
	now = now.Add(time.Hour)
	expect(secret, k.ID, VerifyRetired)
	expect(second, next.ID, VerifyActive)
	now = now.Add(time.Hour)
	expect(secret, k.ID, VerifyRetired)
	expect(second, next.ID, VerifyExpired)
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, k.ID))
	expect(secret, k.ID, VerifyRevoked)
	keystest.Must[*keys.Key](t)(m.Delete(ctx, k.ID))
	expect(secret, "", VerifyUnknown)

	other := keys.NewSecret("pk_live_")
	full := keystest.Sample(func(k *keys.Key) { k.ID, k.Status, k.Digest = "key_tomb", keys.Deleted, m.hasher.Digest(other) })
	if err := m.store.Create(ctx, full); err != nil {
		t.Fatal(err)
	}
	expect(other, "", VerifyUnknown)
	c.Set(ctx, keystest.RecordKey(next.ID), "{", 0)
	_, _, err = m.Verify(ctx, second)
	var corrupt *keys.CorruptError
	if !errors.As(err, &corrupt) || corrupt.ID != next.ID || !strings.Contains(err.Error(), "not a record") {
		t.Errorf("verify: %v", err)
	}
}
