package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"
)

// hashOf is what a keys file says of the secret that belongs to a name in these tests.
func hashOf(name string) string { return "hmac-sha256:" + keys.NewHasher(nil).Digest(name).Hex() }

func applied(t *testing.T, m *Manager, file string, o ApplyOptions) *Diff {
	t.Helper()
	d, err := m.Apply(t.Context(), fromYAML(file), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, d)
	}
	return d
}

func TestApply(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		m := transferManager(c, keys.NewHasher(nil))
		ctx := t.Context()
		for _, e := range []struct{ id, api, team string }{
			{"key_old1", "pictify", "orbit"}, {"key_gone", "pictify", "orbit"}, {"key_acme", "pictify", "acme"}, {"key_gen1", "genapi", "orbit"},
		} {
			k := keystest.Sample(func(k *keys.Key) {
				k.ID, k.LimitID, k.API, k.Team, k.Plan, k.Digest = e.id, e.id, e.api, e.team, "free", m.hasher.Digest(e.id)
			})
			if err := m.store.Create(ctx, k); err != nil {
				t.Fatal(err)
			}
		}
		file := `keys:
- {id: key_old1, api: pictify, team: orbit, name: Render farm, plan: pro, scopes: [read, write], ips: [10.0.0.0/8], hash: "` + hashOf("key_old1") + `"}
- {id: key_new1, api: pictify, team: orbit, name: CI, plan: free, limits: [{name: minute, requests: 5}], hash: "` + hashOf("key_new1") + `"}
`
		before := keystest.Dump(t, c)
		diff := applied(t, m, file, ApplyOptions{Prune: true, DryRun: true})
		want := `- key_gone pictify/orbit "Render farm"
~ key_old1 pictify/orbit "Render farm"
    plan: "free" -> "pro"
    scopes: (none) -> "read write"
    ips: (none) -> "10.0.0.0/8"
+ key_new1 pictify/orbit "CI"
1 to create, 1 to update, 1 to delete, 0 unchanged
`
		if diff.String() != want {
			t.Errorf("\n%s\nwant\n%s", diff, want)
		}
		if data, _ := json.Marshal(diff); strings.Contains(string(data), "sha256") {
			t.Errorf("%s", data)
		}
		same(t, "a dry run", keystest.Dump(t, c), before)
		if d := applied(t, m, file, ApplyOptions{Prune: true}); d.String() != want {
			t.Errorf("\n%s\nwant\n%s", d, want)
		}
		if _, err := m.Get(ctx, "key_gone"); !errors.Is(err, store.ErrDeleted) {
			t.Errorf("%v", err)
		}
		k, err := m.store.Lookup(ctx, m.hasher.Digest("key_new1"))
		if err != nil || k.Name != "CI" || k.LimitID != "key_new1" || k.CreatedBy != "ada" || k.Limits[0].Requests != 5 {
			t.Errorf("%+v, %v", k, err)
		}
		if k, err = m.Get(ctx, "key_old1"); err != nil || k.Plan != "pro" || k.Version != 2 || len(k.IPs) != 1 {
			t.Errorf("%+v, %v", k, err)
		}
		after := keystest.Dump(t, c)
		for _, id := range []string{"key_acme", "key_gen1"} {
			if after[keystest.RecordKey(id)] != before[keystest.RecordKey(id)] {
				t.Errorf("%s changed", id)
			}
		}
		if d := applied(t, m, file, ApplyOptions{Prune: true}); !d.Empty() || d.Unchanged != 2 {
			t.Errorf("again:\n%s", d)
		}
		same(t, "again", keystest.Dump(t, c), after)
		entries, _, err := m.audit.Read(ctx, "", 100, audit.OldestFirst)
		var actions []string
		for _, e := range entries {
			actions = append(actions, string(e.Action)+e.Result)
		}
		if got := strings.Join(actions, " "); got != "keys.revoke done keys.delete done keys.update done keys.create done" || err != nil {
			t.Errorf("audited: %s, %v", got, err)
		}
	})
}

func TestApplyRefuses(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	for id, edit := range map[string]func(*keys.Key){
		"key_here": func(k *keys.Key) { k.Environment = "live" },
		"key_acme": func(k *keys.Key) { k.Team = "acme" },
		"key_dead": func(k *keys.Key) { k.Status = keys.Revoked },
		"key_tomb": func(k *keys.Key) { k.Status = keys.Revoked },
	} {
		k := keystest.Sample(func(k *keys.Key) {
			k.ID, k.LimitID, k.API, k.Team, k.Plan, k.Digest = id, id, "pictify", "orbit", "free", m.hasher.Digest(id)
		}, edit)
		if err := m.store.Create(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Delete(t.Context(), "key_tomb"); err != nil {
		t.Fatal(err)
	}
	before := keystest.Dump(t, c)
	for item, want := range map[string]string{
		"id: key_here, environment: live, hash: " + hashOf("other"):                       "has another secret than the key in the store",
		"id: key_here, environment: test, hash: " + hashOf("key_here"):                    "environment: never changes",
		"id: key_acme, hash: " + hashOf("key_acme"):                                       "is the id of a key of another API or team",
		"id: key_tomb2, hash: " + hashOf("key_here"):                                      `the secret belongs to "key_here"`,
		"id: key_new1, plan: gold, hash: " + hashOf("new"):                                `unknown plan "gold"`,
		"id: key_new1, team: acme, hash: " + hashOf("new"):                                "belongs to pictify/acme, not to pictify/orbit",
		"id: key_new1, api: genapi, hash: " + hashOf("new"):                               "belongs to genapi/orbit, not to pictify/orbit",
		"id: nokey, hash: " + hashOf("new"):                                               `id: "nokey" is not key_`,
		"id: key_new1, secret: correct-horse":                                             "secret: is shorter than",
		"id: key_new1, nam: x, hash: " + hashOf("new"):                                    `unknown field "nam"`,
		"id: key_new1, hash: " + hashOf("a") + "}\n- {id: key_new1, hash: " + hashOf("b"): "again, first on line 2",
		"id: key_new1, hash: " + hashOf("a") + "}\n- {id: key_new2, hash: " + hashOf("a"): "the same secret as on line 2",
	} {
		file := "keys:\n- {" + item + "}\n- {id: key_good, hash: " + hashOf("good") + "}\n"
		d, err := m.Apply(t.Context(), fromYAML(file), ApplyOptions{Defaults: keyfile.Defaults{API: "pictify", Team: "orbit", Plan: "free"}, Prune: true})
		if !errors.Is(err, ErrRefused) || len(d.Refused) != 1 || !strings.Contains(d.String(), want) || d.Empty() {
			t.Errorf("%s:\n%v\n%s\nwant %s", item, err, d, want)
		}
	}
	same(t, "refused files", keystest.Dump(t, c), before)
	stop := func(yield func(keyfile.Record, error) bool) {
		yield(keyfile.Record{}, fmt.Errorf("%w: cut", keyfile.ErrSource))
	}
	if _, err := m.Apply(t.Context(), stop, ApplyOptions{}); !errors.Is(err, keyfile.ErrSource) {
		t.Errorf("%v", err)
	}
}

// What an operator did by hand in an incident is not undone by a file that says nothing of it.
func TestApplyKeepsWhatTheFileDoesNotSay(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	ctx := t.Context()
	file := `keys:
- {id: key_off1, api: pictify, team: orbit, name: a, plan: free, hash: "` + hashOf("off") + `", anchor_day: 7, limit_id: shared, created_at: 2020-01-02T03:04:05Z, created_by: bob}
- {id: key_dead, api: pictify, team: orbit, name: b, plan: free, hash: "` + hashOf("dead") + `"}
- {id: key_turn, api: pictify, team: orbit, name: c, plan: free, hash: "` + hashOf("turn") + `"}
`
	applied(t, m, file, ApplyOptions{})
	if k, err := m.Get(ctx, "key_off1"); err != nil || k.AnchorDay != 7 || k.LimitID != "shared" || k.CreatedAt.Year() != 2020 || k.CreatedBy != "bob" {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := m.Deactivate(ctx, "key_off1"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Revoke(ctx, "key_dead"); err != nil {
		t.Fatal(err)
	}
	first, _, err := m.Rotate(ctx, "key_turn", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := m.Rotate(ctx, first.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	before := keystest.Dump(t, c)
	d := applied(t, m, file, ApplyOptions{Prune: true})
	if !d.Empty() || d.Unchanged != 3 || len(d.Kept) != 3 {
		t.Errorf("\n%s", d)
	}
	for _, want := range []string{
		"= key_dead is revoked for good, which the file does not say\n",
		"= " + first.ID + " is not in the file; it is the successor by rotation of key_turn\n",
		"= " + second.ID + " is not in the file; it is the successor by rotation of key_turn\n",
	} {
		if !strings.Contains(d.String(), want) {
			t.Errorf("%q is not in\n%s", want, d)
		}
	}
	same(t, "the same file", keystest.Dump(t, c), before)
	// What the file does say is made so.
	said := strings.NewReplacer("limit_id: shared", "limit_id: other, status: active, retires_at: 2030-01-01T00:00:00Z",
		"anchor_day: 7", "anchor_day: 8", "2020-01-02", "2021-01-02", "created_by: bob", "created_by: eve, expires_at: 2031-01-01T00:00:00Z",
		"name: b", "name: b, status: revoked", "name: c,", "name: c, status: revoked,").Replace(file)
	d = applied(t, m, said, ApplyOptions{})
	want := `~ key_off1 pictify/orbit "a"
    status: "inactive" -> "active"
    expires_at: (none) -> "2031-01-01T00:00:00Z"
    retires_at: (none) -> "2030-01-01T00:00:00Z"
    limit_id: "shared" -> "other"
    created_by: "bob" -> "eve"
    created_at: "2020-01-02T03:04:05Z" -> "2021-01-02T03:04:05Z"
    anchor_day: "7" -> "8"
~ key_turn pictify/orbit "c"
    status: "active" -> "revoked"
`
	if !strings.HasPrefix(d.String(), want) {
		t.Errorf("\n%s\nwant\n%s", d, want)
	}
	if k, err := m.Get(ctx, "key_turn"); err != nil || k.Status != keys.Revoked {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestApplyReportsConflicts(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	file := ""
	for _, id := range []string{"key_aaaa", "key_bbbb", "key_cccc"} {
		file += fmt.Sprintf("- {id: %s, api: pictify, team: orbit, name: n, plan: free, hash: %s}\n", id, hashOf(id))
	}
	applied(t, m, file, ApplyOptions{})
	changed := strings.ReplaceAll(strings.Join(strings.Split(file, "\n")[:2], "\n"), "name: n", "name: changed")
	a := newApplier(m, ApplyOptions{Prune: true})
	if err := errors.Join(a.read(fromYAML(changed)), a.readStore(t.Context())); err != nil {
		t.Fatal(err)
	}
	a.comparison()
	note := "by hand"
	for _, id := range []string{"key_aaaa", "key_cccc"} {
		if _, err := m.Update(t.Context(), id, Patch{Note: &note}); err != nil {
			t.Fatal(err)
		}
	}
	err := a.do(t.Context())
	if !errors.Is(err, store.ErrConflict) || strings.Count(a.diff.String(), "FAILED") != 2 {
		t.Errorf("%v\n%s", err, a.diff)
	}
	if k, err := m.Get(t.Context(), "key_bbbb"); err != nil || k.Name != "changed" {
		t.Errorf("%+v, %v", k, err)
	}
	if k, err := m.Get(t.Context(), "key_cccc"); err != nil || k.Status != keys.Active || k.Note != note {
		t.Errorf("%+v, %v", k, err)
	}
	if d := applied(t, m, changed, ApplyOptions{Prune: true}); len(d.Changes) != 2 {
		t.Errorf("\n%s", d)
	}
}

func TestApplyKeepsCaps(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	m.rules = transferRules{most: 1}
	item := func(id string) string {
		return fmt.Sprintf("- {id: %s, api: pictify, team: orbit, name: n, plan: free, hash: %s}\n", id, hashOf(id))
	}
	applied(t, m, item("key_aaaa"), ApplyOptions{})
	if d, err := m.Apply(t.Context(), fromYAML(item("key_aaaa")+item("key_bbbb")), ApplyOptions{}); !errors.Is(err, store.ErrCap) || d.Changes[0].Failed == "" {
		t.Errorf("%v\n%s", err, d)
	}
	applied(t, m, item("key_bbbb"), ApplyOptions{Prune: true})
	noTeam := strings.Replace(item("key_cccc"), "team: orbit, ", "", 1)
	if _, err := m.Apply(t.Context(), fromYAML(noTeam), ApplyOptions{}); err == nil || !strings.Contains(err.Error(), "team: is empty") {
		t.Errorf("%v", err)
	}
}

// What the store has ended for good, or cannot read, stands in nobody's way.
func TestApplyGoesOnWithoutWhatIsEnded(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		m, ctx := transferManager(c, keys.NewHasher(nil)), t.Context()
		lines := ""
		for _, id := range []string{"key_good", "key_dead", "key_tomb", "key_sick", "key_move"} {
			lines += "- {id: " + id + ", name: " + id + ", status: active, hash: " + hashOf(id) + "}\n"
		}
		o := ApplyOptions{Defaults: keyfile.Defaults{API: "pictify", Team: "orbit", Plan: "free"}, Prune: true}
		applied(t, m, "keys:\n"+lines+"- {id: key_gone, hash: "+hashOf("gone")+"}\n- {id: key_illy, hash: "+hashOf("key_illy")+"}\n", o)
		for _, id := range []string{"key_dead", "key_tomb", "key_move"} {
			keystest.Must[*keys.Key](t)(m.Revoke(ctx, id))
		}
		for _, id := range []string{"key_tomb", "key_move"} {
			keystest.Must[*keys.Key](t)(m.Delete(ctx, id))
		}
		for _, id := range []string{"key_sick", "key_illy"} {
			c.Set(ctx, keystest.RecordKey(id), "{", 0)
		}
		file := "keys:\n" + strings.ReplaceAll(strings.ReplaceAll(lines, "name: key_good", "name: better"), "id: key_move", "id: key_moved") +
			"- {id: key_new1, hash: " + hashOf("new") + "}\n"
		before := keystest.Dump(t, c)
		o.DryRun = true
		dry, err := m.Apply(ctx, fromYAML(file), o)
		if !errors.Is(err, ErrSkipped) {
			t.Errorf("a dry run: %v", err)
		}
		same(t, "a dry run", keystest.Dump(t, c), before)
		o.DryRun = false
		d, err := m.Apply(ctx, fromYAML(file), o)
		if !errors.Is(err, ErrSkipped) || len(d.Refused) > 0 || d.String() != dry.String() {
			t.Fatalf("%v\n%s\nannounced\n%s", err, d, dry)
		}
		for _, want := range []string{
			"- key_gone ", "~ key_good ", "+ key_new1 ", "= key_illy cannot be read", "! line 3: key_dead is revoked for good", "! line 4: key_tomb was deleted",
			"! line 5: key_sick stays as it is: ", `! line 6: key_moved has the secret of "key_move", which was deleted`,
			"1 to create, 1 to update, 1 to delete, 0 unchanged",
		} {
			if !strings.Contains(d.String(), want) {
				t.Errorf("\n%s\nwant %s", d, want)
			}
		}
		for _, id := range []string{"key_sick", "key_illy"} {
			if got := c.Get(ctx, keystest.RecordKey(id)).Val(); got != "{" {
				t.Errorf("%s is now %s", id, got)
			}
		}
		if d, err := m.Apply(ctx, fromYAML(file), o); !errors.Is(err, ErrSkipped) || len(d.Changes) > 0 || d.Unchanged != 2 {
			t.Errorf("again: %v\n%s", err, d)
		}
	})
}

// Only who says so speaks for teams that the file has no key of.
func TestApplyOfAWholeAPI(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	file := ""
	for _, team := range []string{"acme", "orbit", ""} {
		file += fmt.Sprintf("- {id: key_%s1, api: pictify, team: %q, name: n, plan: free, hash: %s}\n", team, team, hashOf(team))
	}
	file = strings.Replace(file, "key_1,", "key_none1,", 1)
	applied(t, m, file, ApplyOptions{})
	if d := applied(t, m, "keys: []", ApplyOptions{Prune: true}); !d.Empty() {
		t.Errorf("an empty file speaks for nobody:\n%s", d)
	}
	if d := applied(t, m, "keys: []", ApplyOptions{Defaults: keyfile.Defaults{API: "pictify"}, Prune: true}); !d.Empty() || len(d.Kept) > 0 {
		t.Errorf("an API alone speaks for nobody:\n%s", d)
	}
	if d := applied(t, m, "keys: []", ApplyOptions{Defaults: keyfile.Defaults{API: "genapi"}, AllTeams: true, Prune: true}); !d.Empty() {
		t.Errorf("\n%s", d)
	}
	if d := applied(t, m, "keys: []", ApplyOptions{Defaults: keyfile.Defaults{API: "pictify"}, AllTeams: true}); len(d.Kept) != 3 || !d.Empty() {
		t.Errorf("\n%s", d)
	}
	for _, o := range []ApplyOptions{{AllTeams: true}, {AllTeams: true, Defaults: keyfile.Defaults{API: "pictify", Team: "acme"}}} {
		var fault *keys.FieldError
		if _, err := m.Apply(t.Context(), fromYAML(file), o); !errors.As(err, &fault) || fault.Field != "all_teams" {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if d := applied(t, m, "keys: []", ApplyOptions{Defaults: keyfile.Defaults{API: "pictify", Team: "acme"}, Prune: true}); len(d.Changes) != 1 {
		t.Errorf("\n%s", d)
	}
	if d := applied(t, m, "keys: []", ApplyOptions{Defaults: keyfile.Defaults{API: "pictify"}, AllTeams: true, Prune: true}); len(d.Changes) != 2 {
		t.Errorf("\n%s", d)
	}
}

// Whatever is in the store and in the file: afterwards the store says what the file says, a second
// time changes nothing, and nobody else's keys are touched.
func TestApplyTwiceIsOnce(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := keystest.NewEmbedded(t)
		m := transferManager(c, keys.NewHasher([]byte("pepper")))
		foreign := map[string]string{}
		file := map[string]*keys.Key{}
		for i := range rapid.IntRange(0, 10).Draw(r, "n") {
			k := anyKey(r, i)
			k.RotatedFrom, k.RotatedTo = "", ""
			where := rapid.SampledFrom([]string{"store", "file", "both"}).Draw(r, "where")
			stored := k.Clone()
			if k.Status == keys.Revoked && where == "both" { // a revoked key never becomes anything else
				where = "store"
			}
			if where != "file" {
				if err := m.store.Create(t.Context(), stored); err != nil {
					r.Fatal(err)
				}
				if k.API == "genapi" || k.Team != "orbit" {
					foreign[keystest.RecordKey(k.ID)] = c.Get(t.Context(), keystest.RecordKey(k.ID)).Val()
				}
			}
			if where != "store" && k.API == "pictify" && k.Team == "orbit" {
				in := anyKey(r, i)
				in.API, in.Team, in.Environment, in.RotatedFrom, in.RotatedTo = k.API, k.Team, k.Environment, "", ""
				file[in.ID] = in
			}
		}
		var text []byte
		for _, id := range slices.Sorted(maps.Keys(file)) {
			f := keyfile.FieldsOf(file[id])
			text = f.AppendYAML(text)
		}
		o := ApplyOptions{Defaults: keyfile.Defaults{API: "pictify", Team: "orbit"}, Prune: true}
		records := string(text)
		if records == "" {
			records = "keys: []"
		}
		d, err := m.Apply(t.Context(), fromYAML(records), o)
		if err != nil {
			r.Fatalf("%v\n%s\n%s", err, d, records)
		}
		page, _, err := m.store.List(t.Context(), store.Filter{API: "pictify", Team: "orbit"}, "", 0)
		if err != nil || len(page) != len(file) {
			r.Fatalf("%d keys for %d of the file, %v", len(page), len(file), err)
		}
		for _, k := range page {
			want := file[k.ID]
			if len(fieldChanges(k, (&candidate{key: want, state: true, counted: true, anchored: true, dated: !want.CreatedAt.IsZero(), signed: want.CreatedBy != ""}).over(k))) > 0 {
				r.Fatalf("%+v\nwant %+v", k, want)
			}
		}
		for key, record := range foreign {
			if c.Get(t.Context(), key).Val() != record {
				r.Fatalf("%s was touched", key)
			}
		}
		before := keystest.Dump(t, c)
		again, err := m.Apply(t.Context(), fromYAML(records), o)
		if err != nil || !again.Empty() || again.Unchanged != len(file) {
			r.Fatalf("again: %v\n%s", err, again)
		}
		same(t, "again", keystest.Dump(t, c), before)
		if t.Failed() {
			r.Fatal("the second time changed something")
		}
	})
}
