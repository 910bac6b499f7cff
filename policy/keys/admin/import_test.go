package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
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

// transferRules knows one API with two plans, and no more than most keys of a team.
type transferRules struct{ most int }

func (transferRules) ValidateKey(k *keys.Key) error {
	switch {
	case k.API != "pictify" && k.API != "genapi":
		return fmt.Errorf("unknown api %q", k.API)
	case k.Plan != "free" && k.Plan != "pro":
		return fmt.Errorf("unknown plan %q", k.Plan)
	}
	return nil
}

func (r transferRules) Cap(string, string, string) (int, bool)   { return r.most, r.most > 0 }
func (transferRules) HoldsSecret(_, text string) bool            { return keys.HoldsSecret(text, "pk_") }
func (transferRules) Limit(string, string, string) (int64, bool) { return 0, false }
func (transferRules) ValidateLimits(*keys.Key) error             { return nil }
func (transferRules) ValidateExtra(*keys.Key, keys.Extra) error  { return nil }
func (transferRules) MaxAddresses(string) int                    { return 0 }
func (transferRules) ValidateSecret(_ *keys.Key, secret string) error {
	if strings.HasPrefix(secret, "never_") {
		return errors.New("the policy takes no key that begins so")
	}
	return nil
}
func (r transferRules) Prefix(api, environment string) (string, error) { return "pk_", nil }

// transferManager is the operator's, at noon of one day.
func transferManager(c redis.UniversalClient, h *keys.Hasher) *Manager {
	now := func() time.Time { return time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC) }
	m := NewManager(store.New(c), h, transferRules{}, audit.New(c, 0), roles.Actor{Name: "ada", Operator: true}, now)
	m.AllowUnpeppered()
	return m
}

func operator(api string) ImportOptions {
	return ImportOptions{Source: "keys.jsonl", Defaults: keyfile.Defaults{API: api, Plan: "free"}}
}

// fromLines reads JSON Lines as package transfer does.
func fromLines(text string) iter.Seq2[keyfile.Record, error] {
	return func(yield func(keyfile.Record, error) bool) {
		for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			r := keyfile.Record{Line: i + 1}
			f, err := keyfile.ParseFields([]byte(line))
			if err == nil {
				r.Entry, err = f.Entry()
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func fromYAML(text string) iter.Seq2[keyfile.Record, error] {
	return func(yield func(keyfile.Record, error) bool) {
		keyfile.ParseItem(text, 1, func(line int, e keyfile.Entry, err error) bool {
			return yield(keyfile.Record{Line: line, Entry: e}, err)
		})
	}
}

// many are n records of secrets of our own.
func many(n int) iter.Seq2[keyfile.Record, error] {
	return func(yield func(keyfile.Record, error) bool) {
		for i := range n {
			e := keyfile.Entry{Key: keys.Key{Team: fmt.Sprintf("team_%d", i%7)}, Secret: manySecret(i)}
			if !yield(keyfile.Record{Line: i + 1, Entry: e}, nil) {
				return
			}
		}
	}
}

func manySecret(i int) string {
	d := keys.Digest(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))))
	half := derivedID(d)[len("key_"):]
	return keys.Seal("pk_", (half + derivedID(keys.Digest(sha256.Sum256([]byte(half))))[len("key_"):])[:27])
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for key := range want {
		if got[key] != want[key] {
			t.Errorf("%s: %s:\n got %s\nwant %s", what, key, got[key], want[key])
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s: %s should not be there: %s", what, key, got[key])
		}
	}
}

func TestImport(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		h := keys.NewHasher(nil)
		m := transferManager(c, h)
		taken, deleted := keys.NewSecret("pk_"), keys.NewSecret("pk_")
		for id, secret := range map[string]string{"key_taken": taken, "key_gone": deleted} {
			k := keystest.Sample(func(k *keys.Key) { k.ID, k.LimitID, k.API, k.Digest = id, id, "pictify", h.Digest(secret) })
			if err := m.store.Create(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Revoke(t.Context(), "key_gone"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Delete(t.Context(), "key_gone"); err != nil {
			t.Fatal(err)
		}
		a, b := keys.NewSecret("pk_"), keys.NewSecret("pk_")
		text := strings.Join([]string{
			`{"secret":"` + a + `","team":"orbit"}`,
			`{"id":"key_given","name":"n","plan":"pro","scopes":["read"],"limits":[{"name":"minute","requests":5}],"ips":["10.0.0.1"],"hash":"hmac-sha256:` + h.Digest(b).Hex() + `","created_at":"2020-02-29T00:00:00Z"}`,
			`{"secret":"` + a + `"}`,
			`{"id":"key_given","secret":"` + keys.NewSecret("") + `"}`,
			`{"secret":"` + keys.NewSecret("") + `","plan":"gold"}`,
			`{"secret":"` + taken + `"}`,
			`{"id":"key_gone","secret":"` + keys.NewSecret("") + `"}`,
			`{"id":"key_taken","secret":"` + keys.NewSecret("") + `"}`,
			`{"secret":"correct-horse"}`,
			`{"secret":"` + keys.NewSecret("") + `","plan":5}`,
			`{"secret":"` + keys.NewSecret("") + `","api":"UPPER"}`,
			`{"secret":"` + keys.NewSecret("") + `","status":"deleted"}`,
			`{"` + keys.NewSecret("") + `":1}`,
			`no json ` + keys.NewSecret(""),
			`{"secret":"` + deleted + `"}`,
			`{"hash":"hmac-sha256:` + h.Digest(deleted).Hex() + `","id":"key_again"}`,
		}, "\n")
		var refused bytes.Buffer
		o := operator("pictify")
		o.Refused, o.SHA256, o.Total = &refused, strings.Repeat("ab", 32), 16
		report, err := m.Import(t.Context(), fromLines(text), o)
		if err != nil {
			t.Fatal(err)
		}
		if report.Read != 16 || report.Created != 2 || report.Skipped != 0 || report.Refused != 14 || len(report.First) != 14 {
			t.Errorf("report %+v", report)
		}
		want := `{"line":3,"reason":"the same secret as on line 1"}
{"line":4,"id":"key_given","reason":"id: \"key_given\" again, first on line 2"}
{"line":5,"reason":"unknown plan \"gold\""}
{"line":6,"reason":"the secret belongs to \"key_taken\", which is in the store"}
{"line":7,"id":"key_gone","reason":"id: \"key_gone\" was deleted, and an id is never used again"}
{"line":8,"id":"key_taken","reason":"id: \"key_taken\" is in use by a key with another secret"}
{"line":9,"reason":"secret: is shorter than`
		got := hideDerived(refused.String())
		if n := strings.Count(got, `the secret was that of \"key_gone\", which was deleted`); n != 1 || !strings.Contains(got, `"line":16,"id":"key_again","reason":"the same secret as on line 15"`) {
			t.Errorf("the secret of a deleted key:\n%s", got)
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("refused\n%s\nwant\n%s…", got, want)
		}
		if keys.CouldHoldSecret(refused.String()) {
			t.Errorf("a secret in\n%s", refused.String())
		}
		checkImported(t, m, a, b)
		if report, err = m.Import(t.Context(), fromLines(text), operator("pictify")); err != nil || report.Skipped != 2 || report.Created != 0 || report.Refused != 14 {
			t.Errorf("again: %+v, %v", report, err)
		}
	})
}

// hideDerived leaves the ids out that Import made up.
func hideDerived(s string) string {
	return regexp.MustCompile(`"id":"key_[0-9A-Za-z]{16}",`).ReplaceAllString(s, "")
}

func checkImported(t *testing.T, m *Manager, a, b string) {
	t.Helper()
	k, err := m.store.Lookup(t.Context(), m.hasher.Digest(a))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	if k.ID != derivedID(k.Digest) || k.Name != k.ID || k.LimitID != k.ID || k.API != "pictify" || k.Plan != "free" ||
		k.Team != "orbit" || k.Status != keys.Active || !k.CreatedAt.Equal(at) || k.AnchorDay != 15 || k.CreatedBy != "ada" {
		t.Errorf("%+v", k)
	}
	if k, err = m.store.Lookup(t.Context(), m.hasher.Digest(b)); err != nil || k.ID != "key_given" || k.Plan != "pro" || k.AnchorDay != 29 ||
		len(k.IPs) != 1 || len(k.Limits) != 1 || !slices.Equal(k.Scopes, []string{"read"}) || !k.UpdatedAt.Equal(k.CreatedAt) {
		t.Errorf("%+v, %v", k, err)
	}
	page, _, err := m.List(t.Context(), store.Filter{API: "pictify", Team: "orbit"}, "", 0)
	if err != nil || len(page) != 1 {
		t.Errorf("listed %d, %v", len(page), err)
	}
	entries, _, err := m.audit.Read(t.Context(), "", 2, audit.NewestFirst)
	if err != nil || len(entries) != 2 {
		t.Fatal(entries, err)
	}
	after := `{"source":"keys.jsonl","sha256":"` + strings.Repeat("ab", 32) + `","records":16}`
	if e := entries[1]; e.Action != roles.ActionImport || e.Who != "ada" || string(e.After) != after {
		t.Errorf("intent %+v %s", e, e.After)
	}
	if e := entries[0]; e.Intent != entries[1].ID || e.Result != "done: read 16: created 2, already there 0, refused 14" {
		t.Errorf("outcome %+v", e)
	}
}

// A pepper that was added or changed between two runs makes other hashes of the same secrets.
func TestImportKnowsOlderPeppers(t *testing.T) {
	for _, method := range []keys.Method{{Pepper: []byte("old")}, {Algorithm: keys.AlgorithmSHA256}, {}} {
		c := keystest.NewEmbedded(t)
		h := keys.NewHasher([]byte("new"), method)
		secret, named := keys.NewSecret("pk_"), keys.NewSecret("pk_")
		k := keystest.Sample(func(k *keys.Key) {
			k.API, k.Plan, k.Team, k.Digest = "pictify", "free", "", h.OlderDigest(0, secret)
			k.Algorithm = cmpOr(method.Algorithm, keys.AlgorithmHMACSHA256)
			k.ID = derivedID(k.Digest)
			k.Name, k.LimitID = k.ID, k.ID
		})
		n := keystest.Sample(func(k *keys.Key) {
			k.API, k.Plan, k.Team, k.Digest, k.Algorithm = "pictify", "free", "", h.OlderDigest(0, named), cmpOr(method.Algorithm, keys.AlgorithmHMACSHA256)
		})
		for _, k := range []*keys.Key{k, n} {
			if err := store.New(c).Create(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		m := transferManager(c, h)
		text := `{"secret":"` + secret + `"}
{"id":"key_pb_full","name":"Render farm","secret":"` + named + `","anchor_day":1}
{"id":"key_other","secret":"` + named + `x"}`
		before := keystest.Dump(t, c)
		report, err := m.Import(t.Context(), fromLines(text), operator("pictify"))
		if err != nil || report.Skipped != 2 || report.Created != 1 {
			t.Errorf("%v: %+v, %v", method.Algorithm, report, err)
		}
		report, err = m.Import(t.Context(), fromLines(`{"id":"key_third","secret":"`+named+`"}`), operator("pictify"))
		if err != nil || report.Refused != 1 || !strings.Contains(report.First[0].Reason, "belongs to \"key_pb_full\"") {
			t.Errorf("%+v, %v", report, err)
		}
		after := keystest.Dump(t, c)
		for key := range before {
			if strings.HasPrefix(key, "tg:v1:key:") && before[key] != after[key] {
				t.Errorf("%s changed", key)
			}
		}
		// Nor does it matter that the keys are hashed by the new one meanwhile.
		for k, s := range map[*keys.Key]string{k: secret, n: named} {
			if err := m.store.Rehash(t.Context(), k.ID, k.Digest, h.Digest(s)); err != nil {
				t.Fatal(err)
			}
		}
		if report, err = m.Import(t.Context(), fromLines(text), operator("pictify")); err != nil || report.Skipped != 3 {
			t.Errorf("%v: after the rehash: %+v, %v", method.Algorithm, report, err)
		}
	}
}

// A change of the pepper that is long over opens no way back to a deleted key: not by its old hash,
// and not by its secret.
func TestImportAfterAChangeOfThePepper(t *testing.T) {
	for name, method := range map[string]keys.Method{"none": {}, keys.AlgorithmSHA256: {Algorithm: keys.AlgorithmSHA256}} {
		t.Run(name, func(t *testing.T) { testImportAfterAChangeOfThePepper(t, keystest.NewEmbedded(t), method) })
	}
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		testImportAfterAChangeOfThePepper(t, c, keys.Method{Pepper: []byte("old")})
	})
}

func testImportAfterAChangeOfThePepper(t *testing.T, c redis.UniversalClient, method keys.Method) {
	ctx := t.Context()
	m := transferManager(c, keys.NewHasher([]byte("new"), method))
	// Two keys as they were made before, and the line of one in an export from then.
	secret, early := keys.NewSecret("pk_"), keys.NewSecret("pk_")
	hash := func(secret string) string {
		return cmpOr(method.Algorithm, keys.AlgorithmHMACSHA256) + ":" + m.hasher.OlderDigest(0, secret).Hex()
	}
	before := transferManager(c, keys.NewHasher(method.Pepper))
	lines := `{"id":"key_first","team":"orbit","hash":"` + hash(secret) + `"}` + "\n" + `{"id":"key_early","hash":"` + hash(early) + `"}`
	if report, err := before.Import(ctx, fromLines(lines), operator("pictify")); err != nil || report.Created != 2 {
		t.Fatal(report, err)
	}
	k := keystest.Must[*keys.Key](t)(before.Get(ctx, "key_first"))
	keystest.Must[*keys.Key](t)(before.Revoke(ctx, "key_early"))
	keystest.Must[*keys.Key](t)(before.Delete(ctx, "key_early"))
	var export bytes.Buffer
	if n, err := m.Export(ctx, &export, ExportJSONLines, store.Filter{}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	again := strings.NewReplacer(`"id":"key_first",`, `"id":"key_again",`, `"limit_id":"key_first",`, `"limit_id":"key_again",`).Replace(export.String())
	plain := `{"id":"key_again","secret":"` + secret + `"}`
	refused := func(when, why string) {
		t.Helper()
		for what, text := range map[string]string{"hash": again, "secret": plain} {
			report, err := m.Import(ctx, fromLines(text), operator("pictify"))
			if err != nil || report.Refused != 1 || report.First[0].Reason != why {
				t.Errorf("%s, by %s: %+v, %v", when, what, report, err)
			}
		}
		diff, err := m.Apply(ctx, fromLines(again), ApplyOptions{})
		if err == nil || len(diff.Changes) > 0 {
			t.Errorf("%s: Apply: %s, %v", when, diff, err)
		}
		if err := m.store.Create(ctx, keystest.Sample(func(k *keys.Key) {
			k.ID, k.LimitID, k.Digest = "key_again", "key_again", m.hasher.OlderDigest(0, secret)
		})); !errors.Is(err, store.ErrSecretTaken) {
			t.Errorf("%s: Create: %v", when, err)
		}
		if _, err := m.store.Get(ctx, "key_again"); !errors.Is(err, store.ErrNoKey) {
			t.Errorf("%s: %v", when, err)
		}
	}
	text := `{"id":"key_again","secret":"` + early + `"}` + "\n" + `{"id":"key_again","hash":"` + hash(early) + `"}`
	if report, err := m.Import(ctx, fromLines(text), operator("pictify")); err != nil || report.Refused != 2 ||
		report.First[0].Reason != `the secret was that of "key_early", which was deleted, and a secret is never used again` {
		t.Errorf("deleted before the change: %+v, %v", report, err)
	}
	rehashFully(t, m, k, m.hasher.Digest(secret))
	refused("after the change", `the secret belongs to "key_first", which is in the store`)
	// The key itself is known by its old hash.
	if report, err := m.Import(ctx, fromLines(export.String()), operator("pictify")); err != nil || report.Refused != 1 || !strings.Contains(report.First[0].Reason, "other details") {
		t.Errorf("the export from before: %+v, %v", report, err)
	}
	if diff, err := m.Apply(ctx, fromLines(export.String()), ApplyOptions{}); err != nil || len(diff.Changes) > 0 || diff.Unchanged != 1 {
		t.Errorf("Apply of the file from before: %s, %v", diff, err)
	}
	keystest.Must[*keys.Key](t)(m.Revoke(ctx, k.ID))
	keystest.Must[*keys.Key](t)(m.Delete(ctx, k.ID))
	deleted := `the secret was that of "key_first", which was deleted, and a secret is never used again`
	refused("after the delete", deleted)
	if _, err := m.Repair(ctx, ""); err != nil {
		t.Fatal(err)
	}
	refused("after a repair", deleted)
	if _, status, err := m.Verify(ctx, secret); status != VerifyUnknown || err != nil {
		t.Errorf("the secret is %s, %v", status, err)
	}
	keystest.Consistent(t, c)
}

// rehashFully does what a server does when a key was found by an older method.
func rehashFully(t *testing.T, m *Manager, k *keys.Key, to keys.Digest) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	rehashes, ended := NewRehashes(m.store, m.audit, m.who), make(chan struct{})
	rehashes.Add(k.ID, k.Digest, to)
	go func() {
		defer close(ended)
		rehashes.Run(ctx, func(_ string, err error) { t.Error(err) })
	}()
	keystest.Await(t, "the rehash is told", func(ctx context.Context) bool {
		told, _, err := m.audit.Read(ctx, "", 2, audit.NewestFirst)
		return err == nil && len(told) == 2 && told[1].Action == roles.ActionRehash && told[0].Result == "done"
	})
	cancel()
	<-ended
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestImportStopsBetweenBatches(t *testing.T) {
	c := keystest.NewServer(t)
	m := transferManager(c, keys.NewHasher(nil))
	ctx, cancel := context.WithCancel(t.Context())
	o := operator("pictify")
	o.Progress = func(p Progress) {
		if p.Done == 2*importBatch {
			cancel()
		}
	}
	report, err := m.Import(ctx, many(1700), o)
	if !errors.Is(err, context.Canceled) || report.Created != 1000 || report.Read != 1000 {
		t.Fatalf("%+v, %v", report, err)
	}
	stored := 0
	for i := range 1700 {
		if _, err := m.store.Lookup(t.Context(), m.hasher.Digest(manySecret(i))); err == nil {
			stored++
		} else if !errors.Is(err, keys.ErrUnknown) {
			t.Fatal(err)
		}
	}
	if stored != report.Created {
		t.Errorf("%d stored, %d reported", stored, report.Created)
	}
	entries, _, _ := m.audit.Read(t.Context(), "", 1, audit.NewestFirst)
	if len(entries) != 1 || !strings.Contains(entries[0].Result, "import stopped") || !strings.Contains(entries[0].Result, "created 1000,") {
		t.Errorf("%+v", entries)
	}
	if report, err = m.Import(t.Context(), many(1700), operator("pictify")); err != nil || report.Created != 700 || report.Skipped != 1000 {
		t.Errorf("%+v, %v", report, err)
	}
}

// A batch that has begun is finished, so that its report is true.
func TestImportFinishesTheBatchUnderWay(t *testing.T) {
	c := keystest.NewEmbedded(t)
	ctx, cancel := context.WithCancel(t.Context())
	f := &failing{}
	f.left.Store(1 << 40)
	f.trip = cancel
	c.(*redis.Client).AddHook(f)
	m := transferManager(c, keys.NewHasher(nil))
	im := newImporter(m, operator("pictify"))
	im.size = 20
	if err := im.run(ctx, many(45)); !errors.Is(err, context.Canceled) || im.report.Created != 20 || im.report.Read != 20 {
		t.Errorf("%+v, %v", im.report, err)
	}
}

// failing lets n round trips through, and none after.
type failing struct {
	left atomic.Int64
	trip func() // is called at each; may be nil
}

func (f *failing) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (f *failing) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (f *failing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if f.trip != nil {
			f.trip()
		}
		if f.left.Add(-1) < 0 {
			err := errors.New("lost")
			for _, c := range cmds {
				c.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

func TestImportSurvivesACrashAnywhere(t *testing.T) {
	const n = 45
	run := func(c redis.UniversalClient) (*Manager, ImportReport, error) {
		m := transferManager(c, keys.NewHasher(nil))
		im := newImporter(m, operator("pictify"))
		im.size = 20
		err := im.run(t.Context(), many(n))
		return m, im.report, err
	}
	whole := keystest.NewEmbedded(t)
	if _, _, err := run(whole); err != nil {
		t.Fatal(err)
	}
	want := keystest.Dump(t, whole)
	for trips := int64(0); ; trips++ {
		c := keystest.NewEmbedded(t)
		f := &failing{}
		f.left.Store(trips)
		c.(*redis.Client).AddHook(f)
		m, report, err := run(c)
		f.left.Store(1 << 40)
		usable := 0
		for i := range n {
			switch _, err := m.store.Lookup(t.Context(), m.hasher.Digest(manySecret(i))); {
			case err == nil:
				usable++
			case !errors.Is(err, keys.ErrUnknown):
				t.Fatalf("after %d round trips: %v", trips, err)
			}
		}
		if usable < report.Created {
			t.Errorf("after %d round trips: %d reported, %d usable", trips, report.Created, usable)
		}
		if err == nil {
			if trips < 6 {
				t.Errorf("only %d round trips", trips)
			}
			return
		}
		if _, report, err = run(c); err != nil || report.Created+report.Skipped != n {
			t.Fatalf("after %d round trips: %+v, %v", trips, report, err)
		}
		same(t, fmt.Sprintf("after %d round trips", trips), keystest.Dump(t, c), want)
	}
}

func TestImportOfManyRecords(t *testing.T) {
	c := keystest.NewServer(t)
	m := transferManager(c, keys.NewHasher([]byte("pepper")))
	m.now = time.Now
	const n = 5_000
	o := operator("pictify")
	o.Total = n
	var last Progress
	o.Progress = func(p Progress) {
		if p.Done <= last.Done || p.Total != n || p.Rate <= 0 || (p.Done < n) != (p.ETA > 0) {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
	}
	report, err := m.Import(t.Context(), many(n), o)
	if err != nil || report.Created != n || last.Done != n {
		t.Fatalf("%+v, %v, %+v", report, err, last)
	}
	t.Logf("%.0f records a second", last.Rate)
	last = Progress{}
	if report, err = m.Import(t.Context(), many(n), o); err != nil || report.Skipped != n {
		t.Fatalf("%+v, %v", report, err)
	}
	t.Logf("%.0f records a second that are there", last.Rate)
}

func TestImportRefusesWithoutAudit(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	c.Set(t.Context(), keystest.Audit, "not a stream", 0)
	if _, err := m.Import(t.Context(), many(3), operator("pictify")); !errors.Is(err, audit.ErrNotAudited) {
		t.Errorf("%v", err)
	}
	m.who = roles.Actor{ID: "mem_1", Name: "eve", API: "pictify", Team: "orbit", Role: roles.Admin}
	if _, err := m.Import(t.Context(), many(3), operator("pictify")); !errors.Is(err, roles.ErrForbidden) {
		t.Errorf("%v", err)
	}
	if _, err := m.Export(t.Context(), io.Discard, ExportYAML, store.Filter{API: "pictify", Team: "orbit"}); !errors.Is(err, roles.ErrForbidden) {
		t.Errorf("%v", err)
	}
	if _, err := m.Apply(t.Context(), many(3), ApplyOptions{}); !errors.Is(err, roles.ErrForbidden) {
		t.Errorf("%v", err)
	}
	if all := keystest.Dump(t, c); len(all) != 1 {
		t.Errorf("%v", all)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestImportTellsWhatStoppedIt(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	o := operator("pictify")
	o.Refused = brokenWriter{}
	if _, err := m.Import(t.Context(), fromLines("no"), o); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
	cut := func(yield func(keyfile.Record, error) bool) {
		for r, err := range many(3) {
			if !yield(r, err) {
				return
			}
		}
		yield(keyfile.Record{Line: 4}, fmt.Errorf("%w: read error", keyfile.ErrSource))
	}
	report, err := m.Import(t.Context(), cut, operator("pictify"))
	if !errors.Is(err, keyfile.ErrSource) || report.Created != 3 || report.Read != 3 {
		t.Errorf("%+v, %v", report, err)
	}
	changed := fromLines(`{"id":"` + derivedID(m.hasher.Digest(manySecret(1))) + `","name":"other","secret":"` + manySecret(1) + `"}`)
	if report, err = m.Import(t.Context(), changed, operator("pictify")); err != nil || report.Refused != 1 ||
		!strings.Contains(report.First[0].Reason, "other details") {
		t.Errorf("%+v, %v", report, err)
	}
	bad := derivedID(m.hasher.Digest(manySecret(2)))
	c.Set(t.Context(), keystest.RecordKey(bad), "{", 0)
	if report, err = m.Import(t.Context(), many(3), operator("pictify")); err != nil || report.Refused != 1 || report.Skipped != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestRecordsHideSecrets(t *testing.T) {
	secret := keys.NewSecret("pk_")
	r := keyfile.Record{Line: 3, Entry: keyfile.Entry{Key: keys.Key{ID: "key_abcd"}, Secret: secret}}
	text := fmt.Sprintf("%v %+v %#v %s", r, r, &r, r.LogValue())
	if data, _ := json.Marshal(r); strings.Contains(text+string(data), secret) {
		t.Errorf("%s %s", text, data)
	}
}

// One file can have a secret twice in two forms: by a hash that an older method gives, and plain.
func TestImportOfOneSecretInTwoForms(t *testing.T) {
	secret := keys.NewSecret("pk_")
	sum := sha256.Sum256([]byte(secret))
	hash, plain := fmt.Sprintf(`{"hash":"sha256:%x"}`, sum), `{"secret":"`+secret+`"}`
	for _, text := range []string{hash + "\n" + plain, plain + "\n" + hash} {
		c := keystest.NewEmbedded(t)
		m := transferManager(c, keys.NewHasher([]byte("pepper"), keys.Method{Algorithm: keys.AlgorithmSHA256}))
		report, err := m.Import(t.Context(), fromLines(text), operator("pictify"))
		if err != nil || report.Created != 1 || report.Refused != 1 || report.First[0].Reason != "the same secret as on line 1" {
			t.Errorf("%+v, %v", report, err)
		}
	}
}

// A successor that stands in the file alone, beside a key in the store that does not know it, would
// be taken for one that was never finished.
func TestImportOfASuccessorOnly(t *testing.T) {
	ctx, c := t.Context(), keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher([]byte("pepper")))
	line := func(id, more string) string {
		return `{"id":"` + id + `","secret":"` + keys.NewSecret("pk_") + `","created_at":"2025-01-01T00:00:00Z"` + more + "}\n"
	}
	first := line("key_first", "")
	for _, text := range []string{first, line("key_second", `,"rotated_from":"key_first"`)} {
		report, err := m.Import(ctx, fromLines(text), operator("pictify"))
		if err != nil {
			t.Fatal(err)
		}
		if text != first && (report.Refused != 1 || !strings.Contains(report.First[0].Reason, "key_first")) {
			t.Errorf("%+v", report)
		}
	}
	diff, err := m.Apply(ctx, fromLines(line("key_second", `,"rotated_from":"key_first"`)), ApplyOptions{Defaults: operator("pictify").Defaults})
	if !errors.Is(err, ErrRefused) || len(diff.Refused) != 1 || !strings.Contains(diff.Refused[0].Reason, "rotated_from") {
		t.Errorf("apply: %+v, %v", diff, err)
	}
	// Both at once, in any order, and again.
	both := line("key_young", `,"rotated_from":"key_old1"`) + line("key_old1", `,"rotated_to":"key_young"`)
	for range 2 {
		if report, err := m.Import(ctx, fromLines(both), operator("pictify")); err != nil || report.Refused != 0 {
			t.Errorf("%+v, %v", report, err)
		}
	}
	if report, err := m.Repair(ctx, ""); err != nil || report.Strays != 0 {
		t.Errorf("%+v, %v", report, err)
	}
}
