package store

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

func named(id string, d byte, edits ...func(*keys.Key)) *keys.Key {
	return keystest.Sample(append([]func(*keys.Key){func(k *keys.Key) {
		k.ID, k.LimitID, k.Digest, k.CreatedAt = "key_"+id, "key_"+id, keys.Digest{d}, keystest.Noon()
	}}, edits...)...)
}

func repaired(t *testing.T, s *Store, api string, age time.Duration, want RepairReport) {
	t.Helper()
	got, err := s.repair(t.Context(), api, age)
	got.IDs = nil
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("repair = %+v, %v\nwant %+v", got, err, want)
	}
}

// Each way in which things can fail to fit together, one at a time.
func testRepair(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	k := named("aaaa", 1)
	list, teamList, set := indexKey(k.API, ""), indexKey(k.API, k.Team), teamKeysKey(k.API, k.Team)
	orphan := named("orphan", 5, func(k *keys.Key) { k.RotatedFrom = "key_aaaa" })
	drop := func(names ...string) { // in a cluster one at a time
		for _, name := range names {
			c.Del(ctx, name)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name  string
		spoil func()
		want  RepairReport
	}{
		{"nothing", func() {}, RepairReport{Checked: 1}},
		{"no way from the secret", func() { c.Del(ctx, secretKey(k.Digest)) }, RepairReport{Checked: 1, Linked: 1}},
		{"a way from the secret that was retired", func() { c.Set(ctx, secretKey(k.Digest), "former:"+k.ID, 0) }, RepairReport{Checked: 1, Linked: 1}},
		{"a retired way of a revoked key", func() {
			next := k.Clone()
			next.Status = keys.Revoked
			_, err := s.Write(ctx, k, next)
			must(err)
			c.Set(ctx, secretKey(k.Digest), "former:"+k.ID, 0)
		}, RepairReport{Checked: 1, Linked: 1}},
		{"an earlier secret", func() { c.Set(ctx, secretKey(keys.Digest{7}), "former:"+k.ID, 0) }, RepairReport{Checked: 1}},
		{"not in the list of the API", func() { c.ZRem(ctx, list, k.ID) }, RepairReport{Checked: 1, Indexed: 1}},
		{"not in the list of the team", func() { drop(teamList, apisKey) }, RepairReport{Checked: 1, Indexed: 1}},
		{"not in the team's set", func() { c.HDel(ctx, set, k.ID) }, RepairReport{Checked: 1, TeamSets: 1}},
		{"counted though inactive", func() {
			next := k.Clone()
			next.Status = keys.Inactive
			_, err := s.Write(ctx, k, next)
			must(err)
			c.HSet(ctx, set, k.ID, "1 1 + 0 = ")
		}, RepairReport{Checked: 1, TeamSets: 1}},
		{"with an end that it has not", func() { c.HSet(ctx, set, k.ID, "1 1 + 5 = ") }, RepairReport{Checked: 1, TeamSets: 1}},
		{"of another line", func() { c.HSet(ctx, set, k.ID, "1 1 + 0 key_other ") }, RepairReport{Checked: 1, TeamSets: 1}},
		{"noted as it once was", func() { c.HSet(ctx, set, k.ID, "1 1 + ") }, RepairReport{Checked: 1, TeamSets: 1}},
		{"of another environment", func() { c.HSet(ctx, set, k.ID, "1 1 + 0 = moon") }, RepairReport{Checked: 1, TeamSets: 1}},
		{"noted for a version that never was", func() { c.HSet(ctx, set, k.ID, "2 1 - 0 = ") }, RepairReport{Checked: 1, TeamSets: 1}},
		{"a note that is none", func() { c.HSet(ctx, set, k.ID, "x") }, RepairReport{Checked: 1, TeamSets: 1}},
		{"lists and sets name a key that is not", func() {
			c.ZAdd(ctx, list, redis.Z{Member: "key_none"})
			c.ZAdd(ctx, teamList, redis.Z{Member: "key_none"})
			c.HSet(ctx, set, "key_none", "1 1 + 0 = ")
		}, RepairReport{Checked: 1, Unindexed: 2, TeamSets: 1}},
		{"a list of another API names it", func() { c.ZAdd(ctx, indexKey("other", ""), redis.Z{Member: k.ID}) }, RepairReport{Checked: 1, Unindexed: 1}},
		{"a secret leads to no record", func() { c.Set(ctx, secretKey(keys.Digest{7}), "key_none", 0) }, RepairReport{Checked: 1, Unlinked: 1}},
		{"a secret leads to a record of another", func() { c.Set(ctx, secretKey(keys.Digest{7}), k.ID, 0) }, RepairReport{Checked: 1, Unlinked: 1}},
		{"a secret leads to a tombstone", func() {
			data, err := EncodeRecord(&keys.Key{ID: "key_gone", API: k.API, Status: keys.Deleted, Version: 3})
			must(err)
			c.Set(ctx, recordKey("key_gone"), data, 0)
			c.Set(ctx, secretKey(keys.Digest{7}), "key_gone", 0)
		}, RepairReport{Checked: 1, Buried: 1}},
		{"a delete that stopped in the middle", func() {
			next := k.Clone()
			next.Status = keys.Revoked
			_, err := s.Write(ctx, k, next)
			must(err)
			must(s.tombstoneLink(ctx, k.Digest, k.ID))
		}, RepairReport{Checked: 1, Buried: 1}},
		{"a delete that stopped", func() {
			next := k.Clone()
			next.Status = keys.Revoked
			_, err := s.Write(ctx, k, next)
			must(err)
			c.Del(ctx, secretKey(k.Digest))
		}, RepairReport{Checked: 1, Buried: 1}},
		{"a rehash that stopped before", func() {
			next := k.Clone()
			next.Other, next.Version = keys.Digest{7}, 2
			must(s.change(ctx, c, k, next))
			c.Set(ctx, secretKey(keys.Digest{7}), k.ID, 0)
		}, RepairReport{Checked: 1, Rehashed: 1}},
		{"a successor that its key does not know", func() { must(s.Create(ctx, orphan)) }, RepairReport{Checked: 2, Strays: 1}},
		{"a successor of a key that is gone", func() {
			must(s.Create(ctx, named("heir", 6, func(k *keys.Key) { k.RotatedFrom = "key_gone" })))
		}, RepairReport{Checked: 2}},
		{"names that are nothing", func() {
			c.Set(ctx, "tg:v1:secret:short", "x", 0)
			keystest.Administrator(t, c).Set(ctx, "tg:v1:other", "x", 0)
		}, RepairReport{Checked: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			keystest.Empty(t, c)
			must(s.Create(ctx, k))
			test.spoil()
			repaired(t, s, "", 0, test.want)
			c.Del(ctx, "tg:v1:secret:short")
			keystest.Consistent(t, c)
			found, err := s.Lookup(ctx, k.Digest)
			gone := errors.Is(err, keys.ErrUnknown)
			if gone != (test.want.Buried > 0 && test.name != "a secret leads to a tombstone") || !gone && (err != nil || found.ID != k.ID) {
				t.Errorf("the key: %v, %v", found, err)
			}
			test.want = RepairReport{Checked: test.want.Checked}
			if gone {
				test.want.Checked--
			}
			repaired(t, s, "", 0, test.want)
		})
	}
}

// What people have to look at, what belongs to another API and what is under way stay as they are.
func testRepairSpares(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	drop := func(names ...string) {
		for _, name := range names {
			c.Del(ctx, name)
		}
	}
	k, other := named("aaaa", 1), named("bbbb", 2, func(k *keys.Key) { k.API = "other" })
	for _, err := range s.CreateAll(ctx, []*keys.Key{k, other}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Set(ctx, recordKey("key_bad1"), "{", 0)
	c.Set(ctx, secretKey(keys.Digest{9}), "key_bad1", 0)
	c.ZAdd(ctx, indexKey(k.API, ""), redis.Z{Member: "key_bad1"})
	twin := named("twin", 1)
	s.putTest(t, twin)
	if _, err := s.repair(ctx, "", 0); err != nil {
		t.Fatal(err)
	}
	before := keystest.Dump(t, c)
	repaired(t, s, "", 0, RepairReport{Checked: 3, Corrupt: []string{"key_bad1"}, Taken: []string{"key_twin"}})
	if after := keystest.Dump(t, c); !reflect.DeepEqual(before, after) {
		t.Error("something was changed")
	}
	drop(recordKey(twin.ID), teamKeysKey("other", other.Team), secretKey(other.Digest))
	c.ZRem(ctx, indexKey(k.API, ""), twin.ID)
	c.ZRem(ctx, indexKey(k.API, k.Team), twin.ID)
	c.HDel(ctx, teamKeysKey(k.API, k.Team), twin.ID)
	repaired(t, s, k.API, 0, RepairReport{Checked: 1})
	repaired(t, s, "other", 0, RepairReport{Checked: 1, Linked: 1, TeamSets: 1})

	// Too young to be abandoned.
	now := time.Now().UTC()
	young := named("young", 4, func(k *keys.Key) {
		k.RotatedFrom, k.CreatedAt, k.UpdatedAt, k.Other = "key_aaaa", now, now, keys.Digest{8}
	})
	if err := s.Create(ctx, young); err != nil {
		t.Fatal(err)
	}
	clock, err := c.Time(ctx).Result()
	if err != nil {
		t.Fatal(err)
	}
	c.HSet(ctx, teamKeysKey(k.API, k.Team), "key_soon", fmt.Sprintf("1 %d + 0 = ", clock.Unix()))
	c.HSet(ctx, teamKeysKey(k.API, k.Team), k.ID, fmt.Sprintf("2 %d - 0 = ", clock.Unix()))
	before = keystest.Dump(t, c)
	repaired(t, s, k.API, time.Minute, RepairReport{Checked: 2})
	if after := keystest.Dump(t, c); !reflect.DeepEqual(before, after) {
		t.Error("something young was changed")
	}
	if report, err := s.Repair(ctx, ""); err != nil || report.Checked != 3 {
		t.Errorf("Repair = %+v, %v", report, err)
	}
}

func TestRepairOfAStoreThatIsAway(t *testing.T) {
	for _, what := range []string{"time", "scan", "tg:v1:key:", "tg:v1:secret:", "tg:v1:index:", "tg:v1:team:", "hscan"} {
		c := keystest.NewEmbedded(t)
		s := New(c)
		if err := s.Create(t.Context(), named("aaaa", 1)); err != nil {
			t.Fatal(err)
		}
		c.AddHook(keystest.DieAlways(what))
		if _, err := s.Repair(t.Context(), ""); !errors.Is(err, keystest.ErrDied) {
			t.Errorf("without %s: %v", what, err)
		}
	}
}

// Repair runs beside everything else. Each part changes the key at the worst moment: after Repair
// has read it.
func TestRepairOvertaken(t *testing.T) {
	for name, test := range map[string]struct {
		spoil    func(t *testing.T, s *Store, k *keys.Key)
		before   func(s *Store) string // the command that is overtaken
		overtake func(t *testing.T, s *Store, k *keys.Key)
	}{
		"deleted while it is linked": {
			func(t *testing.T, s *Store, k *keys.Key) { s.client.Del(t.Context(), secretKey(k.Digest)) },
			func(s *Store) string { return s.scripts.link.Hash() },
			func(t *testing.T, s *Store, k *keys.Key) {
				next := k.Clone()
				next.Status = keys.Revoked
				if _, err := s.Write(t.Context(), k, next); err != nil {
					t.Error(err)
				}
				if err := s.Delete(t.Context(), k); err != nil {
					t.Error(err)
				}
			},
		},
		"rehashed while it is linked": {
			func(t *testing.T, s *Store, k *keys.Key) { s.client.Del(t.Context(), secretKey(k.Digest)) },
			func(s *Store) string { return s.scripts.link.Hash() },
			func(t *testing.T, s *Store, k *keys.Key) {
				if err := s.Rehash(t.Context(), k.ID, k.Digest, keys.Digest{7}); err != nil {
					t.Error(err)
				}
			},
		},
		"rehashed while its other digest is forgotten": {
			func(t *testing.T, s *Store, k *keys.Key) {
				next := k.Clone()
				next.Other, next.Version = keys.Digest{7}, k.Version+1
				if err := s.change(t.Context(), s.client, k, next); err != nil {
					t.Error(err)
				}
			},
			func(s *Store) string { return s.scripts.change.Hash() },
			func(t *testing.T, s *Store, k *keys.Key) {
				if err := s.Rehash(t.Context(), k.ID, k.Digest, keys.Digest{7}); err != nil {
					t.Error(err)
				}
			},
		},
		"rehashed after its other digest was forgotten": {
			func(t *testing.T, s *Store, k *keys.Key) {
				next := k.Clone()
				next.Other, next.Version = keys.Digest{7}, k.Version+1
				if err := s.change(t.Context(), s.client, k, next); err != nil {
					t.Error(err)
				}
			},
			func(s *Store) string { return s.scripts.link.Hash() },
			func(t *testing.T, s *Store, k *keys.Key) {
				if err := s.Rehash(t.Context(), k.ID, k.Digest, keys.Digest{7}); err != nil {
					t.Error(err)
				}
			},
		},
		"written while its place in a list is taken away": {
			func(t *testing.T, s *Store, k *keys.Key) {
				s.client.ZAdd(t.Context(), indexKey(k.API, ""), redis.Z{Member: "key_late"})
			},
			func(*Store) string { return "zrem" },
			func(t *testing.T, s *Store, _ *keys.Key) {
				if err := s.Create(t.Context(), named("late", 8)); err != nil {
					t.Error(err)
				}
			},
		},
		"changed while its delete is completed": {
			func(t *testing.T, s *Store, k *keys.Key) {
				next := k.Clone()
				next.Status = keys.Revoked
				if _, err := s.Write(t.Context(), k, next); err != nil {
					t.Error(err)
				}
				s.client.Del(t.Context(), secretKey(k.Digest))
			},
			func(s *Store) string { return s.scripts.change.Hash() },
			func(t *testing.T, s *Store, k *keys.Key) {
				now := keystest.Must[*keys.Key](t)(s.Get(t.Context(), k.ID))
				next := now.Clone()
				next.Note = "meanwhile"
				keystest.Must[*keys.Key](t)(s.Write(t.Context(), now, next))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := keystest.NewEmbedded(t)
			s, k := New(c), named("aaaa", 1)
			if err := s.Create(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			test.spoil(t, s, k)
			// The hook is on a client of Repair's own, so that what overtakes it is not counted.
			own := redis.NewClient(c.(*redis.Client).Options())
			t.Cleanup(func() { own.Close() })
			hook := &keystest.Overtake{N: 1, Argument: test.before(s), Do: func() { test.overtake(t, s, k) }}
			own.AddHook(hook)
			if _, err := New(own).repair(t.Context(), "", 0); err != nil || !hook.Done() {
				t.Fatalf("overtaken %t: %v", hook.Done(), err)
			}
			keystest.Consistent(t, c)
			if _, err := s.repair(t.Context(), "", 0); err != nil {
				t.Fatal(err)
			}
			keystest.Consistent(t, c)
			// Whatever has happened, no other key can have the secret.
			if err := s.Create(t.Context(), named("other", 1)); !errors.Is(err, ErrSecretTaken) {
				t.Errorf("another key with the secret: %v", err)
			}
		})
	}
}

// A team whose set cannot be read stops neither a repair nor the keys of others for good: the error
// says which.
func TestRepairOfABrokenTeam(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s, k := New(c), named("aaaa", 1)
	if err := s.Create(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	c.Del(t.Context(), teamKeysKey(k.API, k.Team))
	c.Set(t.Context(), teamKeysKey(k.API, k.Team), "x", 0)
	_, err := s.Repair(t.Context(), "")
	expectCorrupt(t, "repair", errors.Unwrap(err), "team pixelbyte/team_orbit", "not a hash")
}

// A rehash that starts again while Repair undoes the first try, and that goes on only after Repair
// has looked whether it did, still leads to the key at the end.
func TestRepairMeetsARehashThatStartsAgain(t *testing.T) {
	ctx, c := t.Context(), keystest.NewEmbedded(t)
	s, k := New(c), named("aaaa", 1)
	from, to := k.Digest, keys.Digest{7}
	if err := s.Create(ctx, k); err != nil {
		t.Fatal(err)
	}
	step := func() {
		if _, err := s.rehashStep(ctx, keystest.Must[*keys.Key](t)(s.Get(ctx, k.ID)), from, to); err != nil {
			t.Error(err)
		}
	}
	step() // and there it was interrupted
	own := redis.NewClient(c.(*redis.Client).Options())
	t.Cleanup(func() { own.Close() })
	var linked *keys.Key
	own.AddHook(&keystest.Overtake{N: 1, Argument: s.scripts.link.Hash(), Do: func() {
		step()
		linked = keystest.Must[*keys.Key](t)(s.Get(ctx, k.ID))
		if owner, _, err := s.link(ctx, to, k.ID); err != nil || owner != k.ID {
			t.Error(owner, err)
		}
	}})
	if _, err := New(own).repair(ctx, "", 0); err != nil || linked == nil {
		t.Fatal(linked, err)
	}
	// The rehash was between the link and the change of the record all the time.
	next := linked.Clone()
	next.Version, next.Digest, next.Other = linked.Version+1, to, from
	if err := s.change(ctx, c, linked, next); err != nil {
		t.Fatal(err)
	}
	if err := s.Rehash(ctx, k.ID, from, to); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Lookup(ctx, to); err != nil || got.ID != k.ID {
		t.Errorf("by the new digest: %v, %v", got, err)
	}
	keystest.Consistent(t, c)
}

// A key that was used is one whose secret somebody was told.
func TestRepairSparesAUsedSuccessor(t *testing.T) {
	ctx, c := t.Context(), keystest.NewEmbedded(t)
	s := New(c)
	used := named("used", 5, func(k *keys.Key) { k.RotatedFrom = "key_aaaa" })
	for _, err := range s.CreateAll(ctx, []*keys.Key{named("aaaa", 1), used}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Touch(ctx, []Use{{ID: used.ID, At: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	repaired(t, s, "", 0, RepairReport{Checked: 2})
}
