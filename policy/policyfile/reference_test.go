package policyfile

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

var update = flag.Bool("update", false, "write the reference of fields into policy/README.md")

// property is a part of the schema.
type property struct {
	Description string
	Properties  map[string]property
	Required    []string
	Items       *property
	OneOf       []property
}

// The page names every field, with what the schema says of it and an example.
func TestPageNamesEveryField(t *testing.T) {
	const page, begin, end = "../README.md", "<!-- fields: go test ./policy/policyfile -run EveryField -update -->\n", "<!-- end of fields -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begins := strings.Cut(string(text), begin)
	_, tail, ends := strings.Cut(rest, end)
	if !begins || !ends {
		t.Fatalf("%s has no place for the fields", page)
	}
	want := head + begin + reference(t) + end + tail
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if string(text) != want && !*update {
		t.Errorf("the fields in %s are not those of the schema; go test ./policy/policyfile -run EveryField -update", page)
	}
}

// reference is a table of all fields, in the order of the schema's structs.
func reference(t *testing.T) string {
	schema, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var root property
	if err := json.Unmarshal(schema, &root); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| field | example | |\n|---|---|---|\n")
	fields(t, &b, "", root, examples(t))
	return b.String()
}

func fields(t *testing.T, b *strings.Builder, path string, p property, examples []any) {
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range p.Properties {
			if !yield(name) {
				return
			}
		}
	})
	for _, name := range names {
		field, at := p.Properties[name], path+name
		need := ""
		if slices.Contains(p.Required, name) {
			need = "Required. "
		}
		fmt.Fprintf(b, "| `%s` | %s | %s%s |\n", at, example(t, at, examples), need, strings.ReplaceAll(field.Description, "|", "\\|"))
		if field.Items != nil {
			fields(t, b, at+"[].", *field.Items, examples)
			for _, form := range field.Items.OneOf {
				fields(t, b, at+"[].", form, examples)
			}
		}
		fields(t, b, at+".", field, examples)
	}
}

// example is the shortest value that a policy has at the path; of a list or mapping whose parts
// follow, nothing.
func example(t *testing.T, path string, examples []any) string {
	best, found := "", false
	for _, e := range examples {
		for _, v := range valuesAt(e, strings.Split(path, ".")) {
			text := flow(v)
			found = true
			if len(text) <= 60 && (best == "" || len(text) < len(best)) {
				best = text
			}
		}
	}
	if !found {
		t.Errorf("no policy shows %s", path)
	}
	if best == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(best, "|", "\\|") + "`"
}

// valuesAt returns the values at a path.
func valuesAt(v any, path []string) (found []any) {
	if len(path) == 0 {
		return []any{v}
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	name, list := strings.CutSuffix(path[0], "[]")
	v, ok = m[name]
	if !ok {
		return nil
	}
	if !list {
		return valuesAt(v, path[1:])
	}
	items, _ := v.([]any)
	for _, item := range items {
		found = append(found, valuesAt(item, path[1:])...)
	}
	return found
}

func flow(v any) string {
	text, err := yaml.MarshalWithOptions(v, yaml.Flow(true))
	if err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(string(text))
}

// examples are the policies that are tested, and those of what they do not say.
func examples(t *testing.T) (all []any) {
	paths, err := filepath.Glob("../../testdata/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rare := []string{"testdata/balancer.yaml", "testdata/tokens.yaml"}
	for _, path := range rare {
		if _, err := Load(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range slices.Concat(paths, []string{"../../testdata/small.yaml"}, rare) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if strings.Contains(path, "/bad/") || yaml.Unmarshal(text, &v) != nil {
			continue
		}
		if m, ok := v.(map[string]any); ok && m["routes"] != nil {
			all = append(all, v)
		}
	}
	return all
}
