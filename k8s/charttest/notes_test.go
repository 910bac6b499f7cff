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
	// Nor does a policy with a mistake keep it from being said which: that is for the check.
	broken := func(policy string) values {
		v := minimal(t)
		v["policy"] = values{"files": values{"a.yaml": policy}}
		return v
	}
	for _, policy := range []string{"api: [a", "- a\n", "api: a\nenvironments: live\nplans: [a]\n", "api: a\nenvironments: {live: 1}\nplans: 5\n", "api: a\nenvironments: [{}]\nplans: [[a]]\n"} {
		if got := notes(broken(policy)); !strings.Contains(got, "tollgate keys create --api ") || strings.Contains(got, "--env") || strings.Contains(got, "--plan") {
			t.Errorf("%q:\n%s", policy, got)
		}
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
		{"cert-manager", minimal(t, "tls.certManager.enabled=true", "tls.certManager.issuerRef.name=mesh", "tls.client.enabled=true"), []string{
			"helm uninstall leaves cert-manager's Secret tollgate-tls and cert-manager's Secret tollgate-test-tls, besides",
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
