package k8s

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
	strict "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// watch is one expression of the rules or of the dashboard.
type watch struct {
	place  string
	expr   parser.Expr
	record string   // what a recording rule calls it
	shown  []string // labels that texts beside it show
}

func parse(t *testing.T, place, text string) parser.Expr {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Fatalf("%s: %v\n%s", place, err, text)
	}
	return expr
}

// rulesFile and dashboardFile are the sources; the chart makes objects of them.
const (
	rulesFile     = "chart/files/rules.yaml"
	dashboardFile = "chart/files/dashboard.json"
)

// readGroups returns the rules, as the Prometheus operator takes them.
func readGroups(t *testing.T) []monitoring.RuleGroup {
	t.Helper()
	data, err := yaml.YAMLToJSONStrict(readFile(t, rulesFile))
	if err != nil {
		t.Fatal(err)
	}
	var spec monitoring.PrometheusRuleSpec
	if faults, err := strict.UnmarshalStrict(data, &spec); err != nil || len(faults) > 0 || len(spec.Groups) == 0 {
		t.Fatalf("%s: %v, %v", rulesFile, faults, err)
	}
	return spec.Groups
}

var (
	shownInRules     = regexp.MustCompile(`\$labels\.(\w+)`)
	shownInDashboard = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
)

func names(pattern *regexp.Regexp, texts ...string) (out []string) {
	for _, text := range texts {
		for _, m := range pattern.FindAllStringSubmatch(text, -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// templateFunctions are those of Prometheus that our annotations may use.
func templateFunctions() template.FuncMap {
	text := func(float64) string { return "" }
	return template.FuncMap{"humanize": text, "humanizeDuration": text, "humanizePercentage": text}
}

func readRules(t *testing.T) (out []watch) {
	t.Helper()
	seen := map[string]bool{}
	for _, g := range readGroups(t) {
		for _, r := range g.Rules {
			name := r.Record + r.Alert
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
			w := watch{place: name, expr: parse(t, name, r.Expr.String()), record: r.Record}
			if r.Alert != "" {
				if !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || len(r.Annotations) != 2 {
					t.Errorf("%s: labels %v, annotations %v", name, r.Labels, r.Annotations)
				}
				w.shown = names(shownInRules, r.Annotations["summary"], r.Annotations["description"])
				for _, text := range r.Annotations {
					if _, err := template.New(name).Funcs(templateFunctions()).Parse("{{$labels := .}}{{$value := .}}" + text); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			out = append(out, w)
		}
	}
	return out
}

// dashboard is the part of Grafana's model that is looked at here.
type dashboard struct {
	Title, UID string
	Templating struct {
		List []struct{ Name, Type, Query string }
	}
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ H, W, X, Y int }
		Targets []struct {
			RefID, Expr, LegendFormat string
			Datasource                struct{ Type, UID string }
		}
	}
}

// readDashboard returns the expressions of the dashboard, with Grafana's variables replaced as it
// replaces them.
func readDashboard(t *testing.T) (d dashboard, out []watch) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, dashboardFile), &d); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$api", ".*")
	add := func(place, text, legend string) {
		text = variables.Replace(text)
		if strings.Contains(text, "$") {
			t.Errorf("%s: an unknown variable in %s", place, text)
		}
		out = append(out, watch{place: place, expr: parse(t, place, text), shown: names(shownInDashboard, legend)})
	}
	for _, v := range d.Templating.List {
		if m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Query); m != nil {
			add("variable "+v.Name, m[1], "{{"+m[2]+"}}")
		}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			add(fmt.Sprintf("panel %d (%s), %s", p.ID, p.Title, target.RefID), target.Expr, target.LegendFormat)
		}
	}
	return d, out
}

func TestDashboardIsWhole(t *testing.T) {
	d, watches := readDashboard(t)
	if d.Title == "" || d.UID == "" || len(watches) < 40 {
		t.Errorf("%q, %q, %d expressions", d.Title, d.UID, len(watches))
	}
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %d: twice, without a title, or without an expression", p.ID)
		}
		ids[p.ID] = true
		if p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d does not fit: %+v", p.ID, p.GridPos)
		}
		for _, q := range d.Panels[:i] {
			if a, b := p.GridPos, q.GridPos; a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %d and %d overlap", p.ID, q.ID)
			}
		}
		for _, target := range p.Targets {
			if target.Datasource.Type != "prometheus" || target.Datasource.UID != "${datasource}" {
				t.Errorf("panel %d: data from %+v", p.ID, target.Datasource)
			}
		}
	}
}

// The page says where the files are.
func TestThePageNamesWhatWatches(t *testing.T) {
	for _, file := range []string{rulesFile, dashboardFile} {
		if !strings.Contains(string(readFile(t, "README.md")), file) {
			t.Errorf("the page does not name %s", file)
		}
	}
}

// vocabulary is what there is to watch: by name of a metric its labels, and their values.
type vocabulary map[string]map[string]map[string]bool

// ofTargets are the labels that Prometheus adds to what it scrapes.
var ofTargets = []string{"job", "instance", "namespace", "pod"}

func (v vocabulary) add(name string, series map[string]string) {
	if v[name] == nil {
		v[name] = map[string]map[string]bool{}
	}
	for label, value := range series {
		if v[name][label] == nil {
			v[name][label] = map[string]bool{}
		}
		v[name][label][value] = true
	}
}

// labels returns the labels of what an expression results in, and reports what it names that is not
// there.
func (v vocabulary) labels(expr parser.Expr, report func(format string, args ...any)) []string {
	switch e := expr.(type) {
	case *parser.VectorSelector:
		return v.selected(e, report)
	case *parser.MatrixSelector:
		return v.labels(e.VectorSelector, report)
	case *parser.ParenExpr:
		return v.labels(e.Expr, report)
	case *parser.UnaryExpr:
		return v.labels(e.Expr, report)
	case *parser.AggregateExpr:
		inner := v.labels(e.Expr, report)
		if e.Without {
			report("without: the labels that are left depend on the metric")
		}
		for _, label := range e.Grouping {
			if !slices.Contains(inner, label) {
				report("by (%s), of %v", label, inner)
			}
		}
		if e.Op == parser.TOPK || e.Op == parser.BOTTOMK {
			return inner
		}
		return e.Grouping
	case *parser.Call:
		var of []string
		for _, arg := range e.Args {
			of = append(of, v.labels(arg, report)...)
		}
		switch e.Func.Name {
		case "histogram_quantile":
			if !slices.Contains(of, "le") {
				report("histogram_quantile of what has no le")
			}
			return slices.DeleteFunc(of, func(l string) bool { return l == "le" })
		case "absent":
			return nil
		}
		return of
	case *parser.BinaryExpr:
		left, right := v.labels(e.LHS, report), v.labels(e.RHS, report)
		if e.LHS.Type() == parser.ValueTypeScalar {
			return right
		}
		if both := e.RHS.Type() != parser.ValueTypeScalar; both && (e.VectorMatching == nil || len(e.VectorMatching.MatchingLabels) == 0) && !sameLabels(left, right) && e.Op != parser.LOR {
			report("%v on the left, %v on the right: nothing matches", left, right)
		}
		return left
	case *parser.NumberLiteral, *parser.StringLiteral:
		return nil
	}
	report("an expression of type %T", expr)
	return nil
}

func sameLabels(a, b []string) bool {
	sorted := func(l []string) []string { return slices.Compact(slices.Sorted(slices.Values(l))) }
	return slices.Equal(sorted(a), sorted(b))
}

// selected looks for a metric, and for the labels and values that select of it.
func (v vocabulary) selected(e *parser.VectorSelector, report func(format string, args ...any)) []string {
	known, ok := v[e.Name]
	if !ok {
		report("no metric %s", e.Name)
		return nil
	}
	for _, m := range e.LabelMatchers {
		if m.Name == "__name__" || slices.Contains(ofTargets, m.Name) {
			continue
		}
		if known[m.Name] == nil {
			report("%s has no label %s", e.Name, m.Name)
			continue
		}
		for _, value := range strings.Split(m.Value, "|") {
			if value != ".*" && !known[m.Name][value] {
				report("%s is never %q in %s", m.Name, value, e.Name)
			}
		}
	}
	return append(slices.Collect(maps.Keys(known)), ofTargets...)
}

// judge fails for each expression that names what there is not, and learns what recording rules
// record.
func (v vocabulary) judge(t *testing.T, watches []watch) {
	t.Helper()
	for _, w := range watches {
		result := v.labels(w.expr, func(format string, args ...any) {
			t.Errorf("%s: %s", w.place, fmt.Sprintf(format, args...))
		})
		for _, label := range w.shown {
			if !slices.Contains(result, label) {
				t.Errorf("%s shows the label %s, of %v", w.place, label, result)
			}
		}
		if w.record == "" {
			continue
		}
		v[w.record] = map[string]map[string]bool{}
		for _, label := range result {
			v[w.record][label] = v.values(w.expr, label)
		}
	}
}

// values returns all values of a label in the metrics of an expression.
func (v vocabulary) values(expr parser.Expr, label string) map[string]bool {
	all := map[string]bool{}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if e, ok := node.(*parser.VectorSelector); ok {
			maps.Copy(all, v[e.Name][label])
		}
		return nil
	})
	return all
}

// Whatever the rules and the dashboard name is on a server that runs.
func TestWhatIsWatchedIsThere(t *testing.T) {
	v := vocabulary{}
	for name, series := range scrapeServer(t) {
		for _, s := range series {
			v.add(name, s)
		}
	}
	v.judge(t, readRules(t))
	_, watches := readDashboard(t)
	v.judge(t, watches)
}

// A check that cannot fail would prove nothing.
func TestWatchesThatAreRefused(t *testing.T) {
	v := vocabulary{}
	v.add("a_total", map[string]string{"reason": "x"})
	v.add("a_seconds_bucket", map[string]string{"le": "1", "api": "y"})
	for _, good := range []string{`sum by (reason) (rate(a_total{reason="x"}[5m]))`, `histogram_quantile(0.9, sum by (le) (a_seconds_bucket))`, `sum by (job) (a_total) / sum by (job) (a_seconds_bucket)`} {
		v.labels(parse(t, good, good), func(format string, args ...any) { t.Errorf("%s: %s", good, fmt.Sprintf(format, args...)) })
	}
	for _, bad := range []string{
		"b_total", `a_total{code="x"}`, `a_total{reason="z"}`, `a_total{reason=~"x|z"}`, "sum by (code) (a_total)", "histogram_quantile(0.9, sum by (api) (a_seconds_bucket))",
		"sum by (job) (a_total) / sum by (api) (a_seconds_bucket)", "sum without (reason) (a_total)",
	} {
		refused := false
		v.labels(parse(t, bad, bad), func(string, ...any) { refused = true })
		if !refused {
			t.Errorf("%s is taken", bad)
		}
	}
	if _, err := parser.NewParser(parser.Options{}).ParseExpr("sum by (rate(a_total)"); err == nil {
		t.Error("what is no expression is taken")
	}
}
