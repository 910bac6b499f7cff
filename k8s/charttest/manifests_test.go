package charttest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

const (
	manifests = "../tollgate.yaml"
	// manifestsHead says what the file is.
	manifestsHead = `# Tollgate without Helm: what the chart (chart) makes of its own defaults and the example policy, to be read and adapted.
# Made by make chart-files. Hooks are left out: nothing checks the policy before it is applied.
#
# Needs Kubernetes 1.27 or later, a namespace tollgate, a Redis 7 or Valkey, an image that you build (tollgate:dev stands for
# it), and a Secret tollgate with the keys url and pepper: README.md has the commands.
`
)

// The plain manifests are those of the chart; go test -update writes them.
func TestManifests(t *testing.T) {
	rendered, err := standard().render(loadChart(t), minimal(t))
	if err != nil {
		t.Fatal(err)
	}
	want := manifestsHead
	for _, document := range regexp.MustCompile(`(?m)^---\n`).Split(text(rendered), -1) {
		if strings.TrimSpace(document) == "" || strings.Contains(document, "helm.sh/hook:") {
			continue
		}
		want += "---\n" + strings.TrimRight(document, "\n") + "\n"
	}
	want = strings.Replace(want, "---\n", "", 1)
	if *update {
		if err := os.WriteFile(manifests, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(readFile(t, manifests)); got != want {
		t.Errorf("%s is not what the chart makes: make chart-files", manifests)
	}
}
