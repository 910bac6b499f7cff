package admin

import (
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/keystest"
)

// A file makes no key that the policy would never accept, and none that is too large; of one that
// stands as the file has it, nothing is said.
func TestFilesKeepToTheRules(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	secret := "never_" + keys.NewSecret("pk_")
	line := `{"id":"key_never","api":"pictify","plan":"free","secret":"` + secret + `"}`
	report, err := m.Import(t.Context(), fromLines(line), operator("pictify"))
	if err != nil || report.Refused != 1 || report.First[0].Reason != "the policy takes no key that begins so" {
		t.Errorf("import: %+v, %v", report, err)
	}
	diff, err := m.Apply(t.Context(), fromLines(line), ApplyOptions{Defaults: keyfile.Defaults{API: "pictify", Plan: "free"}})
	if err == nil || len(diff.Refused) != 1 || diff.Refused[0].Reason != "the policy takes no key that begins so" {
		t.Errorf("apply: %v, %v", diff, err)
	}

	large := keystest.Sample(func(k *keys.Key) {
		k.ID, k.LimitID, k.API, k.Team, k.Plan, k.IPs, k.Limits = "key_large", "key_large", "pictify", "orbit", "free", keystest.Addresses(1100), nil
	})
	fields := func(k *keys.Key) string {
		var b strings.Builder
		e := keyfile.FieldsOf(k)
		b.Write(e.AppendYAML([]byte("keys:\n")))
		return b.String()
	}
	report, err = m.Import(t.Context(), fromYAML(fields(large)), operator("pictify"))
	if err != nil || report.Refused != 1 || report.First[0].Reason != "ips: 1100 are more than the 1000 that a key may have" {
		t.Errorf("import: %+v, %v", report, err)
	}
	if err := m.store.Create(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	if diff, err = m.Apply(t.Context(), fromYAML(fields(large)), ApplyOptions{}); err != nil || diff.Unchanged != 1 {
		t.Errorf("apply of what stands: %v, %v", diff, err)
	}
	large.IPs = keystest.Addresses(1101)
	if diff, err = m.Apply(t.Context(), fromYAML(fields(large)), ApplyOptions{}); err == nil || len(diff.Refused) != 1 {
		t.Errorf("apply of more: %v, %v", diff, err)
	}
}
