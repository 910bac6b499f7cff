package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
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

func web() keys.Client { return keys.Client{Issuer: "https://as.example.com", ID: "web"} }

func testManagerOfClients(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, nil)
	id := web().RecordID("pictify")
	if _, err := m.Client(ctx, "pictify", web()); !errors.Is(err, store.ErrNoKey) {
		t.Errorf("a client that nobody has changed: %v", err)
	}
	if _, err := m.UnblockClient(ctx, "pictify", web()); !errors.Is(err, ErrNotBlocked) {
		t.Errorf("unblocked: %v", err)
	}
	var blocked *keys.Key
	digest := m.hasher.Digest(web().Lookup("pictify"))
	heard := messages(t, c, func() { blocked = keystest.Must[*keys.Key](t)(m.BlockClient(ctx, "pictify", web())) })
	if blocked.ID != id || blocked.Status != keys.Inactive || blocked.Client != web() || blocked.Version != 2 || blocked.CreatedBy != "ops" {
		t.Errorf("blocked: %+v", blocked)
	}
	if len(heard) == 0 || !strings.HasSuffix(heard[0], " "+digest.Hex()+" "+id) {
		t.Errorf("servers hear %q", heard)
	}
	if got := keystest.Must[*keys.Key](t)(m.store.Lookup(ctx, digest)); !reflect.DeepEqual(got, blocked) {
		t.Errorf("Lookup = %+v", got)
	}
	// Again: it says so again, to whoever has missed it.
	if heard := messages(t, c, func() { blocked = keystest.Must[*keys.Key](t)(m.BlockClient(ctx, "pictify", web())) }); len(heard) == 0 || blocked.Version != 3 {
		t.Errorf("again: %q, %+v", heard, blocked)
	}
	// A plan and limits of its own stay through a block and its end.
	got := keystest.Must[*keys.Key](t)(m.PlanClient(ctx, "pictify", web(), "pro"))
	if got.Plan != "pro" || got.Status != keys.Inactive {
		t.Errorf("%+v", got)
	}
	five := []LimitChange{{Override: keys.Override{Name: "minute", Requests: 5}}}
	keystest.Must[*keys.Key](t)(m.LimitClient(ctx, "pictify", web(), five))
	if got = keystest.Must[*keys.Key](t)(m.LimitClient(ctx, "pictify", web(), five)); got.Version != 5 {
		t.Errorf("what changes nothing was written: %+v", got)
	}
	got = keystest.Must[*keys.Key](t)(m.UnblockClient(ctx, "pictify", web()))
	if got.Status != keys.Active || got.Plan != "pro" || !slices.Equal(got.Limits, []keys.Override{{Name: "minute", Requests: 5}}) {
		t.Errorf("%+v", got)
	}
	if read := keystest.Must[*keys.Key](t)(m.Client(ctx, "pictify", web())); !reflect.DeepEqual(read, got) {
		t.Errorf("%+v", read)
	}
	// Extras are a key's and a client's alike.
	x := keys.Extra{Name: "minute", Requests: 7, Until: keystest.Noon().Add(time.Hour)}
	if got = keystest.Must[*keys.Key](t)(m.GrantExtra(ctx, id, x)); len(got.Extras) != 1 {
		t.Errorf("%+v", got)
	}
	for what, call := range map[string]func() (*keys.Key, error){
		"an unknown plan":         func() (*keys.Key, error) { return m.PlanClient(ctx, "pictify", web(), "gold") },
		"no plan, but limits":     func() (*keys.Key, error) { return m.PlanClient(ctx, "pictify", web(), "") },
		"a limit that it has not": func() (*keys.Key, error) { return m.LimitClient(ctx, "pictify", web(), []LimitChange{{Remove: true}}) },
		"an API that cannot be":   func() (*keys.Key, error) { return m.BlockClient(ctx, "Pictify", web()) },
		"a client without issuer": func() (*keys.Key, error) { return m.BlockClient(ctx, "pictify", keys.Client{ID: "web"}) },
		"a name with a line break": func() (*keys.Key, error) {
			return m.BlockClient(ctx, "pictify", keys.Client{Issuer: "https://a", ID: "a\nb"})
		},
		"a key that was pasted": func() (*keys.Key, error) {
			return m.BlockClient(ctx, "pictify", keys.Client{Issuer: "https://a", ID: keys.NewSecret("pk_live_")})
		},
	} {
		var field *keys.FieldError
		if k, err := call(); !errors.As(err, &field) || k != nil {
			t.Errorf("%s: %v, %v", what, k, err)
		}
	}
	// The same client of another API is another one.
	if page, _, err := m.Clients(ctx, store.Filter{}, "", 0); err != nil || len(page) != 1 || page[0].ID != id {
		t.Errorf("%v, %v", page, err)
	}
	keystest.Must[*keys.Key](t)(m.BlockClient(ctx, "genapi", web()))
	if page, _, err := m.Clients(ctx, store.Filter{API: "genapi"}, "", 0); err != nil || len(page) != 1 || page[0].ID == id {
		t.Errorf("%v, %v", page, err)
	}
	testClientsAreAudited(t, c, m)
	keystest.Consistent(t, c)
}

func testClientsAreAudited(t *testing.T, c redis.UniversalClient, m *Manager) {
	entries, _, err := m.audit.Read(t.Context(), "", 1000, audit.OldestFirst)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := 0; i+1 < len(entries); i += 2 {
		intent, outcome := entries[i], entries[i+1]
		if outcome.Intent != intent.ID || outcome.Result != "done" {
			t.Errorf("%+v, %+v", intent, outcome)
		}
		if !strings.Contains(string(intent.After), `"client":{"issuer":"https://as.example.com","id":"web"}`) {
			t.Errorf("who was changed? %s", intent.After)
		}
		got = append(got, fmt.Sprintf("%s %t", intent.Action, intent.Before != nil))
	}
	want := []string{"clients.block false", "clients.block true", "clients.plan true", "clients.limit true", "clients.unblock true",
		"limits.grant true", "clients.block false"}
	if !slices.Equal(got, want) {
		t.Errorf("audited %q", got)
	}
	// Without its line no change is made.
	c.Del(t.Context(), keystest.Audit)
	c.Set(t.Context(), keystest.Audit, "not a stream", 0)
	before := keystest.Dump(t, c)
	for what, call := range map[string]func() (*keys.Key, error){
		"block":     func() (*keys.Key, error) { return m.BlockClient(t.Context(), "pictify", web()) },
		"block new": func() (*keys.Key, error) { return m.BlockClient(t.Context(), "other", web()) },
	} {
		if _, err := call(); !errors.Is(err, audit.ErrNotAudited) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := keystest.Dump(t, c); !reflect.DeepEqual(before, after) {
		t.Error("something was changed without an audit line")
	}
	c.Del(t.Context(), keystest.Audit)
}

// Where a key is meant, the record of a client is none: no command about keys finds or changes it.
func testClientsAreNoKeys(t *testing.T, c redis.UniversalClient) {
	ctx, m := t.Context(), operatorOf(c, map[string]int{"free/live": 1})
	// Neither counts for the team: a team of that name has room for one key still.
	for _, name := range []string{"web", "orbit"} {
		keystest.Must[*keys.Key](t)(m.PlanClient(ctx, "pictify", keys.Client{Issuer: "https://as.example.com", ID: name}, "free"))
	}
	key, _ := mustCreate(t, m)
	client := keystest.Must[*keys.Key](t)(m.BlockClient(ctx, "pictify", web()))
	name := "other"
	for what, call := range map[string]func(string) error{
		"get":        func(id string) error { _, err := m.Get(ctx, id); return err },
		"update":     func(id string) error { _, err := m.Update(ctx, id, Patch{Name: &name}); return err },
		"rotate":     func(id string) error { _, _, err := m.Rotate(ctx, id, 0); return err },
		"revoke":     func(id string) error { _, err := m.Revoke(ctx, id); return err },
		"activate":   func(id string) error { _, err := m.Activate(ctx, id); return err },
		"deactivate": func(id string) error { _, err := m.Deactivate(ctx, id); return err },
		"delete":     func(id string) error { _, err := m.Delete(ctx, id); return err },
	} {
		if err := call(client.ID); !errors.Is(err, store.ErrNoKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := m.ClientByID(ctx, key.ID); !errors.Is(err, store.ErrNoKey) {
		t.Errorf("a key as a client: %v", err)
	}
	if k, status, err := m.Verify(ctx, web().Lookup("pictify")); k != nil || status != VerifyMalformed || err != nil {
		t.Errorf("verify: %v, %v, %v", k, status, err)
	}
	if page, next, err := m.List(ctx, store.Filter{API: "pictify"}, "", 0); err != nil || len(page) != 1 || page[0].ID != key.ID || next != "" {
		t.Errorf("list: %v, %q, %v", page, next, err)
	}
	var text bytes.Buffer
	if n, err := m.Export(ctx, &text, ExportJSONLines, store.Filter{}); n != 1 || err != nil || strings.Contains(text.String(), client.ID) {
		t.Errorf("export: %d, %v, %s", n, err, &text)
	}
	// A file can neither make one nor change one, and one that names nothing prunes none.
	forged := *key.Clone()
	forged.ID, forged.LimitID, forged.Digest = client.ID, client.ID, keys.Digest{9}
	records := func(yield func(keyfile.Record, error) bool) {
		yield(keyfile.Record{Line: 1, Entry: keyfile.Entry{Key: forged}}, nil)
	}
	if report, err := m.Import(ctx, records, ImportOptions{}); report.Created > 0 || report.Refused != 1 {
		t.Errorf("import: %+v, %v", report, err)
	}
	if _, err := m.Apply(ctx, records, ApplyOptions{}); !errors.Is(err, ErrRefused) {
		t.Errorf("apply: %v", err)
	}
	none := func(func(keyfile.Record, error) bool) {}
	if _, err := m.Apply(ctx, none, ApplyOptions{Defaults: keyfile.Defaults{API: "pictify"}, AllTeams: true, Prune: true}); err != nil {
		t.Errorf("prune: %v", err)
	}
	if _, err := m.Get(ctx, key.ID); !errors.Is(err, store.ErrDeleted) {
		t.Errorf("the key is not pruned: %v", err)
	}
	if got := keystest.Must[*keys.Key](t)(m.ClientByID(ctx, client.ID)); !reflect.DeepEqual(got, client) {
		t.Errorf("%+v", got)
	}
	if report, err := m.Repair(ctx, ""); err != nil || report.Indexed+report.Unindexed+report.TeamSets+len(report.Corrupt) > 0 {
		t.Errorf("repair: %+v, %v", report, err)
	}
	keystest.Consistent(t, c)

	// Clients belong to no team, so no member has a say.
	for _, role := range []roles.Role{roles.Admin, roles.Editor, roles.Viewer} {
		member := operatorOf(c, nil)
		member.who = roles.Actor{Name: "Ann", ID: "mem_1", API: "pictify", Team: "orbit", Role: role}
		for what, call := range map[string]func() error{
			"block": func() error { _, err := member.BlockClient(ctx, "pictify", web()); return err },
			"plan":  func() error { _, err := member.PlanClient(ctx, "pictify", web(), "pro"); return err },
			"get":   func() error { _, err := member.ClientByID(ctx, client.ID); return err },
			"list":  func() error { _, _, err := member.Clients(ctx, store.Filter{API: "pictify"}, "", 0); return err },
			"grant": func() error { _, err := member.GrantExtra(ctx, client.ID, keys.Extra{}); return err },
		} {
			if err := call(); !errors.Is(err, roles.ErrForbidden) && !errors.Is(err, store.ErrNoKey) {
				t.Errorf("%s %s: %v", role, what, err)
			}
		}
	}
}

// Of two changes of a client that has no record yet, both are made.
func TestClientsAreChangedAtOnce(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := operatorOf(c, nil)
	errs := make(chan error)
	for i := range 8 {
		go func() {
			var err error
			if i%2 == 0 {
				_, err = m.PlanClient(context.Background(), "pictify", web(), "pro")
			} else {
				_, err = m.BlockClient(context.Background(), "pictify", web())
			}
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if k := keystest.Must[*keys.Key](t)(m.Client(t.Context(), "pictify", web())); k.Plan != "pro" || k.Status != keys.Inactive {
		t.Errorf("%+v", k)
	}
}
