package admin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

func TestSeed(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		ctx, s, h := t.Context(), store.New(c), keys.NewHasher([]byte("pepper"))
		secret, second := keys.NewSecret("pb_"), keys.NewSecret("pb_")
		file := func() []keyfile.Entry {
			plain, hashed := keystest.Sample(), keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_hash", h.Digest(second) })
			plain.Digest = keys.Digest{}
			return []keyfile.Entry{{Key: *plain, Secret: secret}, {Key: *hashed}}
		}
		entries := file()
		if added, err := Seed(ctx, s, entries, h); added != 2 || err != nil {
			t.Fatalf("Seed = %d, %v", added, err)
		}
		if entries[0].Plaintext() || entries[0].Key.Digest != h.Digest(secret) {
			t.Error("the secret was not replaced by its digest")
		}
		for _, secret := range []string{secret, second} {
			if _, err := s.Lookup(ctx, h.Digest(secret)); err != nil {
				t.Error(err)
			}
		}
		// Nothing that stands is changed or revived, whatever the file says.
		for _, e := range entries {
			revoked := e.Key
			revoked.Status = keys.Revoked
			if _, err := s.Write(ctx, &e.Key, &revoked); err != nil {
				t.Fatal(err)
			}
		}
		gone := keystest.Must[*keys.Key](t)(s.Get(ctx, "key_hash"))
		if err := s.Delete(ctx, gone); err != nil {
			t.Fatal(err)
		}
		c.Del(ctx, keystest.SecretKey(h.Digest(second)))
		third := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_third", keys.Digest{3} })
		if added, err := Seed(ctx, s, append(file(), keyfile.Entry{Key: *third}), h); added != 1 || err != nil {
			t.Fatalf("Seed again = %d, %v", added, err)
		}
		if k, err := s.Lookup(ctx, h.Digest(secret)); err != nil || k.Status != keys.Revoked {
			t.Errorf("the revoked key is %+v, %v", k, err)
		}
		if _, err := s.Lookup(ctx, h.Digest(second)); !errors.Is(err, keys.ErrUnknown) {
			t.Errorf("the deleted key is back: %v", err)
		}
	})
}

func TestSeedRefuses(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s, h := store.New(c), keys.NewHasher(nil)
	secret := keys.NewSecret("pb_")
	plain := func(id string) keyfile.Entry {
		return keyfile.Entry{Key: *keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = id, keys.Digest{} }), Secret: secret}
	}
	hashed := func(id string, d keys.Digest) keyfile.Entry {
		return keyfile.Entry{Key: *keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = id, d })}
	}
	none := plain("key_none")
	none.Secret = ""
	for name, entries := range map[string][]keyfile.Entry{
		"one secret twice, plain and hashed": {plain("key_one1"), hashed("key_two2", h.Digest(secret))},
		"neither secret nor hash":            {hashed("key_one1", keys.Digest{1}), none},
		"an invalid key":                     {hashed("key_one1", keys.Digest{1}), hashed("x", keys.Digest{2})},
	} {
		if added, err := Seed(t.Context(), s, entries, h); err == nil || added != 0 || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %d, %v", name, added, err)
		}
	}
	if _, err := Seed(t.Context(), s, []keyfile.Entry{plain("key_one1")}, nil); err == nil {
		t.Error("a plain secret without a hasher passed")
	}
	if n := c.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys were written", n)
	}
	if err := s.Create(t.Context(), keystest.Sample()); err != nil {
		t.Fatal(err)
	}
	added, err := Seed(t.Context(), s, []keyfile.Entry{hashed("key_one1", keys.Digest{1}), hashed("key_two2", keystest.Sample().Digest)}, nil)
	if added != 1 || !errors.Is(err, store.ErrSecretTaken) || !strings.Contains(err.Error(), "key_two2") {
		t.Errorf("a secret of another key: %d, %v", added, err)
	}
	ended, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := Seed(ended, store.New(keystest.NewSilent(t)), []keyfile.Entry{hashed("key_six6", keys.Digest{6})}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a store that does not answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if added, err := Seed(ctx, s, []keyfile.Entry{hashed("key_six6", keys.Digest{6})}, nil); added != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled seed: %d, %v", added, err)
	}
}
