package charttest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const readme = chartFolder + "/README.md"

// row is a value as the page shows it.
type row struct{ path, value, what string }

// rows lists the values in the order of values.yaml, with the comments above them. A mapping whose
// parts have no comments of their own is one row.
func rows(node *yaml.Node, path string) (out []row) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		if value.Kind == yaml.MappingNode && value.Style != yaml.FlowStyle && len(value.Content) > 0 && at != "resources" && !strings.HasSuffix(at, ".resources") {
			out = append(out, rows(value, at)...)
			continue
		}
		out = append(out, row{at, inline(value), comment(key)})
	}
	return out
}

func comment(key *yaml.Node) string {
	var lines []string
	for line := range strings.Lines(key.HeadComment) {
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")))
	}
	return strings.ReplaceAll(strings.Join(lines, " "), "|", `\|`)
}

// inline writes a value in one line, as JSON.
func inline(node *yaml.Node) string {
	var v any
	if err := node.Decode(&v); err != nil {
		panic(err) // values.yaml has been parsed
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // and holds what JSON can say
	}
	return string(data)
}

func newReadme(t *testing.T) string {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(readFile(t, chartFolder+"/values.yaml"), &doc); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	fmt.Fprint(&out, "# Values of the chart\n\n[On Kubernetes](../README.md) says how to install it. This page is made from values.yaml.\n\n| value | default | what |\n|---|---|---|\n")
	for _, r := range rows(doc.Content[0], "") {
		fmt.Fprintf(&out, "| `%s` | `%s` | %s |\n", r.path, r.value, r.what)
	}
	return out.String()
}

// The page of the values is that of values.yaml; go test -update writes it.
func TestReadme(t *testing.T) {
	want := newReadme(t)
	if *update {
		if err := os.WriteFile(readme, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(readFile(t, readme)); got != want {
		t.Errorf("%s is not that of values.yaml: make chart-files", readme)
	}
}
