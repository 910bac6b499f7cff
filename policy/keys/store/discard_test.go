package store

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// A key that nobody was told of leaves nothing behind, and its id and secret can be used; what a
// create would do something for is counted.
func TestDiscardAndUnseen(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		ctx, s := t.Context(), New(c)
		k := keystest.Sample()
		other := keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.Digest = "key_other", "key_other", keys.Digest{9} })
		unseen := func(want int) {
			t.Helper()
			if n, err := s.Unseen(ctx, []*keys.Key{k, other}); n != want || err != nil {
				t.Errorf("%d are missing, want %d, %v", n, want, err)
			}
		}
		unseen(2)
		for _, k := range []*keys.Key{k, other} {
			if err := s.Create(ctx, k); err != nil {
				t.Fatal(err)
			}
		}
		unseen(0)
		c.Del(ctx, keystest.SecretKey(other.Digest)) // its create was cut short
		unseen(1)
		if err := s.Create(ctx, other); err != nil {
			t.Fatal(err)
		}
		if err := s.Discard(ctx, k); err != nil {
			t.Fatal(err)
		}
		keystest.Consistent(t, c)
		unseen(1)
		if err := s.Create(ctx, k); err != nil {
			t.Errorf("the same again: %v", err)
		}
	})
	s := New(keystest.NewEmbedded(t))
	c := keystest.NewEmbedded(t)
	c.AddHook(keystest.DieAlways("tg:v1:"))
	if err := New(c).Discard(t.Context(), keystest.Sample()); err == nil {
		t.Error("a store that is away")
	}
	if _, err := New(c).Unseen(t.Context(), []*keys.Key{keystest.Sample()}); err == nil {
		t.Error("a store that is away")
	}
	if err := s.Discard(t.Context(), &keys.Key{}); err == nil {
		t.Error("a key that cannot be stored")
	}
}

// What is shown of a key has every field but those that hold its hashes.
func TestPublicRecord(t *testing.T) {
	k := keystest.FullKey()
	whole, err := EncodeRecord(k)
	if err != nil {
		t.Fatal(err)
	}
	public, err := PublicRecord(k)
	if err != nil || strings.Contains(string(public), k.Digest.Hex()) || strings.Contains(string(public), k.Other.Hex()) {
		t.Errorf("%s, %v", public, err)
	}
	var all, shown map[string]any
	if err := errors.Join(json.Unmarshal(whole, &all), json.Unmarshal(public, &shown)); err != nil {
		t.Fatal(err)
	}
	for name := range all {
		if _, has := shown[name]; has == strings.Contains(name, "hash") {
			t.Errorf("%s: %t", name, has)
		}
	}
	if none, err := PublicRecord(nil); none != nil || err != nil {
		t.Errorf("of no key: %s, %v", none, err)
	}
	if _, err := PublicRecord(&keys.Key{}); err == nil {
		t.Error("a key that cannot be stored")
	}
}
