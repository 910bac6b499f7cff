package standing

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

// A server remembers which store it has, and does not take the word of one that was emptied;
// commands and other servers that come to it cannot make it theirs. An operator ends that, or a
// restart, or that the keys are there again.
func TestStanding(t *testing.T) {
	keystest.Parts{
		"emptied": testEmptied, "claimed by others": testEmptiedAndClaimed, "accepted": testAcceptEmpty, "refilled": testRefilled,
		"before there were marks": testStoreWithoutMarks, "pepper changed": testPepperChangesLater, "pepper deleted": testPepperDeleted,
		"vouching": testVouch, "a mark that is none": testBrokenMark, "pepper": testPepper,
	}.OnEveryStore(t, accepting())
}

// asServer is what a server may do here.
func asServer() connect.ACL {
	return connect.Join(store.RecordsACL(), store.ListsACL(), ACL(), EvictionACL())
}

// accepting are the rights of a server and of the operator, who accepts an empty store.
func accepting() connect.ACL {
	return connect.Join(asServer(), connect.ACL{Commands: []string{"smembers"}})
}

func pepper(text string) *keys.Hasher { return keys.NewHasher([]byte(text)) }

// expect expects that the next look finds the store as told.
func (w *Standing) expect(t *testing.T, what string, ready, emptied bool) {
	t.Helper()
	state, err := w.Look(t.Context())
	if err != nil || state.Ready() != ready || state.Emptied != emptied {
		t.Errorf("%s: %+v", what, state)
	}
	if vouched := w.Vouch(t.Context(), "key"); (vouched == nil) != (ready && state.Pepper == nil) || vouched != nil && !errors.Is(vouched, ErrUnvouched) {
		t.Errorf("%s: vouches %v", what, vouched)
	}
}

func testEmptied(t *testing.T, c redis.UniversalClient) {
	told := 0
	w := New(c, pepper("a"), Options{Timeout: 10 * time.Second, Emptied: func() { told++ }})
	w.expect(t, "a new store", true, false)
	w.expect(t, "the same", true, false)
	keystest.Empty(t, c)
	w.expect(t, "emptied", false, true)
	w.expect(t, "still", false, true)
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	again, state := standing(t, c, pepper("a"))
	if !state.Ready() {
		t.Errorf("after a restart: %+v", state)
	}
	again.expect(t, "after a restart", true, false)
	w.expect(t, "the one that was not restarted", false, true)
}

// What remembers the store puts the check of its pepper back, so that it is nobody else's.
func testEmptiedAndClaimed(t *testing.T, c redis.UniversalClient) {
	s := store.New(c)
	w, _ := standing(t, c, pepper("a"))
	keystest.Empty(t, c)
	if err := CheckPepper(t.Context(), c, pepper("b")); !errors.Is(err, ErrUnclaimed) {
		t.Errorf("a command at once: %v", err)
	}
	w.expect(t, "emptied", false, true)
	if err := CheckPepper(t.Context(), c, pepper("b")); !errors.Is(err, ErrPepper) {
		t.Errorf("a command with another pepper: %v", err)
	}
	if err := CheckPepper(t.Context(), c, pepper("a")); err != nil {
		t.Errorf("a command: %v", err)
	}
	if _, state := standing(t, c, pepper("b")); state.Ready() || !errors.Is(state.Pepper, ErrPepper) {
		t.Errorf("a server with another pepper: %+v", state)
	}
	for _, key := range marksOf(s) {
		if err := c.Get(t.Context(), key).Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("%s: %v", key, err)
		}
	}
	// Nor does one that was wrong before, though nobody else is there any more.
	wrong, _ := standing(t, c, pepper("b"))
	keystest.Empty(t, c)
	if state, err := wrong.Look(t.Context()); err != nil || state.Ready() || !errors.Is(CheckPepper(t.Context(), c, pepper("b")), ErrUnclaimed) {
		t.Errorf("a server that had another pepper: %+v, %v", state, err)
	}
	if err := AcceptEmpty(t.Context(), c, pepper("b")); err != nil {
		t.Fatal(err)
	}
	wrong.expect(t, "the pepper of an accepted store", true, false)
	// A server without a mark, of an earlier version, that was first.
	keystest.Empty(t, c)
	c.Set(t.Context(), pepperKey, newPepperCheck(pepper("b")), 0)
	w.expect(t, "with a pepper of another", false, true)
}

func testAcceptEmpty(t *testing.T, c redis.UniversalClient) {
	s, ctx := store.New(c), t.Context()
	accept := func(h *keys.Hasher) {
		t.Helper()
		if err := AcceptEmpty(ctx, c, h); err != nil {
			t.Error(err)
		}
	}
	accept(pepper("a")) // a new store, for the commands
	if err := CheckPepper(ctx, c, pepper("a")); err != nil {
		t.Error(err)
	}
	w, _ := standing(t, c, pepper("a"))
	keystest.Empty(t, c)
	accept(pepper("a")) // before anybody has noticed
	w.expect(t, "accepted at once", true, false)
	keystest.Empty(t, c)
	w.expect(t, "emptied", false, true)
	restarted, _ := standing(t, c, pepper("a"))
	accept(pepper("a"))
	accept(pepper("a"))
	w.expect(t, "accepted", true, false)
	restarted.expect(t, "restarted before", true, false)
	// Another store, which an operator accepted once, is another store.
	marks := map[string]string{}
	for _, key := range marksOf(s) {
		marks[key] = c.Get(ctx, key).Val()
		c.Set(ctx, key, newMark().String()+":1790000000000", 0)
	}
	w.expect(t, "another store", false, true)
	for key, text := range marks {
		c.Set(ctx, key, text, 0)
	}
	w.expect(t, "the store again", true, false)
	// One that another pepper has claimed without any key.
	keystest.Empty(t, c)
	wrong, _ := standing(t, c, pepper("b"))
	w.expect(t, "claimed by another", false, true)
	accept(pepper("a"))
	w.expect(t, "taken back", true, false)
	wrong.expect(t, "the other", true, false) // it was ready, and says nothing of keys that it does not find
	if state := wrong.State(); !errors.Is(state.Pepper, ErrPepper) {
		t.Errorf("the other: %+v", state)
	}
	// With keys it is not given to another pepper.
	if err := s.Create(ctx, keystest.Sample()); err != nil {
		t.Fatal(err)
	}
	if err := AcceptEmpty(ctx, c, pepper("b")); !errors.Is(err, ErrPepper) || !strings.Contains(err.Error(), "There are keys of pixelbyte") {
		t.Errorf("a store with keys: %v", err)
	}
	accept(pepper("a"))
}

func testRefilled(t *testing.T, c redis.UniversalClient) {
	w, _ := standing(t, c, pepper("a"))
	other, _ := standing(t, c, pepper("a"))
	keystest.Empty(t, c)
	w.expect(t, "emptied", false, true)
	if err := w.Refilled(t.Context()); err != nil {
		t.Error(err)
	}
	w.expect(t, "refilled", true, false)
	other.expect(t, "another", false, true)
}

// A store from before, whose servers know of no marks.
func testStoreWithoutMarks(t *testing.T, c redis.UniversalClient) {
	check := newPepperCheck(pepper("a"))
	c.Set(t.Context(), pepperKey, check, 0)
	w, _ := standing(t, c, pepper("a"))
	second, _ := standing(t, c, pepper("a"))
	if got := c.Get(t.Context(), pepperKey).Val(); got != check {
		t.Errorf("the check is %q", got)
	}
	w.expect(t, "the first", true, false)
	second.expect(t, "the second", true, false)
	keystest.Empty(t, c)
	c.Set(t.Context(), pepperKey, newPepperCheck(pepper("a")), 0) // by a server of before, restarted
	w.expect(t, "emptied", false, true)
	second.expect(t, "emptied, the second", false, true)
}

// One that was ready stays so, and takes nobody's word that a key is unknown.
func testPepperChangesLater(t *testing.T, c redis.UniversalClient) {
	w, _ := standing(t, c, pepper("a"))
	rollout := keys.NewHasher([]byte("a"), keys.Method{Pepper: []byte("b")})
	prepared, _ := standing(t, c, rollout)
	next := keys.NewHasher([]byte("b"), keys.Method{Pepper: []byte("a")})
	if _, state := standing(t, c, next); !state.Adopted {
		t.Errorf("%+v", state)
	}
	for range 2 {
		w.expect(t, "not prepared", true, false)
		if state := w.State(); !errors.Is(state.Pepper, ErrPepper) {
			t.Errorf("not prepared: %+v", state)
		}
		prepared.expect(t, "prepared", true, false)
		if state := prepared.State(); state.Pepper != nil || state.Adopted {
			t.Errorf("prepared: %+v", state)
		}
	}
	c.Set(t.Context(), pepperKey, newPepperCheck(pepper("a")), 0)
	w.expect(t, "back", true, false)
	if state := w.State(); state.Pepper != nil {
		t.Errorf("back: %+v", state)
	}
}

func testPepperDeleted(t *testing.T, c redis.UniversalClient) {
	w, _ := standing(t, c, pepper("a"))
	c.Del(t.Context(), pepperKey)
	w.expect(t, "deleted", true, false)
	if err := CheckPepper(t.Context(), c, pepper("a")); err != nil {
		t.Error(err)
	}
}

// Vouching sees at once what the next look would.
func testVouch(t *testing.T, c redis.UniversalClient) {
	fresh := New(c, pepper("a"), Options{})
	if err := fresh.Vouch(t.Context(), "key"); !errors.Is(err, ErrUnvouched) {
		t.Errorf("before the first look: %v", err)
	}
	w, _ := standing(t, c, pepper("a"))
	ended, end := context.WithCancel(t.Context())
	end()
	if err := w.Vouch(ended, "key"); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("%v", err)
	}
	for i := range 100 {
		if err := w.Vouch(t.Context(), strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	wrong, _ := standing(t, c, pepper("b"))
	if err := wrong.Vouch(t.Context(), "key"); !errors.Is(err, ErrPepper) || !errors.Is(err, ErrUnvouched) {
		t.Errorf("with a wrong pepper: %v", err)
	}
	keystest.Empty(t, c)
	if err := w.Vouch(t.Context(), "key"); !errors.Is(err, ErrEmptied) {
		t.Errorf("emptied: %v", err)
	}
}

func testBrokenMark(t *testing.T, c redis.UniversalClient) {
	s := store.New(c)
	key := marksOf(s)[0]
	c.SAdd(t.Context(), key, "x")
	w, state := standing(t, c, pepper("a"))
	var corrupt *keys.CorruptError
	if !state.Ready() || !errors.As(state.Unseen, &corrupt) {
		t.Errorf("%+v", state)
	}
	if err := AcceptEmpty(t.Context(), c, pepper("a")); err != nil {
		t.Error(err)
	}
	w.expect(t, "mended", true, false)
	if state := w.State(); state.Unseen != nil {
		t.Errorf("mended: %+v", state)
	}
	c.Set(t.Context(), key, "x", 0)
	w.expect(t, "broken later", false, true)
}

// A store that a server has used says so, until it is emptied; the check of a pepper alone does not
// count.
func TestCheckClaimed(t *testing.T) {
	c := keystest.NewEmbedded(t)
	claimed := func(what string, want error) {
		t.Helper()
		if err := CheckClaimed(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	claimed("a new store", ErrUnclaimed)
	standing(t, c, pepper("a"))
	claimed("in use", nil)
	for _, key := range marksOf(store.New(c)) {
		c.Del(t.Context(), key)
	}
	claimed("emptied, with the check of a pepper", ErrUnclaimed)
	c.AddHook(keystest.DieAlways("tg:v1:"))
	claimed("away", keystest.ErrDied)
}

// A server that comes to an empty store lets those speak first that are there and remember it.
func TestClaimWaitsForOthers(t *testing.T) {
	c := keystest.NewEmbedded(t)
	old, _ := standing(t, c, pepper("a"))
	listener := c.Subscribe(t.Context(), keystest.Changes)
	defer listener.Close()
	if _, err := listener.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	keystest.Empty(t, c)
	found := make(chan State)
	go func() {
		_, state := standing(t, c, pepper("b"))
		found <- state
	}()
	select {
	case state := <-found:
		t.Fatalf("it did not wait: %+v", state)
	case <-time.After(2 * claimPoll):
	}
	old.expect(t, "emptied", false, true)
	if state := <-found; !errors.Is(state.Pepper, ErrPepper) {
		t.Errorf("%+v", state)
	}
	// Where those who listen remember nothing, it does not wait for ever.
	keystest.Empty(t, c)
	w := New(c, pepper("b"), Options{})
	w.wait = time.Millisecond
	if state, err := w.Look(t.Context()); err != nil || !state.Ready() {
		t.Errorf("%+v", state)
	}
}

// Each node of a cluster that is emptied loses a mark of its own.
func TestMarksOfACluster(t *testing.T) {
	marks := marksOf(store.New(redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})))
	if len(marks) != clusterMarks {
		t.Fatalf("%d marks", len(marks))
	}
	for i, key := range marks {
		if slot := slotOf(key); slot/(slots/clusterMarks) != i || slotOf(key+":probe") != slot {
			t.Errorf("%d: %s is in slot %d", i, key, slot)
		}
	}
	// From the specification, and as CLUSTER KEYSLOT says.
	for key, want := range map[string]int{"123456789": 12739, "{user1000}.following": slotOf("user1000"), "a{}b": slotOf("a{}b"), "foo{{bar}}zap": slotOf("{bar"), "foo": 12182} {
		if got := slotOf(key); got != want {
			t.Errorf("slot of %s: %d, want %d", key, got, want)
		}
	}
}

// A store that takes no writes is told apart from one that does not answer; a failover is no reason
// to worry.
func TestStoreThatTakesNoWrites(t *testing.T) {
	c := keystest.NewServer(t)
	now := time.Unix(1_800_000_000, 0)
	options := Options{Timeout: 10 * time.Second, Now: func() time.Time { return now }}
	w := New(c, pepper("a"), options)
	w.expect(t, "at first", true, false)
	set := func(name, value string) {
		t.Helper()
		if err := c.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, refusal := range []struct {
		code     string
		on, off  func()
		restarts bool
	}{
		{"OOM", func() { set("maxmemory", "1") }, func() { set("maxmemory", "0") }, true},
		{"NOREPLICAS", func() { set("min-replicas-to-write", "1") }, func() { set("min-replicas-to-write", "0") }, true},
		{"READONLY", func() { c.Do(t.Context(), "replicaof", "127.0.0.1", "1") }, func() { c.Do(t.Context(), "replicaof", "no", "one") }, true},
	} {
		refusal.on()
		w.expect(t, refusal.code, true, false)
		if state := w.State(); !redis.HasErrorPrefix(state.Writes, refusal.code) || state.Refuses {
			t.Errorf("%s at first: %+v", refusal.code, state)
		}
		now = now.Add(writesGrace)
		w.expect(t, refusal.code, true, false)
		if state := w.State(); !state.Refuses {
			t.Errorf("%s later: %+v", refusal.code, state)
		}
		late := New(c, pepper("a"), options)
		late.expect(t, refusal.code+" since its start", true, false)
		if state := late.State(); !state.Refuses {
			t.Errorf("%s since its start: %+v", refusal.code, state)
		}
		refusal.off()
		w.expect(t, "again", true, false)
		if state := w.State(); state.Writes != nil || state.Refuses {
			t.Errorf("after %s: %+v", refusal.code, state)
		}
	}
	if n := c.DBSize(t.Context()).Val(); n != 2 {
		t.Errorf("%d keys in the store, want the check and the mark", n)
	}
}

// A node of a cluster that is taken for a server by itself may have the pepper's check, and has not
// the rest.
func TestNodeTakenForAServer(t *testing.T) {
	for _, node := range redistest.StartCluster(t, 3) {
		client := redis.NewClient(&redis.Options{Addr: node.Address(), MaxRetries: -1, ContextTimeoutEnabled: true})
		t.Cleanup(func() { client.Close() })
		w := New(client, pepper("a"), Options{Timeout: 10 * time.Second})
		for range 2 {
			if state, err := w.Look(t.Context()); !redis.HasErrorPrefix(err, "MOVED") || state.Reached {
				t.Errorf("%v: %+v", err, state)
			}
		}
	}
}

// Where one node of a cluster takes no writes, requests are counted on the others.
func TestNodeThatTakesNoWrites(t *testing.T) {
	nodes := redistest.StartCluster(t, 2)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Address()}, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	now := time.Unix(1_800_000_000, 0)
	options := Options{Timeout: 10 * time.Second, Now: func() time.Time { return now }}
	w := New(client, pepper("a"), options)
	w.expect(t, "at first", true, false)
	for _, full := range []bool{false, true} {
		nodes[map[bool]int{false: 0, true: 1}[full]].Do(t, "config", "set", "maxmemory", "1")
		for _, w := range []*Standing{w, New(client, pepper("a"), options)} {
			w.expect(t, "full", true, false)
			now = now.Add(writesGrace)
			w.expect(t, "full for long", true, false)
			if state := w.State(); !redis.HasErrorPrefix(state.Writes, "OOM") || state.Refuses != full {
				t.Errorf("all nodes full: %t: %+v", full, state)
			}
		}
	}
}

// Nobody has said what the keys of a store are that takes no writes and was never used: it is
// neither ready nor believed, and it is told apart from one that is away.
func TestNewStoreThatTakesNoWrites(t *testing.T) {
	c := keystest.NewServer(t)
	c.Do(t.Context(), "replicaof", "127.0.0.1", "1")
	w, state := standing(t, c, pepper("a"))
	if state.Ready() || !state.Reached || state.Pepper != nil || !redis.HasErrorPrefix(state.Writes, "READONLY") {
		t.Errorf("%+v", state)
	}
	if err := w.Vouch(t.Context(), "key"); !errors.Is(err, ErrUnvouched) {
		t.Errorf("it is believed: %v", err)
	}
	c.Do(t.Context(), "replicaof", "no", "one")
	w.expect(t, "it takes them", true, false)
	// A change of the pepper waits until it can be noted.
	c.Do(t.Context(), "replicaof", "127.0.0.1", "1")
	w, state = standing(t, c, keys.NewHasher([]byte("b"), keys.Method{Pepper: []byte("a")}))
	if !state.Ready() || state.Adopted || !redis.HasErrorPrefix(state.Writes, "READONLY") {
		t.Errorf("%+v", state)
	}
	c.Do(t.Context(), "replicaof", "no", "one")
	w.expect(t, "noted", true, false)
	if !w.State().Adopted {
		t.Error("the new pepper is not noted")
	}
}

// What a store that has gone silent would take is not known to have changed.
func TestSilentStoreTakesNoWrites(t *testing.T) {
	c := keystest.NewServer(t)
	w, _ := standing(t, c, pepper("a"))
	if err := c.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "full", true, false)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if state, err := w.Look(ended); err == nil || state.Writes == nil || state.Silent == nil {
		t.Errorf("%v, %+v", err, state)
	}
}

// A full store is one that drops keys, unless it is told not to.
func TestStoreThatEvicts(t *testing.T) {
	for _, make := range []func(*testing.T) redis.UniversalClient{keystest.NewServer, func(t *testing.T) redis.UniversalClient { return keystest.NewClusterAs(t, asServer()) }} {
		c := make(t)
		w, state := standing(t, c, pepper("a"))
		if state.Evicts != "" {
			t.Errorf("%+v", state)
		}
		if err := c.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
			t.Fatal(err)
		}
		for range evictionEvery {
			if _, err := w.Look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if state := w.State(); state.Evicts != "allkeys-lru" {
			t.Errorf("%+v", state)
		}
	}
}

// With the rights of an earlier version a server serves, and says what it does not see.
func TestStandingWithoutRights(t *testing.T) {
	c := keystest.NewServer(t)
	if err := c.Do(t.Context(), "acl", "setuser", "old", "on", ">old", "~tg:v1:pepper", "&tg:v1:changes", "+ping", "+get", "+set", "+eval", "+evalsha", "+time", "+publish").Err(); err != nil {
		t.Fatal(err)
	}
	options := *c.(*redis.Client).Options()
	options.Username, options.Password = "old", "old"
	old := redis.NewClient(&options)
	defer old.Close()
	w, state := standing(t, old, pepper("a"))
	if !state.Ready() || !redis.HasErrorPrefix(state.Unseen, "NOPERM") {
		t.Errorf("%+v", state)
	}
	w.expect(t, "again", true, false)
	if err := c.Do(t.Context(), "acl", "setuser", "old", "~tg:v1:store:*", "+info").Err(); err != nil {
		t.Fatal(err)
	}
	for range evictionEvery {
		w.expect(t, "with them", true, false)
	}
	if state := w.State(); state.Unseen != nil {
		t.Errorf("%+v", state)
	}
	keystest.Empty(t, c)
	w.expect(t, "emptied", false, true)
}

// Ready reports whether the store has been reached, and the server can answer for its keys, or
// could before it fell silent.
func (s State) Ready() bool { return s.Reached && s.Fits && !s.Emptied }
