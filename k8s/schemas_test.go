package k8s

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// schemas maps "group/version Kind" to the schema of the resource definition that the project
// ships.
type schemas map[string]*jsonschema.Schema

// definition is the part of a CustomResourceDefinition that is used here.
type definition struct {
	Kind string
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

// readSchemas loads the definitions from the very module versions whose Go types the samples are
// decoded into.
func readSchemas(t *testing.T) schemas {
	t.Helper()
	out := schemas{}
	for _, pattern := range []string{
		filepath.Join(moduleFolder(t, "sigs.k8s.io/gateway-api"), "config/crd/experimental/gateway.networking.k8s.io_*.yaml"), // has the filter ExternalAuth
		filepath.Join(moduleFolder(t, "github.com/envoyproxy/gateway"), "charts/gateway-crds-helm/templates/generated/*.yaml"),
		filepath.Join(moduleFolder(t, "istio.io/api"), "kubernetes/customresourcedefinitions.gen.yaml"),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no definitions at %s: %v", pattern, err)
		}
		for _, file := range files {
			for _, d := range documents(withoutTemplates(readFile(t, file))) {
				out.add(t, d)
			}
		}
	}
	return out
}

// withoutTemplates drops the chart's {{ if }} and {{ end }} lines around a definition.
func withoutTemplates(data []byte) []byte {
	var kept [][]byte
	for _, line := range bytes.Split(data, []byte("\n")) {
		if !bytes.HasPrefix(line, []byte("{{")) {
			kept = append(kept, line)
		}
	}
	return bytes.Join(kept, []byte("\n"))
}

func (s schemas) add(t *testing.T, document []byte) {
	t.Helper()
	var d definition
	if err := yaml.Unmarshal(document, &d); err != nil {
		t.Fatal(err)
	}
	if d.Kind != "CustomResourceDefinition" {
		return
	}
	for _, v := range d.Spec.Versions {
		id := d.Spec.Group + "/" + v.Name + " " + d.Spec.Names.Kind
		if newObject(d.Spec.Group+"/"+v.Name, d.Spec.Names.Kind) == nil {
			continue
		}
		compiler := jsonschema.NewCompiler()
		// OpenAPI 3.0 is nearest to draft 4: exclusiveMinimum is a boolean in both.
		compiler.DefaultDraft(jsonschema.Draft4)
		address := "mem:///" + strings.ReplaceAll(id, " ", "/")
		if err := compiler.AddResource(address, any(v.Schema.OpenAPIV3Schema)); err != nil {
			t.Fatal(err)
		}
		s[id] = compiler.MustCompile(address)
	}
}

// moduleFolder asks the go tool, which knows about vendoring, replacing and the module cache.
func moduleFolder(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil || len(bytes.TrimSpace(out)) == 0 {
		t.Fatalf("go list -m %s: %v", module, err)
	}
	return string(bytes.TrimSpace(out))
}

// check reports whether the definition accepts the object; known is false for kinds that are not
// custom resources.
func (s schemas) check(t *testing.T, apiVersion, kind string, data []byte) (known bool, err error) {
	t.Helper()
	schema := s[apiVersion+" "+kind]
	if schema == nil {
		return false, nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return true, schema.Validate(value)
}

func TestCustomResourcesMatchTheirDefinitions(t *testing.T) {
	all := readSchemas(t)
	builtIn := map[string]bool{"v1": true, "apps/v1": true, "policy/v1": true, "networking.k8s.io/v1": true}
	for _, s := range readSamples(t) {
		known, err := all.check(t, s.apiVersion, s.kind, s.json)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if known == builtIn[s.apiVersion] {
			t.Errorf("%s: definition found: %t", s, known)
		}
	}
}

func TestDefinitionsRefuse(t *testing.T) {
	all := readSchemas(t)
	for name, object := range map[string]string{
		"enum":     `{"apiVersion":"gateway.envoyproxy.io/v1alpha1","kind":"ClientTrafficPolicy","spec":{"path":{"escapedSlashesAction":"Reject"}}}`,
		"range":    `{"apiVersion":"gateway.envoyproxy.io/v1alpha1","kind":"SecurityPolicy","spec":{"extAuth":{"statusOnError":200}}}`,
		"pattern":  `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","spec":{"hostnames":["Not_A_Host"]}}`,
		"required": `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","spec":{"listeners":[{"name":"a","port":80,"protocol":"HTTP"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			var head struct{ APIVersion, Kind string }
			if err := json.Unmarshal([]byte(object), &head); err != nil {
				t.Fatal(err)
			}
			if known, err := all.check(t, head.APIVersion, head.Kind, []byte(object)); !known || err == nil {
				t.Errorf("accepted (definition found: %t): %s", known, object)
			}
		})
	}
}
