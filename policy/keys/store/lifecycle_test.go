package store

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

func TestLifecycle(t *testing.T) {
	keystest.Parts{
		"write": testWrite, "final": testFinal, "delete": testDelete, "delete during rehash": testDeleteDuringRehash, "rehash": testRehash,
		"rehash meets": testRehashMeets, "touch": testTouch, "get": testGet, "create all": testCreateAll,
		"list": testList, "list bounds": testListBounds, "caps": testCaps, "team set": testTeamSetKeepsUp,
		"clients": testClients, "places": testPlaces, "write and wait": testWriteAndWait, "repair": testRepair, "repair spares": testRepairSpares,
	}.OnEveryStore(t, asCommand())
}

func testWrite(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	old := keystest.Sample()
	if err := s.Create(ctx, old); err != nil {
		t.Fatal(err)
	}
	next := old.Clone()
	next.Note, next.Scopes = "changed", []string{"read"}
	wrote, err := s.Write(ctx, old, next)
	if err != nil || wrote.Version != 2 || wrote.Note != "changed" || !wrote.UpdatedAt.IsZero() {
		t.Fatalf("Write = %+v, %v", wrote, err)
	}
	if got, err := s.Lookup(ctx, old.Digest); err != nil || !reflect.DeepEqual(got, wrote) {
		t.Errorf("Lookup = %+v, %v; want %+v", got, err, wrote)
	}
	if _, err := s.Write(ctx, old, next); !errors.Is(err, ErrConflict) {
		t.Errorf("the old version again: %v", err)
	}
	dated := wrote.Clone()
	dated.UpdatedAt = keystest.Noon() // the caller says when
	if wrote, err = s.Write(ctx, wrote, dated); err != nil || !wrote.UpdatedAt.Equal(keystest.Noon()) {
		t.Errorf("the caller's UpdatedAt: %v, %v", wrote, err)
	}
	for field, edit := range map[string]func(*keys.Key){
		"id":          func(k *keys.Key) { k.ID = "key_other" },
		"api":         func(k *keys.Key) { k.API = "other" },
		"team":        func(k *keys.Key) { k.Team = "other" },
		"environment": func(k *keys.Key) { k.Environment = "other" },
		"algorithm":   func(k *keys.Key) { k.Algorithm = keys.AlgorithmSHA256 },
		"hash":        func(k *keys.Key) { k.Digest = keys.Digest{9} },
		"status":      func(k *keys.Key) { k.Status = keys.Deleted },
		"name":        func(k *keys.Key) { k.Name = "" },
	} {
		next := wrote.Clone()
		edit(next)
		var fault *keys.FieldError
		if _, err := s.Write(ctx, wrote, next); !errors.As(err, &fault) || fault.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	// Somebody put another secret under the same version.
	forged := wrote.Clone()
	forged.Digest = keys.Digest{7}
	data, _ := EncodeRecord(forged)
	c.Set(ctx, recordKey(old.ID), data, 0)
	if _, err := s.Write(ctx, wrote, wrote); !errors.Is(err, ErrConflict) {
		t.Errorf("another digest under the same version: %v", err)
	}
	absent := keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID = "key_absent", "key_absent" })
	if _, err := s.Write(ctx, absent, absent); !errors.Is(err, ErrNoKey) {
		t.Errorf("an absent key: %v", err)
	}
	for _, text := range []string{"{", "7", `{"hash":7}`} {
		c.Set(ctx, recordKey(old.ID), text, 0)
		_, err := s.Write(ctx, wrote, wrote)
		expectCorrupt(t, text, err, old.ID, "not a record")
	}
	c.Del(ctx, recordKey(old.ID))
	c.RPush(ctx, recordKey(old.ID), "x")
	_, err = s.Write(ctx, wrote, wrote)
	expectCorrupt(t, "a list", err, old.ID, "not a string")
}

func testFinal(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	k := keystest.Sample()
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	next := k.Clone()
	next.Status = keys.Revoked
	k = keystest.Must[*keys.Key](t)(s.Write(ctx, k, next))
	for _, status := range []keys.Status{keys.Active, keys.Inactive} {
		next := k.Clone()
		next.Status = status
		if _, err := s.Write(ctx, k, next); !errors.Is(err, ErrFinal) {
			t.Errorf("revoked to %s: %v", status, err)
		}
		// Nor by a Write that has not seen the revocation.
		if _, err := s.Write(ctx, keystest.Sample(), keystest.Sample()); !errors.Is(err, ErrFinal) {
			t.Errorf("a stale Write: %v", err)
		}
	}
	if err := s.Create(ctx, keystest.Sample()); !errors.Is(err, ErrExists) {
		t.Errorf("Create: %v", err)
	}
	if err := s.Rehash(ctx, k.ID, k.Digest, keys.Digest{9}); !errors.Is(err, ErrFinal) {
		t.Errorf("Rehash: %v", err)
	}
	if got := keystest.Must[*keys.Key](t)(s.Get(ctx, k.ID)); got.Status != keys.Revoked || got.Version != 2 {
		t.Errorf("the key is %+v", got)
	}
}

func testDelete(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	k := keystest.Sample()
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	for _, status := range []keys.Status{keys.Active, keys.Inactive} {
		next := k.Clone()
		next.Status = status
		k = keystest.Must[*keys.Key](t)(s.Write(ctx, k, next))
		if err := s.Delete(ctx, k); !errors.Is(err, ErrNotRevoked) {
			t.Errorf("an %s key: %v", status, err)
		}
		// The script would not do it either.
		if err := s.change(ctx, c, k, &keys.Key{ID: k.ID, API: k.API, Status: keys.Deleted, Version: k.Version + 1}); !errors.Is(err, ErrNotRevoked) {
			t.Errorf("the step of an %s key: %v", status, err)
		}
	}
	next := k.Clone()
	next.Status = keys.Revoked
	k = keystest.Must[*keys.Key](t)(s.Write(ctx, k, next))
	if err := s.Touch(ctx, []Use{{ID: k.ID, At: keystest.Noon()}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, k); err != nil {
		t.Fatal(err)
	}
	left := c.Keys(ctx, "*").Val()
	slices.Sort(left)
	if want := []string{apisKey, recordKey(k.ID), secretKey(k.Digest)}; !slices.Equal(left, want) {
		t.Errorf("left behind: %q, want %q", left, want)
	}
	if got := c.Get(ctx, secretKey(k.Digest)).Val(); got != "deleted:"+k.ID {
		t.Errorf("the place of the secret holds %q", got)
	}
	const tombstone = `{"id":"key_pb_full","api":"pixelbyte","status":"deleted","version":5}`
	if got := c.Get(ctx, recordKey(k.ID)).Val(); got != tombstone {
		t.Errorf("the tombstone is %s", got)
	}
	if _, err := s.Lookup(ctx, k.Digest); !errors.Is(err, keys.ErrUnknown) {
		t.Errorf("Lookup: %v", err)
	}
	for name, call := range map[string]func() error{
		"Get":    func() error { _, err := s.Get(ctx, k.ID); return err },
		"Delete": func() error { return s.Delete(ctx, k) },
		"Write":  func() error { _, err := s.Write(ctx, k, k); return err },
		"Rehash": func() error { return s.Rehash(ctx, k.ID, k.Digest, keys.Digest{9}) },
	} {
		if err := call(); !errors.Is(err, ErrDeleted) || !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, again := range []*keys.Key{keystest.Sample(), keystest.Sample(func(k *keys.Key) { k.Digest = keys.Digest{9} })} {
		if err := s.Create(ctx, again); !errors.Is(err, ErrExists) {
			t.Errorf("Create: %v", err)
		}
		if _, err := s.Lookup(ctx, again.Digest); !errors.Is(err, keys.ErrUnknown) {
			t.Errorf("the tombstone was revived: %v", err)
		}
	}
	if err := s.Create(ctx, keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID = "key_other", "key_other" })); !errors.Is(err, ErrSecretDeleted) || !errors.Is(err, ErrSecretTaken) {
		t.Errorf("the secret under another id: %v", err)
	}
	keystest.Consistent(t, c)
	if got := c.Get(ctx, recordKey(k.ID)).Val(); got != tombstone {
		t.Errorf("the tombstone became %s", got)
	}
	if page, _, err := s.List(ctx, Filter{}, "", 0); err != nil || len(page) > 0 {
		t.Errorf("it is listed: %v, %v", page, err)
	}
	// A way that something else made leads nowhere.
	c.Set(ctx, secretKey(k.Digest), k.ID, 0)
	if _, err := s.Lookup(ctx, k.Digest); !errors.Is(err, keys.ErrUnknown) {
		t.Errorf("Lookup: %v", err)
	}
}

// Whichever hash of its secret a key is deleted under while a rehash is unfinished: no key ever has
// one of the two again.
func testDeleteDuringRehash(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	for i, name := range []string{"not linked yet", "linked", "unlinked"} {
		from, to := keys.Digest{1, byte(i)}, keys.Digest{2, byte(i)}
		linked := [][]keys.Digest{{from}, {from, to}, {to}}[i]
		k := keystest.Sample(func(k *keys.Key) {
			k.ID, k.LimitID, k.Digest = fmt.Sprint("key_case", i), fmt.Sprint("key_case", i), from
		})
		if err := s.Create(ctx, k); err != nil {
			t.Fatal(err)
		}
		next := k.Clone()
		next.Other, next.Version, next.Status = to, 2, keys.Revoked
		if err := s.change(ctx, c, k, next); err != nil {
			t.Fatal(err)
		}
		c.Del(ctx, secretKey(from))
		for _, d := range linked {
			c.Set(ctx, secretKey(d), k.ID, 0)
		}
		if err := s.Delete(ctx, k); err != nil {
			t.Fatal(err)
		}
		for _, d := range []keys.Digest{from, to} {
			if err := s.Create(ctx, keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.Digest = "key_other", "key_other", d })); !errors.Is(err, ErrSecretDeleted) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := s.Lookup(ctx, d); !errors.Is(err, keys.ErrUnknown) {
				t.Errorf("%s: Lookup: %v", name, err)
			}
		}
	}
}

// Each step of a rehash leaves a key that the old secret or both digests find.
func testRehash(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	from, to := keys.Digest{1, 2, 3}, keys.Digest{4, 5, 6}
	k := keystest.Sample(func(k *keys.Key) { k.Algorithm = keys.AlgorithmSHA256 })
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	usable := func(step int) {
		t.Helper()
		_, byTo := s.Lookup(ctx, to)
		if byTo == nil {
			return
		}
		// A server asks by the new digest first, and by the old one only if that is unknown.
		if !errors.Is(byTo, keys.ErrUnknown) {
			t.Errorf("step %d: by the new digest: %v", step, byTo)
		}
		if _, err := s.Lookup(ctx, from); err != nil {
			t.Errorf("step %d: by the old digest: %v", step, err)
		}
	}
	steps := 0
	for done := false; !done; steps++ {
		now, err := s.Get(ctx, k.ID)
		if err == nil {
			done, err = s.rehashStep(ctx, now, from, to)
		}
		if err != nil {
			t.Fatal(err)
		}
		usable(steps)
	}
	if steps != 4 {
		t.Errorf("%d steps", steps)
	}
	got := keystest.Must[*keys.Key](t)(s.Lookup(ctx, to))
	want := k.Clone()
	want.Version, want.Digest, want.Algorithm = 4, to, keys.AlgorithmHMACSHA256
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the key is %+v", got)
	}
	if _, err := s.Lookup(ctx, from); !errors.Is(err, keys.ErrUnknown) {
		t.Errorf("by the old digest: %v", err)
	}
	if err := s.Rehash(ctx, k.ID, from, to); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := s.Rehash(ctx, k.ID, to, keys.Digest{8}); err != nil {
		t.Error(err)
	}
	if err := s.Rehash(ctx, k.ID, from, to); !errors.Is(err, ErrConflict) {
		t.Errorf("from a digest that it does not have: %v", err)
	}
	// No other key can have an earlier digest; the key itself can have it again, when the pepper is
	// changed back.
	taken := func(d keys.Digest) {
		t.Helper()
		other := keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.Digest = "key_other", "key_other", d })
		if err := s.Create(ctx, other); !errors.Is(err, ErrSecretTaken) {
			t.Errorf("another key with an earlier digest: %v", err)
		}
		keystest.Consistent(t, c)
	}
	taken(from)
	taken(to)
	if err := s.Rehash(ctx, k.ID, keys.Digest{8}, from); err != nil {
		t.Fatal(err)
	}
	if got := keystest.Must[*keys.Key](t)(s.Lookup(ctx, from)); got.ID != k.ID {
		t.Errorf("by the first digest again: %s", got.ID)
	}
	for _, d := range []keys.Digest{to, {8}} {
		if got := c.Get(ctx, secretKey(d)).Val(); got != "former:"+k.ID {
			t.Errorf("the place of an earlier digest holds %q", got)
		}
	}
	keystest.Consistent(t, c)
}

func testRehashMeets(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	k, other := keystest.Sample(), keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.Digest = "key_other", "key_other", keys.Digest{9} })
	for _, err := range s.CreateAll(ctx, []*keys.Key{k, other}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var fault *keys.FieldError
	if err := s.Rehash(ctx, k.ID, k.Digest, k.Digest); !errors.As(err, &fault) {
		t.Errorf("to itself: %v", err)
	}
	if err := s.Rehash(ctx, "key_none", k.Digest, keys.Digest{4}); !errors.Is(err, ErrNoKey) {
		t.Errorf("an absent key: %v", err)
	}
	if err := s.Rehash(ctx, k.ID, k.Digest, other.Digest); !errors.Is(err, ErrSecretTaken) {
		t.Errorf("to the digest of another key: %v", err)
	}
	if got := keystest.Must[*keys.Key](t)(s.Lookup(ctx, k.Digest)); got.Other != (keys.Digest{}) {
		t.Error("the refused digest stays noted")
	}
	if got := keystest.Must[*keys.Key](t)(s.Lookup(ctx, other.Digest)); got.ID != other.ID {
		t.Errorf("the other key is now %s", got.ID)
	}
	// Everything that comes at once arrives.
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = s.Rehash(ctx, k.ID, keys.Digest{1, 2, 3}, keys.Digest{4}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if _, err := s.Lookup(ctx, keys.Digest{4}); err != nil {
		t.Error(err)
	}
	keystest.Consistent(t, c)
}

func testTouch(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	if err := s.Create(ctx, keystest.Sample()); err != nil {
		t.Fatal(err)
	}
	before := c.Get(ctx, recordKey("key_pb_full")).Val()
	at := time.Date(2026, 3, 1, 2, 3, 4, 5, time.UTC)
	uses := []Use{{ID: "key_pb_full", At: at.Add(-time.Minute)}, {ID: "key_none", At: at}, {ID: "key_pb_full", At: at}}
	if err := errors.Join(s.Touch(ctx, nil), s.Touch(ctx, uses)); err != nil {
		t.Fatal(err)
	}
	if got := keystest.Must[*keys.Key](t)(s.Get(ctx, "key_pb_full")); !got.LastUsed.Equal(at.Truncate(time.Second)) || got.Version != 1 {
		t.Errorf("last used %v, version %d", got.LastUsed, got.Version)
	}
	if now := c.Get(ctx, recordKey("key_pb_full")).Val(); now != before {
		t.Error("a use changed the record")
	}
	if ttl := c.TTL(ctx, usedKey("key_none")).Val(); ttl <= 0 {
		t.Errorf("the note of an absent key ends in %v", ttl)
	}
	c.Set(ctx, usedKey("key_pb_full"), "yesterday", 0)
	if got := keystest.Must[*keys.Key](t)(s.Get(ctx, "key_pb_full")); !got.LastUsed.IsZero() {
		t.Errorf("last used %v", got.LastUsed)
	}
}

func testGet(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	k := keystest.FullKey()
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, k.ID); err != nil || !reflect.DeepEqual(got, k) {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if _, err := s.Get(ctx, "key_none"); !errors.Is(err, ErrNoKey) || errors.Is(err, ErrDeleted) {
		t.Errorf("an absent key: %v", err)
	}
	var fault *keys.FieldError
	if _, err := s.Get(ctx, "none"); !errors.As(err, &fault) || fault.Field != "id" {
		t.Errorf("no id: %v", err)
	}
	c.Set(ctx, recordKey("key_none"), c.Get(ctx, recordKey(k.ID)).Val(), 0)
	_, err := s.Get(ctx, "key_none")
	expectCorrupt(t, "another id", err, "key_none", "another id")
	c.Set(ctx, recordKey("key_none"), "{", 0)
	_, err = s.Get(ctx, "key_none")
	expectCorrupt(t, "not JSON", err, "key_none", "not a record")
}

func testCreateAll(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	if err := s.Create(ctx, keystest.Sample()); err != nil {
		t.Fatal(err)
	}
	named := func(id string, d byte, edits ...func(*keys.Key)) *keys.Key {
		return keystest.Sample(append(edits, func(k *keys.Key) { k.ID, k.LimitID, k.Digest = id, id, keys.Digest{d} })...)
	}
	elsewhere := named("key_pb_full", 7, func(k *keys.Key) { k.API, k.Team = "pictify", "other" })
	ks := []*keys.Key{named("key_aaaa", 11), keystest.Sample(), elsewhere, named("x", 12), named("key_bbbb", 11), named("key_cccc", 13)}
	errs := s.CreateAll(ctx, ks)
	var fault *keys.FieldError
	for i, want := range []error{nil, ErrExists, ErrExists, fault, ErrSecretTaken, nil} {
		if want == error(fault) && errors.As(errs[i], &fault) {
			continue
		}
		if !errors.Is(errs[i], want) {
			t.Errorf("%s: %v, want %v", ks[i].ID, errs[i], want)
		}
	}
	if got := ids(t, s, Filter{}); got != "key_aaaa key_cccc key_pb_full" {
		t.Errorf("listed: %s", got)
	}
	if n := c.Exists(ctx, indexKey("pictify", "other"), teamKeysKey("pictify", "other")).Val(); n != 0 {
		t.Error("a refused key stays in a list")
	}
	keystest.Consistent(t, c)
	if errs := s.CreateAll(ctx, nil); len(errs) != 0 {
		t.Error("errors for nothing")
	}
}

// ids joins the ids of all pages.
func ids(t *testing.T, s *Store, f Filter) string {
	t.Helper()
	var out []string
	for cursor := ""; ; {
		page, next, err := s.List(t.Context(), f, cursor, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > 3 {
			t.Fatalf("a page of %d", len(page))
		}
		for _, k := range page {
			out = append(out, k.ID)
		}
		if next == "" {
			return strings.Join(out, " ")
		}
		cursor = next
	}
}

// The place of a secret says whose it is, and that it was somebody's.
func testPlaces(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	named := func(id string, d byte) *keys.Key {
		return keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.Digest = id, id, keys.Digest{d} })
	}
	for _, err := range s.CreateAll(ctx, []*keys.Key{named("key_here", 1), named("key_moved", 2), named("key_gone", 3)}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, id := range []string{"key_moved", "key_gone"} {
		if err := s.Rehash(ctx, id, keys.Digest{byte(2 + i)}, keys.Digest{byte(12 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	k := keystest.Must[*keys.Key](t)(s.Get(ctx, "key_gone"))
	next := k.Clone()
	next.Status = keys.Revoked
	if err := s.Delete(ctx, keystest.Must[*keys.Key](t)(s.Write(ctx, k, next))); err != nil {
		t.Fatal(err)
	}
	digests := []keys.Digest{{1}, {2}, {3}, {13}, {4}}
	want := []SecretPlace{{ID: "key_here"}, {ID: "key_moved", Former: true}, {ID: "key_gone", Former: true, Deleted: true}, {ID: "key_gone", Deleted: true}, {Empty: true}}
	if got, err := s.SecretPlaces(ctx, digests); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if apis, err := s.APIs(ctx); err != nil || !slices.Equal(apis, []string{k.API}) {
		t.Errorf("APIs = %q, %v", apis, err)
	}
}

// A write is carried out on the primary of its key, and tells how many replicas have it.
func testWriteAndWait(t *testing.T, c redis.UniversalClient) {
	ctx, s, k := t.Context(), New(c), keystest.Sample()
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	next := k.Clone()
	next.Note = "again"
	wrote, n, err := s.WriteAndWait(ctx, k, next, 1, time.Millisecond)
	if err != nil || wrote == nil || wrote.Note != "again" || n != 0 {
		t.Errorf("WriteAndWait = %+v, %d, %v", wrote, n, err)
	}
	if r, err := s.Replication(ctx, k.ID); err != nil || r != (Replication{}) {
		t.Errorf("Replication = %+v, %v", r, err)
	}
	if err := s.NoteReplicas(ctx, k.ID); err != nil || c.Exists(ctx, replicasKey).Val() != 0 {
		t.Errorf("replicas are noted that are not there: %v", err)
	}
}
