package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

func testList(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	var ks []*keys.Key
	add := func(id, api, team, plan, environment string, status keys.Status, created time.Time) {
		ks = append(ks, keystest.Sample(func(k *keys.Key) {
			k.ID, k.LimitID, k.API, k.Team, k.Plan, k.Environment = "key_"+id, "key_"+id, api, team, plan, environment
			k.Status, k.CreatedAt, k.Digest = status, created, keys.Digest{byte(len(ks) + 1)}
		}))
	}
	add("aaaa", "beta", "red", "free", "live", keys.Active, at(1))
	add("bbbb", "beta", "red", "pro", "test", keys.Inactive, at(10))
	add("cccc", "beta", "blue", "free", "live", keys.Revoked, at(20))
	add("dddd", "beta", "", "free", "live", keys.Active, at(20))
	add("eeee", "alpha", "red", "free", "live", keys.Active, at(5))
	add("ffff", "alpha", "red", "free", "live", keys.Active, time.Time{})
	for _, err := range s.CreateAll(ctx, ks) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Touch(ctx, []Use{{ID: "key_aaaa", At: at(15)}, {ID: "key_eeee", At: at(6)}}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "eeee ffff aaaa bbbb cccc dddd"},
		{Filter{API: "beta"}, "aaaa bbbb cccc dddd"},
		{Filter{API: "beta", Team: "red"}, "aaaa bbbb"},
		{Filter{Team: "red"}, "eeee ffff aaaa bbbb"},
		{Filter{API: "beta", Team: "none"}, ""},
		{Filter{API: "none"}, ""},
		{Filter{Plan: "pro"}, "bbbb"},
		{Filter{Environment: "test"}, "bbbb"},
		{Filter{Status: []keys.Status{keys.Revoked, keys.Inactive}}, "bbbb cccc"},
		{Filter{Status: []keys.Status{keys.Deleted}}, ""},
		{Filter{OlderThan: at(10)}, "eeee ffff aaaa"},
		{Filter{UnusedSince: at(15)}, "eeee ffff bbbb"},
		{Filter{UnusedSince: at(16)}, "eeee ffff aaaa bbbb"},
		{Filter{API: "beta", Team: "red", Plan: "free", Environment: "live", Status: []keys.Status{keys.Active}, OlderThan: at(2)}, "aaaa"},
	} {
		if got := strings.ReplaceAll(ids(t, s, test.filter), "key_", ""); got != test.want {
			t.Errorf("%+v: %s, want %s", test.filter, got, test.want)
		}
	}
	if page, next, err := s.List(ctx, Filter{}, "", 0); len(page) != 6 || next != "" || err != nil {
		t.Errorf("the default page: %d, %q, %v", len(page), next, err)
	}
	if page, next, err := s.List(ctx, Filter{}, "", 2); len(page) != 2 || next == "" || err != nil {
		t.Errorf("the first page: %d, %q, %v", len(page), next, err)
	}
	if page, _, _ := s.List(ctx, Filter{API: "beta"}, "beta/key_aaaa", 1); len(page) != 1 || page[0].ID != "key_bbbb" || page[0].Version != 1 {
		t.Errorf("after a cursor: %v", page)
	}
	if page, _, _ := s.List(ctx, Filter{API: "beta"}, "", 1); len(page) != 1 || !page[0].LastUsed.Equal(at(15)) {
		t.Errorf("last used: %v", page)
	}
	for _, cursor := range []string{"x", "beta/x", "Beta/key_aaaa", "/key_aaaa"} {
		var fault *keys.FieldError
		if _, _, err := s.List(ctx, Filter{}, cursor, 1); !errors.As(err, &fault) || fault.Field != "cursor" {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
	var fault *keys.FieldError
	if _, _, err := s.List(ctx, Filter{API: "beta"}, "alpha/key_eeee", 1); !errors.As(err, &fault) {
		t.Errorf("the cursor of another API: %v", err)
	}

	// A key that cannot be read stops nobody; one without a record is left out.
	c.Set(ctx, recordKey("key_bbbb"), "{", 0)
	c.Del(ctx, recordKey("key_dddd"))
	page, next, err := s.List(ctx, Filter{API: "beta"}, "", 0)
	expectCorrupt(t, "list", err, "key_bbbb", "not a record")
	if len(page) != 2 || next != "" {
		t.Errorf("beside a corrupt record: %d keys, next %q", len(page), next)
	}
}

// counting counts commands, and the GETs of pipelines; a new connection has a pipeline of its own.
type counting struct{ commands, gets atomic.Int64 }

func (n *counting) DialHook(next redis.DialHook) redis.DialHook { return next }
func (n *counting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { n.commands.Add(1); return next(ctx, cmd) }
}
func (n *counting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if cmd.Name() == "get" {
				n.gets.Add(1)
			}
		}
		return next(ctx, cmds)
	}
}

// A filter that nothing matches must not read the whole store in one call.
func testListBounds(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	var ks []*keys.Key
	for i := range 2*maxRead + 50 {
		id := fmt.Sprintf("key_%05d", i)
		ks = append(ks, keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.Digest = id, id, keys.Digest{1, byte(i), byte(i >> 8)} }))
	}
	for _, err := range s.CreateAll(ctx, ks) {
		if err != nil {
			t.Fatal(err)
		}
	}
	n := &counting{}
	c.AddHook(n)
	calls := 0
	for cursor := ""; ; calls++ {
		n.commands.Store(0)
		n.gets.Store(0)
		page, next, err := s.List(ctx, Filter{Plan: "none"}, cursor, 10)
		if err != nil || len(page) > 0 {
			t.Fatal(len(page), err)
		}
		if n.gets.Load() > 2*maxRead || n.commands.Load() > maxRead/DefaultPage+2 {
			t.Fatalf("%d commands, and %d in pipelines", n.commands.Load(), n.gets.Load())
		}
		if next == "" {
			break
		}
		cursor = next
	}
	if calls != 2 {
		t.Errorf("%d calls with a next", calls)
	}
	n.gets.Store(0)
	if page, _, err := s.List(ctx, Filter{}, "", 10); len(page) != 10 || err != nil || n.gets.Load() > 2*DefaultPage {
		t.Errorf("a page of %d took %d reads, %v", len(page), n.gets.Load(), err)
	}
	if page, _, err := s.List(ctx, Filter{}, "", 1<<20); len(page) != MaxPage || err != nil {
		t.Errorf("a page of %d, %v", len(page), err)
	}
}

// The last page of many keys comes as fast as the first.
func TestListOfManyKeys(t *testing.T) {
	const n, size = 20_000, 100
	c := keystest.NewServer(t)
	ctx, s := t.Context(), New(c)
	for from := 0; from < n; from += 2000 {
		ks := make([]*keys.Key, 2000)
		for i := range ks {
			id := fmt.Sprintf("key_%06d", from+i)
			ks[i] = keystest.Sample(func(k *keys.Key) {
				k.ID, k.LimitID, k.Digest = id, id, keys.Digest{1, byte(from + i), byte((from + i) >> 8), byte((from + i) >> 16)}
				k.Team = fmt.Sprintf("team_%d", (from+i)%1000)
			})
		}
		for _, err := range s.CreateAll(ctx, ks) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var took []time.Duration
	seen := 0
	for cursor := ""; ; {
		began := time.Now()
		page, next, err := s.List(ctx, Filter{API: "pixelbyte"}, cursor, size)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		seen += len(page)
		if next == "" {
			break
		}
		cursor = next
	}
	if seen != n || len(took) != n/size {
		t.Fatalf("%d keys on %d pages", seen, len(took))
	}
	// Medians of twenty pages, so that a pause of the machine decides nothing.
	first, last := slices.Clone(took[:20]), slices.Clone(took[len(took)-20:])
	slices.Sort(first)
	slices.Sort(last)
	t.Logf("a page of %d: first %v, last %v", size, first[10], last[10])
	if last[10] > 3*first[10] {
		t.Errorf("the first pages take %v, the last %v", first[10], last[10])
	}
	began := time.Now()
	page, _, err := s.List(ctx, Filter{API: "pixelbyte", Team: "team_7"}, "", size)
	if len(page) != n/1000 || err != nil {
		t.Errorf("a team has %d keys, %v", len(page), err)
	}
	t.Logf("a team's %d keys: %v", len(page), time.Since(began))
}
