package charttest

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	"sigs.k8s.io/yaml"
)

// kubernetes is the module whose description of the API objects are held against.
const kubernetes = "k8s.io/kubernetes@v1.37.2"

// writeSchemas writes the schema of each kind of the API into a folder, as kubeconform looks for
// it: from the description that Kubernetes' module has, and from cert-manager's definition.
func writeSchemas(t *testing.T, folder string) {
	t.Helper()
	// Not a requirement of ours: its go.mod needs two dozen replacements.
	cmd := exec.Command("go", "mod", "download", "-json", kubernetes)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", kubernetes, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(module.Dir, "api/openapi-spec/v3/api*_openapi.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no description in %s: %v", module.Dir, err)
	}
	for _, file := range files {
		writeKinds(t, folder, readFile(t, file))
	}
	writeDefinition(t, folder, readFile(t, filepath.Join(moduleFolder(t, "github.com/cert-manager/cert-manager"), "deploy/crds/cert-manager.io_certificates.yaml")))
}

func moduleFolder(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil || len(bytes.TrimSpace(out)) == 0 {
		t.Fatalf("go list -m %s: %v", module, err)
	}
	return string(bytes.TrimSpace(out))
}

// writeKinds writes the schemas of one group and version.
func writeKinds(t *testing.T, folder string, description []byte) {
	t.Helper()
	var d struct {
		Components struct{ Schemas map[string]map[string]any }
	}
	if err := json.Unmarshal(description, &d); err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Components.Schemas {
		closed(s)
	}
	for name, s := range d.Components.Schemas {
		kinds, _ := s["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 { // DeleteOptions and the like are of every group
			continue
		}
		k := kinds[0].(map[string]any)
		write(t, folder, k["group"].(string), k["version"].(string), k["kind"].(string),
			map[string]any{"$ref": "#/components/schemas/" + name, "components": map[string]any{"schemas": d.Components.Schemas}})
	}
}

// writeDefinition writes the schemas of a CustomResourceDefinition.
func writeDefinition(t *testing.T, folder string, definition []byte) {
	t.Helper()
	var d struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(definition, &d); err != nil || len(d.Spec.Versions) == 0 {
		t.Fatalf("%+v: %v", d, err)
	}
	for _, v := range d.Spec.Versions {
		s := v.Schema.OpenAPIV3Schema
		closed(s)
		s["properties"].(map[string]any)["metadata"] = map[string]any{"type": "object"}
		write(t, folder, d.Spec.Group, v.Name, d.Spec.Names.Kind, s)
	}
}

func write(t *testing.T, folder, group, version, kind string, schema any) {
	t.Helper()
	data, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(group, ".") // as kubeconform names them
	name := strings.ToLower(kind) + "-" + strings.TrimPrefix(first+"-"+version, "-") + ".json"
	if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// closed makes a schema, and those in it, refuse what they do not name.
func closed(v any) {
	switch v := v.(type) {
	case map[string]any:
		_, named := v["properties"].(map[string]any)
		if _, said := v["additionalProperties"]; named && !said && v["x-kubernetes-preserve-unknown-fields"] == nil {
			v["additionalProperties"] = false
		}
		for _, sub := range v {
			closed(sub)
		}
	case []any:
		for _, sub := range v {
			closed(sub)
		}
	}
}

func newValidator(t *testing.T) validator.Validator {
	t.Helper()
	folder := t.TempDir()
	writeSchemas(t, folder)
	v, err := validator.New([]string{folder + "/{{.ResourceKind}}{{.KindSuffix}}.json"}, validator.Opts{
		Strict: true, SkipKinds: map[string]struct{}{"PodMonitor": {}, "ServiceMonitor": {}, "PrometheusRule": {}}, // decoded strictly elsewhere
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Kubernetes' own description of its API, and cert-manager's, take every object.
func TestKubeconform(t *testing.T) {
	v := newValidator(t)
	judge := func(rendered string) (valid int, faults []string) {
		for _, r := range v.Validate("chart", io.NopCloser(strings.NewReader(rendered))) {
			switch r.Status {
			case validator.Valid:
				valid++
			case validator.Skipped, validator.Empty:
			default:
				faults = append(faults, r.Err.Error())
			}
		}
		return valid, faults
	}
	for name, values := range valuesFiles(t) {
		rendered, err := standard().render(loadChart(t), values)
		if err != nil {
			t.Fatal(err)
		}
		if valid, faults := judge(text(rendered)); valid < 4 || len(faults) > 0 {
			t.Errorf("%s: %d objects are valid; %q", name, valid, faults)
		}
	}
	for _, wrong := range []string{
		"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: grpc}]}",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {}, template: {}, replica: 1}",
		"apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: a}\nspec: {secretName: a}",
	} {
		if _, faults := judge(wrong); len(faults) == 0 {
			t.Errorf("valid:\n%s", wrong)
		}
	}
}
