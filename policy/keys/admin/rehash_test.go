package admin

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

// rehashed takes every rehash, but for the keys that it fails for.
type rehashed struct {
	calls chan rehash
	fails map[string]bool
}

func (s *rehashed) Rehash(_ context.Context, id string, from, to keys.Digest) error {
	s.calls <- rehash{id, from, to}
	if s.fails[id] {
		return errors.New("away")
	}
	return nil
}

func TestRehashes(t *testing.T) {
	c := keystest.NewEmbedded(t)
	stream := audit.New(c, 1000)
	store := &rehashed{calls: make(chan rehash, 2*maxRehashes), fails: map[string]bool{"key_b": true}}
	r := NewRehashes(store, stream, roles.Actor{Name: "serve", Operator: true})
	again := make(chan time.Time)
	r.pause = func() <-chan time.Time { return again }
	failed := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	for _, id := range []string{"key_a", "key_a", "key_b", "key_a"} {
		r.Add(id, keys.Digest{1}, keys.Digest{2})
	}
	if len(r.queue) != 2 {
		t.Errorf("%d wait", len(r.queue))
	}
	go func() {
		defer close(ended)
		r.Run(ctx, func(id string, err error) { failed <- id + " " + err.Error() })
	}()
	expect := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			if got := <-store.calls; got != (rehash{id, keys.Digest{1}, keys.Digest{2}}) {
				t.Errorf("another key or digest: %s, want %s", got.id, id)
			}
		}
	}
	expect("key_a", "key_b")
	if got := <-failed; got != "key_b away" {
		t.Error(got)
	}
	audited := func(n int, result string, ids ...string) {
		t.Helper()
		var entries []audit.Entry
		keystest.Await(t, "the outcome", func(ctx context.Context) (ok bool) {
			var err error
			entries, _, err = stream.Read(ctx, "", 1000, audit.OldestFirst)
			return err == nil && len(entries) == 2*n
		})
		intent, outcome := entries[2*n-2], entries[2*n-1]
		if intent.Action != roles.ActionRehash || intent.Who != "serve" || !reflect.DeepEqual(intent.IDs, ids) || string(intent.After) != fmt.Sprintf(`{"keys":%d}`, len(ids)) {
			t.Errorf("intent %+v %s", intent, intent.After)
		}
		if outcome.Intent != intent.ID || outcome.Result != result {
			t.Errorf("outcome %+v", outcome)
		}
	}
	audited(1, "error: 1 of 2 stay as they were: key_b", "key_a", "key_b")
	keystest.Await(t, "the keys wait no more", func(context.Context) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.pending) == 0
	})
	// After a failure the next use asks again, and not before the pause is over.
	r.Add("key_a", keys.Digest{1}, keys.Digest{2})
	again <- time.Time{}
	expect("key_a")
	audited(2, "done", "key_a")
	// It goes on before that if no more may wait.
	var full []string
	for i := range maxRehashes {
		full = append(full, fmt.Sprint("key_", i))
		r.Add(full[i], keys.Digest{1}, keys.Digest{2})
	}
	expect(full...)
	audited(3, "done", full...)
	cancel()
	<-ended
	// What there is no room for is dropped.
	for i := range 2 * maxRehashes {
		r.Add(fmt.Sprint("key_z", i), keys.Digest{1}, keys.Digest{2})
	}
	if len(r.queue) != maxRehashes {
		t.Errorf("%d wait", len(r.queue))
	}
}

// Without a word in the audit stream nothing is rehashed.
func TestRehashesAreAudited(t *testing.T) {
	c := keystest.NewEmbedded(t)
	store := &rehashed{calls: make(chan rehash, 1)}
	r := NewRehashes(store, audit.New(c, 0), roles.Actor{Name: "serve", Operator: true})
	again, failed := make(chan time.Time), make(chan error)
	r.pause = func() <-chan time.Time { return again }
	if err := c.Set(t.Context(), keystest.Audit, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	go r.Run(t.Context(), func(_ string, err error) { failed <- err })
	r.Add("key_a", keys.Digest{1}, keys.Digest{2})
	if err := <-failed; !errors.Is(err, audit.ErrNotAudited) || len(store.calls) > 0 {
		t.Errorf("%v, %d calls", err, len(store.calls))
	}
}

func testSeedIsAudited(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	entry := func(id string, d byte) keyfile.Entry {
		return keyfile.Entry{Key: *keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.Digest = id, id, keys.Digest{d} })}
	}
	entries := []keyfile.Entry{entry("key_one1", 1), entry("key_two2", 2)}
	from := SeedSource{Source: "keys.yaml", SHA256: strings.Repeat("ab", 32)}
	seed := func(want int) []audit.Entry {
		t.Helper()
		if added, err := m.Seed(ctx, entries, from); added != want || err != nil {
			t.Fatalf("Seed = %d, %v", added, err)
		}
		told, _, err := m.audit.Read(ctx, "", 100, audit.OldestFirst)
		if err != nil {
			t.Fatal(err)
		}
		return told
	}
	told := seed(2)
	if len(told) != 2 || told[0].Action != roles.ActionSeed || told[1].Result != "done: added 2" ||
		string(told[0].After) != `{"source":"keys.yaml","sha256":"`+from.SHA256+`","records":2,"new":2}` {
		t.Fatalf("%+v %s", told, told[0].After)
	}
	if again := seed(0); len(again) != 2 {
		t.Errorf("a file that adds nothing is audited: %+v", again)
	}
	// A create that was cut short is completed, a rehashed key and a deleted one are not touched.
	c.Del(ctx, keystest.SecretKey(keys.Digest{1}))
	seed(1)
	if _, err := m.store.Lookup(ctx, keys.Digest{1}); err != nil {
		t.Error(err)
	}
	if err := m.store.Rehash(ctx, "key_one1", keys.Digest{1}, keys.Digest{3}); err != nil {
		t.Fatal(err)
	}
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, "key_two2"))
	keystest.Must[*keys.Key](t)(m.Delete(ctx, "key_two2"))
	before := len(seed(0))
	if after := len(seed(0)); after != before {
		t.Errorf("%d entries more", after-before)
	}
	m.who = roles.Actor{ID: "mem_1", API: "pixelbyte", Team: "orbit", Role: roles.Admin}
	if _, err := m.Seed(ctx, entries, from); !errors.Is(err, roles.ErrForbidden) {
		t.Errorf("a member seeds: %v", err)
	}
	m.who = roles.Actor{Name: "ops", Operator: true}
	entries = append(entries, entry("key_six6", 6))
	c.Del(ctx, keystest.Audit)
	c.Set(ctx, keystest.Audit, "x", 0)
	if added, err := m.Seed(ctx, entries, from); added != 0 || !errors.Is(err, audit.ErrNotAudited) {
		t.Errorf("without audit: %d, %v", added, err)
	}
	c.Del(ctx, keystest.Audit)
	if _, err := m.store.Get(ctx, "key_six6"); !errors.Is(err, store.ErrNoKey) {
		t.Errorf("it was added all the same: %v", err)
	}
}

func testRepairIsAudited(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	k, _ := mustCreate(t, m)
	other, _ := mustCreate(t, m)
	c.Del(ctx, keystest.SecretKey(k.Digest))
	c.ZRem(ctx, keystest.IndexKey(k.API, ""), k.ID)
	if report, err := m.Repair(ctx, ""); err != nil || !reflect.DeepEqual(report.IDs, []string{k.ID}) || report.Linked != 1 || report.Indexed != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	told, _, err := m.audit.Read(ctx, "", 2, audit.NewestFirst)
	if err != nil || told[1].Action != roles.ActionRepair || told[0].Intent != told[1].ID || told[0].Result != "done" || !reflect.DeepEqual(told[0].IDs, []string{k.ID}) ||
		!strings.Contains(string(told[0].After), `"linked":1`) || strings.Contains(string(told[0].After), other.ID) {
		t.Errorf("%+v %s, %v", told, told[0].After, err)
	}
}
