package keys

import (
	"strings"
	"testing"

	"tollgate/policy/keys/keystest"
)

// A file makes no key that the policy would never accept, and none that is too large; of one that stands as the file has
// it, nothing is said.
func TestFilesKeepToTheRules(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, NewHasher(nil))
	secret := "never_" + NewSecret("pk_")
	line := `{"id":"key_never","api":"pictify","plan":"free","secret":"` + secret + `"}`
	report, err := m.Import(t.Context(), fromLines(line), operator("pictify"))
	if err != nil || report.Refused != 1 || report.First[0].Reason != "the policy takes no key that begins so" {
		t.Errorf("import: %+v, %v", report, err)
	}
	diff, err := m.Apply(t.Context(), fromLines(line), ApplyOptions{Defaults: Defaults{API: "pictify", Plan: "free"}})
	if err == nil || len(diff.Refused) != 1 || diff.Refused[0].Reason != "the policy takes no key that begins so" {
		t.Errorf("apply: %v, %v", diff, err)
	}

	large := Sample(func(k *Key) {
		k.ID, k.LimitID, k.API, k.Team, k.Plan, k.IPs, k.Limits = "key_large", "key_large", "pictify", "orbit", "free", keystest.Addresses(1100), nil
	})
	fields := func(k *Key) string {
		var b strings.Builder
		e := FieldsOf(k)
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
