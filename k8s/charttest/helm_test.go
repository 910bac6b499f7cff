package charttest

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// helmCommand returns Helm itself: that of HELM, else the one that `.ci/kubernetes` has built, else
// one on PATH. Without it the test skips.
func helmCommand(t *testing.T) string {
	t.Helper()
	built, _ := filepath.Glob("../../.tools/kubernetes-*/helm") // an error is of the pattern alone
	helm := cmp.Or(os.Getenv("HELM"), strings.Join(built, ""), "helm")
	path, err := exec.LookPath(helm)
	if err != nil {
		t.Skip("SKIPPED: no helm: HELM=PATH, or .ci/kubernetes builds one")
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Helm's own commands take what the tests of this package take, and make the same of it.
func TestHelmItself(t *testing.T) {
	helm := helmCommand(t)
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(helm, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	packed := t.TempDir()
	run("package", chartFolder, "--destination", packed)
	archives, err := filepath.Glob(filepath.Join(packed, "tollgate-*.tgz"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("%v: %v", archives, err)
	}
	for name := range valuesFiles(t) {
		flags := []string{"--values", filepath.Join(chartFolder, "ci", name+"-values.yaml"), "--namespace", "tollgate"}
		if name == "default" {
			flags = append(flags, "--set-file", `policy.files.orders\.yaml=../policies/orders.yaml`)
		}
		run(append([]string{"lint", "--strict", chartFolder}, flags...)...)
		got := map[string]object{}
		for _, o := range decodeAll(t, run(append([]string{"template", "tollgate", archives[0]}, flags...)...)) {
			got[o.String()] = o
		}
		want := map[string]object{}
		for _, o := range objectsOf(t, valuesFiles(t)[name]) {
			want[o.String()] = o
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: helm makes %d objects, the tests %d, or others", name, len(got), len(want))
		}
	}
	if out, err := exec.Command(helm, "template", "tollgate", chartFolder, "--set-string", "replicaCount=3").CombinedOutput(); err == nil || !strings.Contains(string(out), "/replicaCount") {
		t.Errorf("a wrong value: %v\n%s", err, out)
	}
}
