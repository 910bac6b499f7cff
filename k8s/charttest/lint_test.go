package charttest

import (
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
)

// helm lint --strict: a warning is an error.
func TestLint(t *testing.T) {
	for name, v := range valuesFiles(t) {
		for _, m := range lint.RunAll(chartFolder, v, "tollgate").Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}
