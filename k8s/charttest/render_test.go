package charttest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the files that are made from the chart")

const chartFolder = "../chart"

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartFolder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// values are what a user gives.
type values = map[string]any

// readValues reads a file of values.
func readValues(t *testing.T, file string) values {
	t.Helper()
	var v values
	if err := yaml.UnmarshalStrict(readFile(t, file), &v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return v
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// set changes values as helm --set does.
func set(t *testing.T, v values, changes ...string) values {
	t.Helper()
	for _, change := range changes {
		if err := strvals.ParseInto(change, v); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
	}
	return v
}

// minimal are the values of ci/default-values.yaml, with the example policy.
func minimal(t *testing.T, changes ...string) values {
	t.Helper()
	v := readValues(t, filepath.Join(chartFolder, "ci/default-values.yaml"))
	v["policy"] = values{"files": values{"orders.yaml": string(readFile(t, "../policies/orders.yaml"))}}
	return set(t, v, changes...)
}

// valuesFiles are those of ci, by name.
func valuesFiles(t *testing.T) map[string]values {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartFolder, "ci/*-values.yaml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%v: %v", files, err)
	}
	all := map[string]values{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), "-values.yaml")
		all[name] = readValues(t, file)
		if name == "default" {
			all[name] = minimal(t)
		}
	}
	return all
}

// release is how the chart is rendered.
type release struct {
	name, namespace string
	upgrade         bool
}

func standard() release { return release{name: "tollgate", namespace: "tollgate"} }

// render does what helm template does. An error is Helm's own.
func (r release) render(c *chart.Chart, v values) (map[string]string, error) {
	if err := chartutil.ProcessDependencies(c, v); err != nil {
		return nil, err
	}
	all, err := util.ToRenderValues(c, v, common.ReleaseOptions{
		Name: r.name, Namespace: r.namespace, Revision: 1, IsInstall: !r.upgrade, IsUpgrade: r.upgrade,
	}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// text joins what was rendered, in the order of the names, without NOTES.txt.
func text(rendered map[string]string) string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if strings.HasSuffix(name, ".yaml") && strings.TrimSpace(rendered[name]) != "" {
			fmt.Fprintf(&out, "---\n%s\n", strings.Trim(rendered[name], "\n"))
		}
	}
	return out.String()
}

// objectsOf renders the chart, and decodes everything in it.
func objectsOf(t *testing.T, v values) []object {
	t.Helper()
	rendered, err := standard().render(loadChart(t), v)
	if err != nil {
		t.Fatal(err)
	}
	return decodeAll(t, text(rendered))
}
