package keys

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

func TestSeed(t *testing.T) {
	keystest.OnEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		ctx, s, h := t.Context(), NewStore(c), NewHasher([]byte("pepper"))
		secret, second := NewSecret("pb_"), NewSecret("pb_")
		file := func() []Entry {
			plain, hashed := Sample(), Sample(func(k *Key) { k.ID, k.Digest = "key_hash", h.Digest(second) })
			plain.Digest = Digest{}
			return []Entry{{Key: *plain, Secret: secret}, {Key: *hashed}}
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
			revoked.Status = Revoked
			if _, err := s.Write(ctx, &e.Key, &revoked); err != nil {
				t.Fatal(err)
			}
		}
		gone := keystest.Must[*Key](t)(s.Get(ctx, "key_hash"))
		if err := s.Delete(ctx, gone); err != nil {
			t.Fatal(err)
		}
		c.Del(ctx, keystest.SecretKey(h.Digest(second)))
		third := Sample(func(k *Key) { k.ID, k.Digest = "key_third", Digest{3} })
		if added, err := Seed(ctx, s, append(file(), Entry{Key: *third}), h); added != 1 || err != nil {
			t.Fatalf("Seed again = %d, %v", added, err)
		}
		if k, err := s.Lookup(ctx, h.Digest(secret)); err != nil || k.Status != Revoked {
			t.Errorf("the revoked key is %+v, %v", k, err)
		}
		if _, err := s.Lookup(ctx, h.Digest(second)); !errors.Is(err, ErrUnknown) {
			t.Errorf("the deleted key is back: %v", err)
		}
	})
}

func TestSeedRefuses(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s, h := NewStore(c), NewHasher(nil)
	secret := NewSecret("pb_")
	plain := func(id string) Entry {
		return Entry{Key: *Sample(func(k *Key) { k.ID, k.Digest = id, Digest{} }), Secret: secret}
	}
	hashed := func(id string, d Digest) Entry { return Entry{Key: *Sample(func(k *Key) { k.ID, k.Digest = id, d })} }
	none := plain("key_none")
	none.Secret = ""
	for name, entries := range map[string][]Entry{
		"one secret twice, plain and hashed": {plain("key_one1"), hashed("key_two2", h.Digest(secret))},
		"neither secret nor hash":            {hashed("key_one1", Digest{1}), none},
		"an invalid key":                     {hashed("key_one1", Digest{1}), hashed("x", Digest{2})},
	} {
		if added, err := Seed(t.Context(), s, entries, h); err == nil || added != 0 || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %d, %v", name, added, err)
		}
	}
	if _, err := Seed(t.Context(), s, []Entry{plain("key_one1")}, nil); err == nil {
		t.Error("a plain secret without a hasher passed")
	}
	if n := c.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys were written", n)
	}
	if err := s.Create(t.Context(), Sample()); err != nil {
		t.Fatal(err)
	}
	added, err := Seed(t.Context(), s, []Entry{hashed("key_one1", Digest{1}), hashed("key_two2", Sample().Digest)}, nil)
	if added != 1 || !errors.Is(err, ErrSecretTaken) || !strings.Contains(err.Error(), "key_two2") {
		t.Errorf("a secret of another key: %d, %v", added, err)
	}
	ended, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := Seed(ended, NewStore(keystest.NewSilent(t)), []Entry{hashed("key_six6", Digest{6})}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a store that does not answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if added, err := Seed(ctx, s, []Entry{hashed("key_six6", Digest{6})}, nil); added != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled seed: %d, %v", added, err)
	}
}
