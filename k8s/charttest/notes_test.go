package charttest

import (
	"strings"
	"testing"
)

// NOTES.txt says the next commands, and what helm uninstall leaves.
func TestNotes(t *testing.T) {
	notes := func(v values) string {
		rendered, err := standard().render(loadChart(t), v)
		if err != nil {
			t.Fatal(err)
		}
		return rendered["tollgate/templates/NOTES.txt"]
	}
	for _, c := range []struct {
		name string
		v    values
		want []string
	}{
		{"default", minimal(t), []string{
			"kubectl rollout status --namespace tollgate deploy/tollgate", "helm test tollgate --namespace tollgate", "--set admin.enabled=true",
			"helm uninstall leaves nothing, besides",
		}},
		{"policy in the values", minimal(t, "admin.enabled=true", "keys.existingSecret=cli"), []string{
			"kubectl exec --namespace tollgate deploy/tollgate-admin -- tollgate keys create --api orders --env live --plan standard --team TEAM --name NAME",
		}},
		{"trial", valuesFiles(t)["trial"], []string{
			"kubectl exec --namespace tollgate deploy/tollgate-admin -- tollgate keys create --api API --team TEAM --name NAME",
			"get secret --namespace tollgate tollgate-bootstrap", "FOR TRIALS", "helm uninstall leaves the Secret tollgate-bootstrap and the PersistentVolumeClaim data-tollgate-redis-0, besides",
		}},
	} {
		for _, want := range c.want {
			if got := notes(c.v); !strings.Contains(got, want) {
				t.Errorf("%s: no %q in:\n%s", c.name, want, got)
			}
		}
	}
}
