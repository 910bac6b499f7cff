package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

func TestCreateAndLookup(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		s := New(c)
		if _, err := s.Lookup(t.Context(), keystest.FullKey().Digest); !errors.Is(err, keys.ErrUnknown) {
			t.Fatalf("empty store: %v", err)
		}
		for _, status := range []keys.Status{keys.Active, keys.Inactive, keys.Revoked, keys.Deleted} {
			k := keystest.FullKey()
			k.ID, k.Status, k.Digest = "key_"+string(status), status, keys.Digest{byte(len(status)), status[0]}
			if err := s.Create(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Lookup(t.Context(), k.Digest); err != nil || !reflect.DeepEqual(got, k) {
				t.Errorf("Lookup = %+v, %v", got, err)
			}
			if err := s.Create(t.Context(), k); !errors.Is(err, ErrExists) {
				t.Errorf("the same key again: %v", err)
			}
		}
		if got := c.Get(t.Context(), "tg:v1:secret:"+(keys.Digest{6, 'a'}).Hex()).Val(); got != "key_active" {
			t.Errorf("the secret leads to %q", got)
		}
		if ttl := c.TTL(t.Context(), "tg:v1:key:{key_active}").Val(); ttl != -1 {
			t.Errorf("the record ends in %v", ttl)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		s := New(c)
		first := keystest.Sample()
		if err := s.Create(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		other := func(k *keys.Key) { k.Digest = keys.Digest{9} }
		tombstone := keystest.Sample(func(k *keys.Key) { k.ID, k.Status, k.Digest = "key_gone", keys.Deleted, keys.Digest{8} })
		s.putTest(t, tombstone)
		alive := *tombstone
		alive.Status = keys.Active
		for _, test := range []struct {
			name string
			key  *keys.Key
			want error
		}{
			{"other secret", keystest.Sample(other), ErrExists},
			{"other fields", keystest.Sample(func(k *keys.Key) { k.Scopes = []string{"admin"} }), ErrExists},
			{"a tombstone's id", keystest.Sample(other, func(k *keys.Key) { k.ID = "key_gone" }), ErrExists},
			{"a tombstone's id and secret", &alive, ErrExists},
			{"another key's secret", keystest.Sample(func(k *keys.Key) { k.ID = "key_second" }), ErrSecretTaken},
		} {
			if err := s.Create(t.Context(), test.key); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", test.name, err, test.want)
			}
		}
		var field *keys.FieldError
		if err := s.Create(t.Context(), keystest.Sample(func(k *keys.Key) { k.ID = "x" })); !errors.As(err, &field) || field.Field != "id" {
			t.Errorf("invalid key: %v", err)
		}
		if n := c.Exists(t.Context(), recordKey("key_second")).Val(); n != 0 {
			t.Error("the record of the refused key stayed")
		}
		if _, err := s.Lookup(t.Context(), keys.Digest{8}); !errors.Is(err, keys.ErrUnknown) {
			t.Errorf("the tombstone was revived: %v", err)
		}
		if _, err := s.Lookup(t.Context(), keys.Digest{9}); !errors.Is(err, keys.ErrUnknown) {
			t.Errorf("a refused secret works: %v", err)
		}
		if got, err := s.Lookup(t.Context(), first.Digest); err != nil || !reflect.DeepEqual(got, first) {
			t.Errorf("the first key changed: %+v, %v", got, err)
		}
	})
}

// putTest writes only the record, as a process that dies between the two steps does.
func (s *Store) putTest(t *testing.T, k *keys.Key) {
	t.Helper()
	data, err := EncodeRecord(k)
	if err != nil {
		t.Fatal(err)
	}
	if made, err := s.client.SetNX(t.Context(), recordKey(k.ID), data, 0).Result(); err != nil || !made {
		t.Fatal(made, err)
	}
}

func TestCreateAfterACrash(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		s, k := New(c), keystest.FullKey()
		crash := keystest.DieAlways("tg:v1:secret:")
		c.AddHook(crash)
		if err := s.Create(t.Context(), k); !errors.Is(err, keystest.ErrDied) {
			t.Fatalf("the crash did not happen: %v", err)
		}
		crash.Armed.Store(false)
		if _, err := s.Lookup(t.Context(), k.Digest); !errors.Is(err, keys.ErrUnknown) {
			t.Fatalf("half a key answers: %v", err)
		}
		if err := s.Create(t.Context(), k); err != nil {
			t.Fatalf("not completed: %v", err)
		}
		if got, err := s.Lookup(t.Context(), k.Digest); err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("Lookup = %+v, %v", got, err)
		}

		// The same id and secret with other details: the record that stands is completed and stays
		// as it is.
		half := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_half", keys.Digest{5} })
		s.putTest(t, half)
		asked := *half
		asked.Scopes = []string{"admin"}
		if err := s.Create(t.Context(), &asked); !errors.Is(err, ErrExists) {
			t.Errorf("other details: %v", err)
		}
		if got, err := s.Lookup(t.Context(), half.Digest); err != nil || !reflect.DeepEqual(got, half) {
			t.Errorf("Lookup = %+v, %v", got, err)
		}

		// The secret was given away meanwhile: this call did not make the record, so it stays.
		orphan := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_orphan", keys.Digest{5} })
		s.putTest(t, orphan)
		if err := s.Create(t.Context(), orphan); !errors.Is(err, ErrSecretTaken) {
			t.Errorf("a secret given away: %v", err)
		}
		if n := c.Exists(t.Context(), recordKey("key_orphan")).Val(); n != 1 {
			t.Error("a record that another call made is gone")
		}
	})
}

func TestCreateSaysWhatItLeavesBehind(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s := New(c)
	if err := s.Create(t.Context(), keystest.Sample()); err != nil {
		t.Fatal(err)
	}
	c.AddHook(keystest.DieAlways(s.scripts.unmake.Hash()))
	err := s.Create(t.Context(), keystest.Sample(func(k *keys.Key) { k.ID = "key_second" }))
	if !errors.Is(err, ErrSecretTaken) || !errors.Is(err, keystest.ErrDied) || !strings.Contains(err.Error(), "key_second") {
		t.Errorf("Create = %v", err)
	}
}

// A record that changed since it was made must survive the clean-up of a refused create.
func TestDropRecordLeavesAnotherRecord(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		s := New(c)
		s.putTest(t, keystest.Sample())
		if err := s.dropRecord(t.Context(), keystest.Sample().ID, []byte("other")); err != nil {
			t.Fatal(err)
		}
		if c.Exists(t.Context(), recordKey(keystest.Sample().ID)).Val() != 1 {
			t.Error("another record was removed")
		}
	})
}

func TestCreateRace(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		s := New(c)
		results := make([]error, 16)
		var wg sync.WaitGroup
		for i := range results {
			k := keystest.Sample(func(k *keys.Key) { k.ID = "key_race" + string(rune('a'+i)) }) // one secret, many ids
			wg.Go(func() { results[i] = s.Create(t.Context(), k) })
		}
		wg.Wait()
		won := 0
		for _, err := range results {
			if err == nil {
				won++
			} else if !errors.Is(err, ErrSecretTaken) {
				t.Errorf("Create = %v", err)
			}
		}
		records := 0
		for i := range results {
			records += int(c.Exists(t.Context(), recordKey("key_race"+string(rune('a'+i)))).Val())
		}
		if won != 1 || records != 1 {
			t.Errorf("%d creates won and %d records stand, want 1 and 1", won, records)
		}
		if _, err := s.Lookup(t.Context(), keystest.Sample().Digest); err != nil {
			t.Error(err)
		}
	})
}

func TestLookupOfCorruptRecords(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		ctx, s, d := t.Context(), New(c), keys.Digest{1, 2, 3}
		good, _ := EncodeRecord(keystest.Sample())
		for _, test := range []struct {
			name, owner, record, id, want string
		}{
			{"no record", "key_pb_full", "", "key_pb_full", "missing"},
			{"not JSON", "key_pb_full", "{", "key_pb_full", "not a record"},
			{"unknown field", "key_pb_full", strings.Replace(string(good), `"api"`, `"apo"`, 1), "key_pb_full", "unknown field"},
			{"bad value", "key_pb_full", strings.Replace(string(good), `"active"`, `"on"`, 1), "key_pb_full", "status"},
			{"other digest", "key_pb_full", strings.Replace(string(good), `010203`, `010204`, 1), "key_pb_full", "another secret"},
			{"other id", "key_pb_full", strings.Replace(string(good), `"id":"key_pb_full"`, `"id":"key_pb_none"`, 1), "key_pb_full", "another id"},
			{"not an id", "}{", string(good), "", "not an id"},
		} {
			c.Set(ctx, secretKey(d), test.owner, 0)
			c.Del(ctx, recordKey("key_pb_full"))
			if test.record != "" {
				c.Set(ctx, recordKey("key_pb_full"), test.record, 0)
			}
			_, err := s.Lookup(ctx, d)
			expectCorrupt(t, test.name, err, test.id, test.want)
			_, err = again(ctx, s, d, "key_pb_full")
			expectCorrupt(t, test.name+", looked up again", err, test.id, test.want)
		}
		c.Set(ctx, secretKey(d), "key_pb_full", 0)
		c.Del(ctx, recordKey("key_pb_full"))
		c.RPush(ctx, recordKey("key_pb_full"), "x")
		_, err := s.Lookup(ctx, d)
		expectCorrupt(t, "a list for a record", err, "key_pb_full", "not a string")
		expectCorrupt(t, "create over a list", s.Create(ctx, keystest.Sample()), "key_pb_full", "not a string")
		c.Del(ctx, secretKey(d))
		c.RPush(ctx, secretKey(d), "x")
		_, err = s.Lookup(ctx, d)
		expectCorrupt(t, "a list for an id", err, "", "not a string")
		// The others go on.
		whole := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_whole", keys.Digest{7} })
		if err := s.Create(ctx, whole); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Lookup(ctx, whole.Digest); err != nil {
			t.Error(err)
		}
	})
}

// again looks up a secret that belonged to the key id.
func again(ctx context.Context, s *Store, d keys.Digest, id string) (*keys.Key, error) {
	r := s.LookupMany(ctx, []LookupRequest{{Digest: d, ID: id}}, nil)[0]
	return r.Key, r.Err
}

// A second look-up is one round trip while the secret belongs to the same key, and finds what the
// first would.
func TestLookupAgain(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		ctx, s, k := t.Context(), New(c), keystest.Sample()
		if err := s.Create(ctx, k); err != nil {
			t.Fatal(err)
		}
		trips := &keystest.TripCounter{}
		c.AddHook(trips)
		for _, test := range []struct {
			name  string
			id    string
			trips int64
		}{{"the same key", k.ID, 1}, {"another key before", "key_other", 2}, {"no key before", "", 2}} {
			trips.N.Store(0)
			got, err := again(ctx, s, k.Digest, test.id)
			if err != nil || !reflect.DeepEqual(got, k) || trips.N.Load() != test.trips {
				t.Errorf("%s: %v, %v, %d trips", test.name, got, err, trips.N.Load())
			}
		}
		if _, err := again(ctx, s, keys.Digest{9}, k.ID); !errors.Is(err, keys.ErrUnknown) {
			t.Errorf("a secret of nobody: %v", err)
		}
	})
}

// Each reading has what is said of its own secret, whatever is wrong with others that share its
// round trip.
func TestReadingsAreApart(t *testing.T) {
	keystest.OnEveryStore(t, asServer(), func(t *testing.T, client redis.UniversalClient) {
		s := New(client)
		trips := &keystest.TripCounter{}
		client.AddHook(trips)
		admin := keystest.Administrator(t, client)
		digest := func(n int) keys.Digest { return keys.Digest{byte(n + 1)} }
		key := func(n int) *keys.Key {
			return keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = fmt.Sprintf("key_apart%d", n), digest(n) })
		}
		for n := range 8 {
			if err := s.Create(t.Context(), key(n)); err != nil {
				t.Fatal(err)
			}
		}
		ctx := t.Context()
		broken := []func(n int){
			2: func(n int) {
				admin.Del(ctx, keystest.RecordKey(key(n).ID))
				admin.RPush(ctx, keystest.RecordKey(key(n).ID), "x")
			},
			3: func(n int) {
				admin.Del(ctx, keystest.SecretKey(digest(n)))
				admin.RPush(ctx, keystest.SecretKey(digest(n)), "x")
			},
			4: func(n int) { admin.Set(ctx, keystest.RecordKey(key(n).ID), "{", 0) },
			5: func(n int) { admin.Del(ctx, keystest.RecordKey(key(n).ID)) },
			6: func(n int) { admin.Del(ctx, keystest.SecretKey(digest(n))) },
			7: func(n int) {
				moved, err := EncodeRecord(keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = "key_moved", digest(n) }))
				if err != nil {
					t.Fatal(err)
				}
				admin.Set(ctx, keystest.RecordKey("key_moved"), moved, 0)
			},
		}
		for n, spoil := range broken {
			if spoil != nil {
				spoil(n)
			}
		}
		admin.Set(ctx, keystest.SecretKey(digest(7)), "key_moved", 0)
		var list []LookupRequest
		for n := range 8 {
			list = append(list, LookupRequest{Digest: digest(n), ID: key(n).ID}, LookupRequest{Digest: digest(n)}) // known here, and not
		}
		expect := func(i int, r LookupResult) {
			got := fmt.Sprint(r.Err)
			if r.Err == nil {
				got = r.Key.ID
			}
			want := []string{"key_apart0", "key_apart1", "not a string", "not a string", "not a record", "missing", keys.ErrUnknown.Error(), "key_moved"}[i/2]
			if !strings.Contains(got, want) || r.Err != nil && !keys.AboutKey(r.Err) {
				t.Errorf("%+v: %s, want %s", list[i], got, want)
			}
		}
		trips.N.Store(0)
		for i, r := range s.LookupMany(ctx, list, nil) {
			expect(i, r)
		}
		if n := trips.N.Load(); n != 2 {
			t.Errorf("%d round trips", n)
		}
	})
}

func expectCorrupt(t *testing.T, name string, err error, id, want string) {
	t.Helper()
	var corrupt *keys.CorruptError
	if !errors.As(err, &corrupt) || corrupt.ID != id || !strings.Contains(err.Error(), want) || errors.Unwrap(corrupt) == nil {
		t.Errorf("%s: %v, want a CorruptError of %q with %q", name, err, id, want)
		return
	}
	if id != "" && !strings.Contains(err.Error(), id) || strings.Contains(err.Error(), keystest.Sample().Digest.Hex()) {
		t.Errorf("%s: the text is %s", name, err)
	}
}

func TestDeadline(t *testing.T) {
	s := New(keystest.NewSilent(t))
	for name, call := range map[string]func(context.Context) error{
		"Lookup":     func(ctx context.Context) error { _, err := s.Lookup(ctx, keys.Digest{1}); return err },
		"Again":      func(ctx context.Context) error { _, err := again(ctx, s, keys.Digest{1}, "key_abcd"); return err },
		"Create":     func(ctx context.Context) error { return s.Create(ctx, keystest.Sample()) },
		"link":       func(ctx context.Context) error { _, _, err := s.link(ctx, keys.Digest{1}, "key_abcd"); return err },
		"dropRecord": func(ctx context.Context) error { return s.dropRecord(ctx, "key_abcd", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			defer cancel()
			start := time.Now()
			err := call(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestStoreNotReachable(t *testing.T) {
	c := keystest.NewEmbedded(t)
	c.Close()
	s := New(c)
	_, lookup := s.Lookup(t.Context(), keys.Digest{1})
	for _, err := range []error{lookup, s.Create(t.Context(), keystest.Sample())} {
		var corrupt *keys.CorruptError
		if err == nil || errors.Is(err, keys.ErrUnknown) || errors.Is(err, ErrExists) || errors.As(err, &corrupt) {
			t.Errorf("a closed store says %v", err)
		}
	}
	// The second trip fails too.
	c = keystest.NewEmbedded(t)
	s = New(c)
	if err := s.Create(t.Context(), keystest.Sample()); err != nil {
		t.Fatal(err)
	}
	c.AddHook(keystest.DieAlways("tg:v1:key:"))
	if _, err := s.Lookup(t.Context(), keystest.Sample().Digest); !errors.Is(err, keystest.ErrDied) {
		t.Errorf("Lookup = %v", err)
	}
}

// A record that is as it was is said to be the same, unless it is to be decoded in any case.
func TestReadingsKnowAnUnchangedRecord(t *testing.T) {
	s, k := New(keystest.NewEmbedded(t)), keystest.Sample()
	if err := s.Create(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	first := s.LookupMany(t.Context(), []LookupRequest{{Digest: k.Digest}}, nil)[0]
	list := []LookupRequest{{k.Digest, k.ID, first.RecordHash}, {k.Digest, k.ID, 0}, {k.Digest, "key_other", first.RecordHash}, {k.Digest, k.ID, first.RecordHash + 1}}
	for i, r := range s.LookupMany(t.Context(), list, nil) {
		if r.Err != nil || r.Unchanged != (i == 0) || (r.Key == nil) != r.Unchanged || r.RecordHash != first.RecordHash {
			t.Errorf("%d: %+v", i, r)
		}
	}
}
