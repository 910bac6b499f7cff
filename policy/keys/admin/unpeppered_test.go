package admin

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

// A plain secret, however long, needs a pepper; a hash was made by somebody who knew whether it has
// one.
func TestPlainSecretsNeedAPepper(t *testing.T) {
	secret := keys.NewSecret("pk_")
	text := `{"id":"key_plain","secret":"` + secret + `"}` + "\n" + `{"id":"key_hashed","hash":"hmac-sha256:` + strings.Repeat("ab", 32) + `"}`
	const why = "secret: is plain and needs a pepper: without one its hash could be guessed back"
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	m.bare = false
	report, err := m.Import(t.Context(), fromLines(text), operator("pictify"))
	if err != nil || report.Created != 1 || report.Refused != 1 || report.First[0].Reason != why {
		t.Errorf("import without a pepper: %+v, %v", report, err)
	}
	diff, err := m.Apply(t.Context(), fromLines(text), ApplyOptions{Defaults: keyfile.Defaults{API: "pictify", Plan: "free"}})
	if err == nil || len(diff.Refused) != 1 || diff.Refused[0].Reason != why {
		t.Errorf("apply without a pepper: %+v, %v", diff, err)
	}
	m.AllowUnpeppered()
	if report, err = m.Import(t.Context(), fromLines(text), operator("pictify")); err != nil || report.Created != 1 || report.Refused != 0 {
		t.Errorf("import into the embedded store: %+v, %v", report, err)
	}
	m = transferManager(keystest.NewEmbedded(t), keys.NewHasher([]byte("pepper")))
	m.bare = false
	if report, err = m.Import(t.Context(), fromLines(text), operator("pictify")); err != nil || report.Created != 2 {
		t.Errorf("import with a pepper: %+v, %v", report, err)
	}
}

// Earlier versions marked keys as weak, in records and in exports. That is read, means nothing, and
// is not written again.
func TestTheMarkOfWeakSecretsIsIgnored(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	line := `{"id":"key_weak","api":"pictify","name":"n","plan":"free","limit_id":"key_weak","status":"active","created_at":"2026-01-15T12:00:00Z","updated_at":"2026-01-15T12:00:00Z","anchor_day":15,"version":1,"weak":true,"hash":"hmac-sha256:` + hash + `"}`
	yaml := "keys:\n- id: key_weak\n  api: pictify\n  name: \"n\"\n  plan: free\n  status: active\n  limit_id: key_weak\n" +
		"  created_at: \"2026-01-15T12:00:00Z\"\n  updated_at: \"2026-01-15T12:00:00Z\"\n  anchor_day: 15\n  version: 1\n  weak: true\n  hash: \"hmac-sha256:" + hash + "\"\n"
	if entries, err := keyfile.ParseFile("old", []byte(yaml)); err != nil || len(entries) != 1 {
		t.Errorf("ParseFile: %v", err)
	}
	for name, records := range map[string]func(*Manager) (ImportReport, error){
		"lines": func(m *Manager) (ImportReport, error) { return m.Import(t.Context(), fromLines(line), ImportOptions{}) },
		"yaml":  func(m *Manager) (ImportReport, error) { return m.Import(t.Context(), fromYAML(yaml), ImportOptions{}) },
	} {
		c := keystest.NewEmbedded(t)
		m := transferManager(c, keys.NewHasher(nil))
		if report, err := records(m); err != nil || report.Created != 1 {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
		// The record as an earlier version wrote it: the same import finds it, and every change
		// replaces it.
		old, err := c.Get(t.Context(), keystest.RecordKey("key_weak")).Result()
		marked := strings.Replace(old, `"version":1,`, `"version":1,"weak":true,`, 1)
		if err != nil || marked == old {
			t.Fatal(old, err)
		}
		if err := c.Set(t.Context(), keystest.RecordKey("key_weak"), marked, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if report, err := records(m); err != nil || report.Skipped != 1 {
			t.Errorf("%s, again: %+v, %v", name, report, err)
		}
		for _, format := range []ExportFormat{ExportJSONLines, ExportYAML} {
			var out bytes.Buffer
			if n, err := m.Export(t.Context(), &out, format, store.Filter{}); n != 1 || err != nil || strings.Contains(out.String(), "weak:") || strings.Contains(out.String(), `"weak"`) {
				t.Errorf("%s: %d, %v: %s", format, n, err, out.String())
			}
		}
		scopes := []string{"read"}
		if k, err := m.Update(t.Context(), "key_weak", Patch{Scopes: &scopes}); err != nil || k.Version != 2 {
			t.Errorf("update: %+v, %v", k, err)
		}
		if now := c.Get(t.Context(), keystest.RecordKey("key_weak")).Val(); strings.Contains(now, `"weak"`) {
			t.Errorf("written again: %s", now)
		}
		var digest keys.Digest
		if _, err := hex.Decode(digest[:], []byte(hash)); err != nil {
			t.Fatal(err)
		}
		if k, err := m.store.Lookup(t.Context(), digest); err != nil || !slices.Equal(k.Scopes, scopes) {
			t.Errorf("look-up: %+v, %v", k, err)
		}
	}
}
