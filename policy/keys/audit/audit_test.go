package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

func TestAudit(t *testing.T) {
	keystest.Parts{
		"Order": testAuditOrder, "Pages": testAuditPages, "IsCapped": testAuditIsCapped,
	}.OnEveryStore(t, connect.Join(WriteACL(), ReadACL()))
}

func anIntent() Entry {
	return NewEntry(roles.Actor{Name: "ops", Operator: true}, roles.ActionUpdate, "pictify", "orbit", "key_abcd")
}

func testAuditOrder(t *testing.T, c redis.UniversalClient) {
	ctx, a := t.Context(), New(c, 0)
	if entries, next, err := a.Read(ctx, "", 10, NewestFirst); len(entries) != 0 || next != "" || err != nil {
		t.Fatalf("empty: %v, %q, %v", entries, next, err)
	}
	e := anIntent()
	e.Before, e.After = json.RawMessage(`{"name":"a"}`), json.RawMessage(`{"name":"b","limits":[{"requests":12345678901234567890}]}`)
	earliest := time.Now().Add(-time.Minute)
	err := a.Do(ctx, e, func(ctx context.Context) error {
		entries, _, err := a.Read(ctx, "", 10, OldestFirst)
		if err != nil || len(entries) != 1 || entries[0].Action != roles.ActionUpdate || entries[0].Result != "" {
			t.Errorf("when the change takes effect the stream holds %+v, %v", entries, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("no such thing")
	if err := a.Do(ctx, anIntent(), func(context.Context) error { return refused }); err != refused {
		t.Errorf("Do = %v", err)
	}
	got, next, err := a.Read(ctx, "", 10, OldestFirst)
	if err != nil || next != "" || len(got) != 4 {
		t.Fatalf("Read = %+v, %q, %v", got, next, err)
	}
	want := e
	want.ID, want.Time = got[0].ID, got[0].Time
	want.Role = "operator"
	if !reflect.DeepEqual(got[0], want) {
		t.Errorf("intent %+v, want %+v", got[0], want)
	}
	if got[0].Time.Before(earliest) || got[0].Time.After(time.Now().Add(time.Minute)) || got[0].Time.Location() != time.UTC {
		t.Errorf("time %v", got[0].Time)
	}
	if got[1].Intent != got[0].ID || got[1].Result != "done" || got[1].Who != "" {
		t.Errorf("outcome %+v", got[1])
	}
	if got[3].Intent != got[2].ID || got[3].Result != "error: no such thing" {
		t.Errorf("outcome %+v", got[3])
	}
}

func testAuditPages(t *testing.T, c redis.UniversalClient) {
	ctx, a := t.Context(), New(c, 100)
	var oldest, newest []string
	for i := range 7 {
		if i == 3 {
			// What cannot be read neither stops the reading nor is left out.
			for _, values := range [][]any{{"other", "x"}, {entryField, "{"}, {entryField, "{}"}, {entryField, `{"intent":"1-1"}`}, {entryField, `{"time":5}`}} {
				bad, err := c.XAdd(ctx, &redis.XAddArgs{Stream: streamKey, Values: values}).Result()
				if err != nil {
					t.Fatal(err)
				}
				oldest = append(oldest, bad+" corrupt")
			}
		}
		id, err := a.Intent(ctx, anIntent())
		if err != nil {
			t.Fatal(err)
		}
		oldest = append(oldest, id)
	}
	for i := range oldest {
		newest = append(newest, oldest[len(oldest)-1-i])
	}
	for order, want := range map[Order][]string{OldestFirst: oldest, NewestFirst: newest} {
		for size := 1; size <= len(want)+1; size++ {
			var got []string
			for from, pages := "", 0; ; pages++ {
				entries, next, err := a.Read(ctx, from, size, order)
				if err != nil || len(entries) > size || pages > len(want) {
					t.Fatal(len(entries), pages, err)
				}
				for _, e := range entries {
					id := e.ID
					if e.Corrupt != "" {
						id += " corrupt"
					}
					if e.Time.IsZero() || e.Corrupt != "" && e.Who != "" {
						t.Errorf("%+v", e)
					}
					got = append(got, id)
				}
				if from = next; next == "" {
					break
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%v in pages of %d: %v, want %v", order, size, got, want)
			}
		}
	}
	if entries, _, err := a.Read(ctx, "", -1, OldestFirst); len(entries) != 1 || err != nil {
		t.Errorf("a page of -1: %v, %v", entries, err)
	}
	for _, cursor := range []string{"x", "1", "-", "+", "1-", "-1", "1-x", "(1-1", "1-1-1", "99999999999999999999-0"} {
		if _, _, err := a.Read(ctx, cursor, 1, OldestFirst); !errors.Is(err, ErrCursor) {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
}

func testAuditIsCapped(t *testing.T, c redis.UniversalClient) {
	ctx, a := t.Context(), New(c, 100)
	var last string
	for range 600 {
		id, err := a.Intent(ctx, anIntent())
		if err != nil {
			t.Fatal(err)
		}
		last = id
	}
	if n := c.XLen(ctx, streamKey).Val(); n < 100 || n > 250 {
		t.Errorf("%d entries of about 100", n)
	}
	// A cursor whose place is gone goes on where the stream starts.
	entries, _, err := a.Read(ctx, "1-1", 1000, OldestFirst)
	if err != nil || len(entries) < 100 || entries[len(entries)-1].ID != last {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

func TestDefaultAuditEntries(t *testing.T) {
	if a := New(nil, -1); a.max != DefaultEntries {
		t.Errorf("max %d", a.max)
	}
}

func TestWithoutIntentNoChange(t *testing.T) {
	c := keystest.NewEmbedded(t)
	a := New(c, 10)
	called := func(context.Context) error { t.Error("the change was made"); return nil }
	whole, err := store.EncodeRecord(keystest.Sample())
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Entry){
		"nobody":          func(e *Entry) { e.Who = "" },
		"nothing":         func(e *Entry) { e.Action = "" },
		"not JSON":        func(e *Entry) { e.After = json.RawMessage("{") },
		"a stored record": func(e *Entry) { e.Before = whole },
		"a nested secret": func(e *Entry) {
			e.After = json.RawMessage(`{"keys":[{"Secret":"` + keystest.Sample().Digest.Hex() + `"}]}`)
		},
		"a token": func(e *Entry) { e.After = json.RawMessage(`{"token":"x"}`) },
		"a digest in both": func(e *Entry) {
			e.After, e.Before = json.RawMessage(`{"digest":"x"}`), json.RawMessage(`{"hash":1}`)
		},
	} {
		e := anIntent()
		edit(&e)
		if err := a.Do(t.Context(), e, called); !errors.Is(err, ErrNotAudited) || strings.Contains(err.Error(), keystest.Sample().Digest.Hex()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := c.Exists(t.Context(), streamKey).Val(); n != 0 {
		t.Error("something was written")
	}
	c.Set(t.Context(), streamKey, "x", 0)
	if err := a.Do(t.Context(), anIntent(), called); !errors.Is(err, ErrNotAudited) || !strings.Contains(err.Error(), "not a stream") {
		t.Errorf("not a stream: %v", err)
	}
	if _, _, err := a.Read(t.Context(), "", 1, OldestFirst); err == nil || !strings.Contains(err.Error(), "not a stream") {
		t.Errorf("Read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Do(ctx, anIntent(), called); !errors.Is(err, ErrNotAudited) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.Close()
	if err := a.Do(t.Context(), anIntent(), called); !errors.Is(err, ErrNotAudited) || !errors.Is(err, redis.ErrClosed) {
		t.Errorf("no store: %v", err)
	}
	if _, _, err := a.Read(t.Context(), "", 1, NewestFirst); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
}

func TestLostOutcome(t *testing.T) {
	c := keystest.NewEmbedded(t)
	a := New(c, 10)
	crash := &keystest.DieBefore{What: "xadd"}
	c.AddHook(crash)
	arm := func(result error) func(context.Context) error {
		return func(context.Context) error { crash.Armed.Store(true); return result }
	}
	err := a.Do(t.Context(), anIntent(), arm(nil))
	if !errors.Is(err, ErrOutcomeLost) || !errors.Is(err, keystest.ErrDied) || !strings.Contains(err.Error(), "the change was made") {
		t.Errorf("Do = %v", err)
	}
	crash.Armed.Store(false)
	entries, _, _ := a.Read(t.Context(), "", 10, OldestFirst)
	if len(entries) != 1 || !strings.Contains(err.Error(), entries[0].ID) {
		t.Errorf("%+v; %v", entries, err)
	}
	refused := errors.New("refused")
	err = a.Do(t.Context(), anIntent(), arm(refused))
	if !errors.Is(err, refused) || errors.Is(err, ErrOutcomeLost) || strings.Contains(err.Error(), "was made") || !strings.Contains(err.Error(), "outcome") {
		t.Errorf("Do = %v", err)
	}
}

// The caller's time ends while the change is made: the outcome is written all the same.
func TestOutcomeAfterTheCallersEnd(t *testing.T) {
	a := New(keystest.NewEmbedded(t), 10)
	ctx, cancel := context.WithCancel(t.Context())
	if err := a.Do(ctx, anIntent(), func(context.Context) error { cancel(); return nil }); err != nil {
		t.Fatal(err)
	}
	if entries, _, err := a.Read(t.Context(), "", 10, OldestFirst); err != nil || len(entries) != 2 || entries[1].Result != "done" {
		t.Errorf("%+v, %v", entries, err)
	}
}

func TestOutcomeHidesWhatCouldBeASecret(t *testing.T) {
	a, secret := New(keystest.NewEmbedded(t), 10), keys.NewSecret("pk_live_")
	for _, text := range []string{"bad value " + secret, "key tg:v1:secret:" + keys.NewHasher(nil).Digest(secret).Hex(), strings.Repeat("é ", 400)} {
		a.Do(t.Context(), anIntent(), func(context.Context) error { return errors.New(text) })
	}
	entries, _, err := a.Read(t.Context(), "", 10, OldestFirst)
	if err != nil || len(entries) != 6 {
		t.Fatal(len(entries), err)
	}
	for _, e := range []Entry{entries[1], entries[3]} {
		if strings.Contains(e.Result, secret) || strings.Contains(e.Result, keys.NewHasher(nil).Digest(secret).Hex()) || !strings.HasPrefix(e.Result, "error: ") {
			t.Errorf("result %q", e.Result)
		}
	}
	if r := entries[5].Result; len(r) > maxResultBytes || len(r) < maxResultBytes-8 || strings.Contains(r, "\ufffd") {
		t.Errorf("result of %d bytes: %q", len(r), r)
	}
}

func TestPublicRecord(t *testing.T) {
	if data, err := store.PublicRecord(nil); data != nil || err != nil {
		t.Errorf("nil: %s, %v", data, err)
	}
	if _, err := store.PublicRecord(&keys.Key{}); err == nil {
		t.Error("an invalid key")
	}
	k := keystest.FullKey()
	k.Other = keys.Digest{7: 9}
	data, err := store.PublicRecord(k)
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	stored, _ := store.EncodeRecord(k)
	json.Unmarshal(stored, &want)
	delete(want, "hash")
	delete(want, "other_hash")
	if !reflect.DeepEqual(got, want) || strings.Contains(string(data), k.Digest.Hex()) || strings.Contains(string(data), k.Other.Hex()) {
		t.Errorf("%s, want %v", data, want)
	}
	e := anIntent()
	e.Before = data
	if _, err := New(keystest.NewEmbedded(t), 10).Intent(t.Context(), e); err != nil {
		t.Error(err)
	}
}

func ExampleStream_Do() {
	// A change that the audit stream does not take is not made.
	closed := redis.NewClient(&redis.Options{})
	closed.Close()
	err := New(closed, 0).Do(context.Background(), NewEntry(roles.Actor{Name: "ops", Operator: true}, roles.ActionDelete, "pictify", "", "key_abcd"),
		func(context.Context) error { fmt.Println("deleted"); return nil })
	fmt.Println(errors.Is(err, ErrNotAudited))
	// Output: true
}

// The stream says why in full where that holds nothing that could be a secret.
func TestAuditSaysWhy(t *testing.T) {
	for _, err := range []error{store.ErrTeamExists, store.ErrMemberExists, store.ErrMemberMoved, store.ErrNoMember,
		&store.LastAdminError{ID: "mem_0123456789abcdef", Others: 1}, &store.TeamInUseError{API: "pictify", Name: "orbit", Members: 1}} {
		if got := ResultOf(err); got != "error: "+err.Error() {
			t.Errorf("%v: %s", err, got)
		}
	}
}
