package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
)

func TestCreateAndLookup(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		s := NewStore(c)
		if _, err := s.Lookup(t.Context(), fullKey().Digest); !errors.Is(err, ErrUnknown) {
			t.Fatalf("empty store: %v", err)
		}
		for _, status := range []Status{Active, Inactive, Revoked, Deleted} {
			k := fullKey()
			k.ID, k.Status, k.Digest = "key_"+string(status), status, Digest{byte(len(status)), status[0]}
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
		if got := c.Get(t.Context(), "tg:v1:secret:"+(Digest{6, 'a'}).hex()).Val(); got != "key_active" {
			t.Errorf("the secret leads to %q", got)
		}
		if ttl := c.TTL(t.Context(), "tg:v1:key:{key_active}").Val(); ttl != -1 {
			t.Errorf("the record ends in %v", ttl)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		s := NewStore(c)
		first := sample()
		if err := s.Create(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		other := func(k *Key) { k.Digest = Digest{9} }
		tombstone := sample(func(k *Key) { k.ID, k.Status, k.Digest = "key_gone", Deleted, Digest{8} })
		s.putTest(t, tombstone)
		alive := *tombstone
		alive.Status = Active
		for _, test := range []struct {
			name string
			key  *Key
			want error
		}{
			{"other secret", sample(other), ErrExists},
			{"other fields", sample(func(k *Key) { k.Scopes = []string{"admin"} }), ErrExists},
			{"a tombstone's id", sample(other, func(k *Key) { k.ID = "key_gone" }), ErrExists},
			{"a tombstone's id and secret", &alive, ErrExists},
			{"another key's secret", sample(func(k *Key) { k.ID = "key_second" }), ErrSecretTaken},
		} {
			if err := s.Create(t.Context(), test.key); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", test.name, err, test.want)
			}
		}
		var field *FieldError
		if err := s.Create(t.Context(), sample(func(k *Key) { k.ID = "x" })); !errors.As(err, &field) || field.Field != "id" {
			t.Errorf("invalid key: %v", err)
		}
		if n := c.Exists(t.Context(), recordKey("key_second")).Val(); n != 0 {
			t.Error("the record of the refused key stayed")
		}
		if _, err := s.Lookup(t.Context(), Digest{8}); !errors.Is(err, ErrUnknown) {
			t.Errorf("the tombstone was revived: %v", err)
		}
		if _, err := s.Lookup(t.Context(), Digest{9}); !errors.Is(err, ErrUnknown) {
			t.Errorf("a refused secret works: %v", err)
		}
		if got, err := s.Lookup(t.Context(), first.Digest); err != nil || !reflect.DeepEqual(got, first) {
			t.Errorf("the first key changed: %+v, %v", got, err)
		}
	})
}

// putTest writes only the record, as a process that dies between the two steps does.
func (s *Store) putTest(t *testing.T, k *Key) {
	t.Helper()
	data, err := encodeRecord(k)
	if err != nil {
		t.Fatal(err)
	}
	if made, err := s.client.SetNX(t.Context(), recordKey(k.ID), data, 0).Result(); err != nil || !made {
		t.Fatal(made, err)
	}
}

// dieBefore is a hook that, while armed, ends every command with an argument that starts with what before it is sent.
type dieBefore struct {
	what  string
	armed atomic.Bool
}

func dieAlways(what string) *dieBefore {
	d := &dieBefore{what: what}
	d.armed.Store(true)
	return d
}

var errDied = errors.New("died here")

func (d *dieBefore) DialHook(next redis.DialHook) redis.DialHook { return next }
func (d *dieBefore) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for i, cmd := range cmds {
			if !d.hits(cmd) {
				continue
			}
			if i > 0 {
				next(ctx, cmds[:i])
			}
			for _, unsent := range cmds[i:] {
				unsent.SetErr(errDied)
			}
			return errDied
		}
		return next(ctx, cmds)
	}
}
func (d *dieBefore) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if d.hits(cmd) {
			cmd.SetErr(errDied)
			return errDied
		}
		return next(ctx, cmd)
	}
}

func (d *dieBefore) hits(cmd redis.Cmder) bool {
	for _, arg := range cmd.Args() {
		if s, ok := arg.(string); ok && d.armed.Load() && strings.HasPrefix(s, d.what) {
			return true
		}
	}
	return false
}

func TestCreateAfterACrash(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		s, k := NewStore(c), fullKey()
		crash := dieAlways("tg:v1:secret:")
		c.AddHook(crash)
		if err := s.Create(t.Context(), k); !errors.Is(err, errDied) {
			t.Fatalf("the crash did not happen: %v", err)
		}
		crash.armed.Store(false)
		if _, err := s.Lookup(t.Context(), k.Digest); !errors.Is(err, ErrUnknown) {
			t.Fatalf("half a key answers: %v", err)
		}
		if err := s.Create(t.Context(), k); err != nil {
			t.Fatalf("not completed: %v", err)
		}
		if got, err := s.Lookup(t.Context(), k.Digest); err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("Lookup = %+v, %v", got, err)
		}

		// The same id and secret with other details: the record that stands is completed and stays as it is.
		half := sample(func(k *Key) { k.ID, k.Digest = "key_half", Digest{5} })
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
		orphan := sample(func(k *Key) { k.ID, k.Digest = "key_orphan", Digest{5} })
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
	c := newEmbedded(t)
	s := NewStore(c)
	if err := s.Create(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	c.AddHook(dieAlways(s.scripts.unmake.Hash()))
	err := s.Create(t.Context(), sample(func(k *Key) { k.ID = "key_second" }))
	if !errors.Is(err, ErrSecretTaken) || !errors.Is(err, errDied) || !strings.Contains(err.Error(), "key_second") {
		t.Errorf("Create = %v", err)
	}
}

// A record that changed since it was made must survive the clean-up of a refused create.
func TestDropRecordLeavesAnotherRecord(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		s := NewStore(c)
		s.putTest(t, sample())
		if err := s.dropRecord(t.Context(), sample().ID, []byte("other")); err != nil {
			t.Fatal(err)
		}
		if c.Exists(t.Context(), recordKey(sample().ID)).Val() != 1 {
			t.Error("another record was removed")
		}
	})
}

func TestCreateRace(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		s := NewStore(c)
		results := make([]error, 16)
		var wg sync.WaitGroup
		for i := range results {
			k := sample(func(k *Key) { k.ID = "key_race" + string(base62[i]) }) // one secret, many ids
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
			records += int(c.Exists(t.Context(), recordKey("key_race"+string(base62[i]))).Val())
		}
		if won != 1 || records != 1 {
			t.Errorf("%d creates won and %d records stand, want 1 and 1", won, records)
		}
		if _, err := s.Lookup(t.Context(), sample().Digest); err != nil {
			t.Error(err)
		}
	})
}

func TestLookupOfCorruptRecords(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		ctx, s, d := t.Context(), NewStore(c), Digest{1, 2, 3}
		good, _ := encodeRecord(sample())
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
		expectCorrupt(t, "create over a list", s.Create(ctx, sample()), "key_pb_full", "not a string")
		c.Del(ctx, secretKey(d))
		c.RPush(ctx, secretKey(d), "x")
		_, err = s.Lookup(ctx, d)
		expectCorrupt(t, "a list for an id", err, "", "not a string")
		// The others go on.
		whole := sample(func(k *Key) { k.ID, k.Digest = "key_whole", Digest{7} })
		if err := s.Create(ctx, whole); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Lookup(ctx, whole.Digest); err != nil {
			t.Error(err)
		}
	})
}

// again looks up a secret that belonged to the key id.
func again(ctx context.Context, s *Store, d Digest, id string) (*Key, error) {
	r := s.readings(ctx, []owned{{digest: d, id: id}}, s.pipeline)[0]
	return r.key, r.err
}

// A second look-up is one round trip while the secret belongs to the same key, and finds what the first would.
func TestLookupAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		ctx, s, k := t.Context(), NewStore(c), sample()
		if err := s.Create(ctx, k); err != nil {
			t.Fatal(err)
		}
		trips := &tripCounter{}
		c.AddHook(trips)
		for _, test := range []struct {
			name  string
			id    string
			trips int64
		}{{"the same key", k.ID, 1}, {"another key before", "key_other", 2}, {"no key before", "", 2}} {
			trips.n.Store(0)
			got, err := again(ctx, s, k.Digest, test.id)
			if err != nil || !reflect.DeepEqual(got, k) || trips.n.Load() != test.trips {
				t.Errorf("%s: %v, %v, %d trips", test.name, got, err, trips.n.Load())
			}
		}
		if _, err := again(ctx, s, Digest{9}, k.ID); !errors.Is(err, ErrUnknown) {
			t.Errorf("a secret of nobody: %v", err)
		}
	})
}

// Each reading has what is said of its own secret, whatever is wrong with others that share its round trip.
func TestReadingsAreApart(t *testing.T) {
	onEveryStoreAs(t, connect.ServerACL(), func(t *testing.T, client redis.UniversalClient) {
		s := NewStore(client)
		trips := &tripCounter{}
		client.AddHook(trips)
		admin := administrator(t, client)
		key := func(n int) *Key {
			return sample(func(k *Key) { k.ID, k.Digest = fmt.Sprintf("key_apart%d", n), digestOf(n) })
		}
		for n := range 8 {
			create(t, client, key(n))
		}
		ctx := t.Context()
		broken := []func(n int){
			2: func(n int) { admin.Del(ctx, recordKey(key(n).ID)); admin.RPush(ctx, recordKey(key(n).ID), "x") },
			3: func(n int) { admin.Del(ctx, secretKey(digestOf(n))); admin.RPush(ctx, secretKey(digestOf(n)), "x") },
			4: func(n int) { admin.Set(ctx, recordKey(key(n).ID), "{", 0) },
			5: func(n int) { admin.Del(ctx, recordKey(key(n).ID)) },
			6: func(n int) { admin.Del(ctx, secretKey(digestOf(n))) },
			7: func(n int) {
				change(t, client, sample(func(k *Key) { k.ID, k.Digest = "key_moved", digestOf(n) }), false)
			},
		}
		for n, spoil := range broken {
			if spoil != nil {
				spoil(n)
			}
		}
		admin.Set(ctx, secretKey(digestOf(7)), "key_moved", 0)
		var list []owned
		for n := range 8 {
			list = append(list, owned{digest: digestOf(n), id: key(n).ID}, owned{digest: digestOf(n)}) // known here, and not
		}
		expect := func(i int, r reading) {
			got := fmt.Sprint(r.err)
			if r.err == nil {
				got = r.key.ID
			}
			want := []string{"key_apart0", "key_apart1", "not a string", "not a string", "not a record", "missing", ErrUnknown.Error(), "key_moved"}[i/2]
			if !strings.Contains(got, want) || TellsOfStore(r.err) {
				t.Errorf("%+v: %s, want %s", list[i], got, want)
			}
		}
		trips.n.Store(0)
		for i, r := range s.readings(ctx, list, s.pipeline) {
			expect(i, r)
		}
		if n := trips.n.Load(); n != 2 {
			t.Errorf("%d round trips", n)
		}
	})
}

// A record that is as it was is said to be the same, unless it is to be decoded in any case.
func TestReadingsKnowAnUnchangedRecord(t *testing.T) {
	client := newEmbedded(t)
	s, k := NewStore(client), sample()
	create(t, client, k)
	first := s.readings(t.Context(), []owned{{digest: k.Digest}}, s.pipeline)[0]
	list := []owned{{k.Digest, k.ID, first.sum}, {k.Digest, k.ID, 0}, {k.Digest, "key_other", first.sum}, {k.Digest, k.ID, first.sum + 1}}
	for i, r := range s.readings(t.Context(), list, s.pipeline) {
		if r.err != nil || r.same != (i == 0) || (r.key == nil) != r.same || r.sum != first.sum {
			t.Errorf("%d: %+v", i, r)
		}
	}
}

// tripCounter counts the round trips of GETs; a new connection has some of its own.
type tripCounter struct{ n atomic.Int64 }

func (h *tripCounter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *tripCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "get" {
			h.n.Add(1)
		}
		return next(ctx, cmd)
	}
}
func (h *tripCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "get" {
			h.n.Add(1)
		}
		return next(ctx, cmds)
	}
}

func expectCorrupt(t *testing.T, name string, err error, id, want string) {
	t.Helper()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.ID != id || !strings.Contains(err.Error(), want) || errors.Unwrap(corrupt) == nil {
		t.Errorf("%s: %v, want a CorruptError of %q with %q", name, err, id, want)
		return
	}
	if id != "" && !strings.Contains(err.Error(), id) || strings.Contains(err.Error(), sample().Digest.hex()) {
		t.Errorf("%s: the text is %s", name, err)
	}
}

func TestSeed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, c redis.UniversalClient) {
		ctx, s, h := t.Context(), NewStore(c), NewHasher([]byte("pepper"))
		secret, second := NewSecret("pb_"), NewSecret("pb_")
		file := func() []Entry {
			plain, hashed := sample(), sample(func(k *Key) { k.ID, k.Digest = "key_hash", h.Digest(second) })
			plain.Digest = Digest{}
			return []Entry{{Key: *plain, Secret: secret}, {Key: *hashed}}
		}
		entries := file()
		if added, err := s.Seed(ctx, entries, h); added != 2 || err != nil {
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
		revoked := sample(func(k *Key) { k.Status, k.Digest, k.Version = Revoked, h.Digest(secret), 2 })
		data, _ := encodeRecord(revoked)
		c.Set(ctx, recordKey(revoked.ID), data, 0)
		gone, _ := encodeRecord(sample(func(k *Key) { k.ID, k.Status, k.Digest = "key_hash", Deleted, h.Digest(second) }))
		c.Set(ctx, recordKey("key_hash"), gone, 0)
		c.Del(ctx, secretKey(h.Digest(second)))
		third := sample(func(k *Key) { k.ID, k.Digest = "key_third", Digest{3} })
		if added, err := s.Seed(ctx, append(file(), Entry{Key: *third}), h); added != 1 || err != nil {
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
	c := newEmbedded(t)
	s, h := NewStore(c), NewHasher(nil)
	secret := NewSecret("pb_")
	plain := func(id string) Entry {
		return Entry{Key: *sample(func(k *Key) { k.ID, k.Digest = id, Digest{} }), Secret: secret}
	}
	hashed := func(id string, d Digest) Entry { return Entry{Key: *sample(func(k *Key) { k.ID, k.Digest = id, d })} }
	none := plain("key_none")
	none.Secret = ""
	for name, entries := range map[string][]Entry{
		"one secret twice, plain and hashed": {plain("key_one1"), hashed("key_two2", h.Digest(secret))},
		"neither secret nor hash":            {hashed("key_one1", Digest{1}), none},
		"an invalid key":                     {hashed("key_one1", Digest{1}), hashed("x", Digest{2})},
	} {
		if added, err := s.Seed(t.Context(), entries, h); err == nil || added != 0 || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %d, %v", name, added, err)
		}
	}
	if _, err := s.Seed(t.Context(), []Entry{plain("key_one1")}, nil); err == nil {
		t.Error("a plain secret without a hasher passed")
	}
	if n := c.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys were written", n)
	}
	if err := s.Create(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	added, err := s.Seed(t.Context(), []Entry{hashed("key_one1", Digest{1}), hashed("key_two2", sample().Digest)}, nil)
	if added != 1 || !errors.Is(err, ErrSecretTaken) || !strings.Contains(err.Error(), "key_two2") {
		t.Errorf("a secret of another key: %d, %v", added, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if added, err := s.Seed(ctx, []Entry{hashed("key_six6", Digest{6})}, nil); added != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled seed: %d, %v", added, err)
	}
}

// silent is a server that takes connections and never answers.
func silent(t *testing.T) redis.UniversalClient {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	c := redis.NewClient(&redis.Options{Addr: l.Addr().String(), MaxRetries: -1, ContextTimeoutEnabled: true,
		ReadTimeout: time.Minute, DialTimeout: time.Minute})
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDeadline(t *testing.T) {
	s := NewStore(silent(t))
	for name, call := range map[string]func(context.Context) error{
		"Lookup":     func(ctx context.Context) error { _, err := s.Lookup(ctx, Digest{1}); return err },
		"Again":      func(ctx context.Context) error { _, err := again(ctx, s, Digest{1}, "key_abcd"); return err },
		"Create":     func(ctx context.Context) error { return s.Create(ctx, sample()) },
		"Seed":       func(ctx context.Context) error { _, err := s.Seed(ctx, []Entry{{Key: *sample()}}, nil); return err },
		"link":       func(ctx context.Context) error { _, _, err := s.link(ctx, Digest{1}, "key_abcd"); return err },
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
	c := newEmbedded(t)
	c.Close()
	s := NewStore(c)
	_, lookup := s.Lookup(t.Context(), Digest{1})
	for _, err := range []error{lookup, s.Create(t.Context(), sample())} {
		var corrupt *CorruptError
		if err == nil || errors.Is(err, ErrUnknown) || errors.Is(err, ErrExists) || errors.As(err, &corrupt) {
			t.Errorf("a closed store says %v", err)
		}
	}
	// The second trip fails too.
	c = newEmbedded(t)
	s = NewStore(c)
	if err := s.Create(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	c.AddHook(dieAlways("tg:v1:key:"))
	if _, err := s.Lookup(t.Context(), sample().Digest); !errors.Is(err, errDied) {
		t.Errorf("Lookup = %v", err)
	}
}
