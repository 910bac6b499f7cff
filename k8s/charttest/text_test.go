package charttest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// texts lists the paths of values that are texts.
func texts(v values, path string) (out []string) {
	for name, value := range v {
		at := strings.TrimPrefix(path+"."+name, ".")
		switch value := value.(type) {
		case string:
			out = append(out, at)
		case values:
			out = append(out, texts(value, at)...)
		}
	}
	slices.Sort(out)
	return out
}

// put sets the value at a path.
func put(v values, path, text string) {
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		inner, ok := v[p].(values)
		if !ok {
			inner = values{}
			v[p] = inner
		}
		v = inner
	}
	v[parts[len(parts)-1]] = text
}

// shape says which members and elements a value has, and of which kinds the scalars are.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, value := range v {
			out[name] = shape(value)
		}
		return out
	case []any:
		out := []any{}
		for _, value := range v {
			out = append(out, shape(value))
		}
		return out
	}
	return fmt.Sprintf("%T", v)
}

// shapeOf is that of what a chart makes of values; refused is Helm's error. A document that is no
// YAML is an error.
func shapeOf(c *chart.Chart, v values) (all []string, refused, err error) {
	rendered, refused := standard().render(c, v)
	if refused != nil {
		return nil, refused, nil
	}
	for _, document := range regexp.MustCompile(`(?m)^---\n`).Split(text(rendered), -1) {
		var v any
		if err := yaml.UnmarshalStrict([]byte(document), &v); err != nil {
			return nil, nil, err
		}
		s, err := yaml.Marshal(shape(v))
		if err != nil {
			return nil, nil, err
		}
		all = append(all, string(s))
	}
	return all, nil, nil
}

// A text stays one, whatever it looks like: a number, a switch, a comment, more YAML. Or it is
// refused by its path.
func TestTextsStayTexts(t *testing.T) {
	defaults := readValues(t, chartFolder+"/values.yaml")
	c := loadChart(t)
	n := 0
	for base, under := range map[string]string{"production": "", "trial": "redis"} {
		for _, path := range texts(defaults, "") {
			if !strings.HasPrefix(path, under) {
				continue
			}
			with := func(text string) ([]string, error, error) {
				// Files of the chart that hold no values, and are long.
				v := set(t, valuesFiles(t)[base], "metrics.prometheusRule.enabled=false", "metrics.dashboard.enabled=false")
				put(v, path, text)
				return shapeOf(c, v)
			}
			plain, refused, err := with("abc")
			if refused != nil {
				continue // a choice, a time or a digest, which is none of these either
			}
			if err != nil {
				t.Fatalf("%s: %s: %v", base, path, err)
			}
			for _, text := range []string{"123", "true", `a: {"b #c`, "a\nhostNetwork: true"} {
				got, refused, err := with(text)
				switch {
				case err != nil:
					t.Errorf("%s: %s: %q: %v", base, path, text, err)
				case refused != nil:
					if !strings.Contains(refused.Error(), "at '/"+strings.ReplaceAll(path, ".", "/")+"'") {
						t.Errorf("%s: %s: %q: %v", base, path, text, refused)
					}
				case !slices.Equal(got, plain):
					t.Errorf("%s: %s: %q makes something else of the objects", base, path, text)
				}
				n++
			}
		}
	}
	if n < 150 {
		t.Errorf("only %d texts", n)
	}
}

// The names of release and namespace may look like numbers.
func TestNamesLikeNumbers(t *testing.T) {
	for _, r := range []release{{name: "1e3", namespace: "123"}, {name: "123", namespace: "true"}} {
		for name, v := range valuesFiles(t) {
			rendered, err := r.render(loadChart(t), v)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(name, func(t *testing.T) { decodeAll(t, text(rendered)) })
		}
	}
}

// A policy arrives as it stands, however its lines begin and end.
func TestPoliciesArriveAsTheyStand(t *testing.T) {
	for _, policy := range []string{
		"api: a\n", "api: a", "api: a\n\n\n", "  # indented\napi: a\n", "\n\n    # more\n  # less\napi: a\n", "api: a # tab\t\n \n", "api: \"é\"\n", "- x\n",
		"data:\n  other.yaml: |\n    a\n---\nkind: Secret\n", "{{ .Values.pepper }}\n",
	} {
		v := minimal(t)
		v["policy"] = values{"files": values{"a.yaml": policy, "b.yaml": "api: b\n"}}
		all := objectsOf(t, v)
		for _, name := range []string{"tollgate-policies", "tollgate-policy-check"} {
			if got := named[*core.ConfigMap](t, all, name).Data; got["a.yaml"] != policy || got["b.yaml"] != "api: b\n" || len(got) != 2 {
				t.Errorf("%q arrives in %s as %q", policy, name, got)
			}
		}
	}
}
