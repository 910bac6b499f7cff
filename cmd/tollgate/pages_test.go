package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goccy/go-yaml"

	"tollgate/envoy"
	"tollgate/policy/policyfile"
)

// pages are README.md and the rooms' own pages, in the order in which somebody
// new would read them. Their commands are run in this order, in one folder.
var pages = []string{
	"README.md", "policy/README.md", "policy/keys/README.md", "policy/usage/README.md", "policy/manage/README.md", "policy/alerts/README.md", "envoy/README.md", "cmd/tollgate/README.md",
	"cmd/tollgate-bench/README.md", "k8s/README.md", "k8s/chart/README.md",
	"k8s/istio.md", "k8s/envoy-gateway.md", "k8s/plain-envoy.md", "k8s/ingress-nginx.md", "k8s/nothing-bypasses.md",
}

func pageText(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

type fence struct{ page, above, code string }

// fenced returns the code blocks of a language on all pages, and what stands
// in a comment right above each.
func fenced(t *testing.T, language string) (blocks []fence) {
	t.Helper()
	pattern := regexp.MustCompile("(?m)(?:^<!-- ([^\n]*) -->\n)?^```" + language + "\n((?s:.*?))^```$")
	for _, name := range pages {
		for _, m := range pattern.FindAllStringSubmatch(pageText(t, name), -1) {
			blocks = append(blocks, fence{name, m[1], m[2]})
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("the pages have no %s block", language)
	}
	return blocks
}

func TestREADMEIsShort(t *testing.T) {
	if n := strings.Count(pageText(t, "README.md"), "\n"); n > 150 {
		t.Errorf("README.md has %d lines; what is for one room belongs on its page", n)
	}
}

// TestRationaleIsShort holds each decision to 15 lines, and a line to 100 columns.
func TestRationaleIsShort(t *testing.T) {
	const page = ".github/RATIONALE.md"
	_, entries, _ := strings.Cut(pageText(t, page), "\n## ")
	for entry := range strings.SplitSeq(entries, "\n## ") {
		title, body, _ := strings.Cut(entry, "\n")
		lines := strings.Split(strings.TrimSpace(body), "\n")
		if len(lines) > 15 {
			t.Errorf("%s: %q has %d lines", page, title, len(lines))
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > 100 {
				t.Errorf("%s: %q: a line of %d columns", page, title, n)
			}
		}
	}
}

// TestPagesAreListed fails for a page whose commands nobody would run.
func TestPagesAreListed(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "ls-files", "--cached", "--others", "--exclude-standard", "README.md", "*/README.md", "k8s/*.md").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(slices.Values(strings.Fields(string(out)))), slices.Sorted(slices.Values(pages)); !slices.Equal(got, want) {
		t.Errorf("the pages are %q, tested are %q", got, want)
	}
}

// TestLinksOfPages follows every link to a file, and to a heading in it.
func TestLinksOfPages(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code := regexp.MustCompile("(?ms)^```.*?^```$")
	for _, name := range append(contributing(), pages...) {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(pageText(t, name), ""), -1) {
			target, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(m[1], "://") {
				continue
			}
			file := name
			if target != "" {
				file = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join("../..", file)); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if heading != "" && !slices.Contains(anchors(pageText(t, file)), heading) {
				t.Errorf("%s links to %s, which has no such heading", name, m[1])
			}
		}
	}
}

// anchors returns the names under which GitHub links the headings of a page.
func anchors(page string) (names []string) {
	dropped := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for line := range strings.Lines(page) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			name := dropped.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			names = append(names, strings.ReplaceAll(name, " ", "-"))
		}
	}
	return names
}

func TestPagesShowTheRealFiles(t *testing.T) {
	for _, b := range fenced(t, "yaml") {
		kind, name, _ := strings.Cut(b.above, ": ")
		switch kind {
		case "file":
			data, err := os.ReadFile(filepath.Join("../..", name))
			if err != nil || string(data) != b.code {
				t.Errorf("%s does not show %s as it is (%v)", b.page, name, err)
			}
		case "filter":
			var shown map[string]any
			if err := yaml.Unmarshal([]byte(b.code), &shown); err != nil {
				t.Fatal(err)
			}
			filter := filterOf(t, shown["name"])
			if shown["name"] == "envoy.filters.http.ext_authz" {
				checkAllowedHeaders(t, b.code)
				for _, f := range []map[string]any{shown, filter} {
					delete(f["typed_config"].(map[string]any), "allowed_headers") // of another policy
				}
			}
			if name != "envoy/envoy.yaml" || !reflect.DeepEqual(shown, filter) {
				t.Errorf("%s does not show the filter of %s:\n%v\n%v", b.page, name, shown, filter)
			}
		case "cluster":
			shown, cluster := any(nil), shipped[any](t, "$.static_resources.clusters[0]")
			if err := yaml.Unmarshal([]byte(b.code), &shown); err != nil {
				t.Fatal(err)
			}
			if name != "envoy/envoy.yaml" || !reflect.DeepEqual(shown, cluster) {
				t.Errorf("%s does not show the cluster of %s:\n%v\n%v", b.page, name, shown, cluster)
			}
		case "route":
			var shown map[string]any
			if err := yaml.Unmarshal([]byte(b.code), &shown); err != nil {
				t.Fatal(err)
			}
			if name != "envoy/envoy.yaml" || !isOnSomeHost(t, shown) {
				t.Errorf("%s does not show what a virtual host of %s has:\n%v", b.page, name, shown)
			}
		case "policy":
			if _, err := policyfile.Compile(policyfile.File{Name: name, Data: []byte(pageText(t, name) + b.code)}); err != nil {
				t.Errorf("%s: %s with what it shows: %v", b.page, name, err)
			}
		case "instead":
			if _, err := policyfile.Compile(policyfile.File{Name: name, Data: instead(t, pageText(t, name), b.code)}); err != nil {
				t.Errorf("%s: %s with what it shows in place of its own: %v", b.page, name, err)
			}
		case "websocket", "cors": // the tests of envoy put them into real proxies
		case "access-log":
			var shown, logged any
			if err := yaml.Unmarshal([]byte(b.code), &shown); err != nil {
				t.Fatal(err)
			}
			logged = shipped[any](t, connectionManager+".access_log[1]")
			if name != "envoy/envoy.yaml" || !reflect.DeepEqual(shown, logged) {
				t.Errorf("%s does not show the access log of %s:\n%v\n%v", b.page, name, shown, logged)
			}
		default:
			t.Errorf("a YAML block of %s is bound to nothing: %q", b.page, b.above)
		}
	}
}

// instead returns a policy in which what is shown stands in the place of what it says of the same,
// and an answer in that of those for the same reasons.
func instead(t *testing.T, policy, shown string) []byte {
	t.Helper()
	var into, from map[string]any
	for text, to := range map[string]*map[string]any{policy: &into, shown: &from} {
		if err := yaml.Unmarshal([]byte(text), to); err != nil {
			t.Fatal(err)
		}
	}
	reasons := func(answer any) []any { return answer.(map[string]any)["on"].([]any) }
	for key, value := range from {
		if key != "errors" {
			into[key] = value
			continue
		}
		errors := into[key].(map[string]any)
		answers := errors["answers"].([]any)
		for _, a := range value.(map[string]any)["answers"].([]any) {
			answers = slices.DeleteFunc(answers, func(b any) bool {
				return slices.ContainsFunc(reasons(b), func(r any) bool { return slices.Contains(reasons(a), r) })
			})
			answers = append(answers, a)
		}
		errors["answers"] = answers
	}
	data, err := yaml.Marshal(into)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// checkAllowedHeaders holds a filter to what the page says of its headers.
func checkAllowedHeaders(t *testing.T, filter string) {
	t.Helper()
	set, err := policyfile.Load("../../testdata/small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path, err := yaml.PathString("$.typed_config.allowed_headers.patterns[*].exact")
	if err != nil {
		t.Fatal(err)
	}
	var allowed []string
	if err := path.Read(strings.NewReader(filter), &allowed); err != nil {
		t.Fatal(err)
	}
	slices.Sort(allowed)
	if want := slices.Sorted(slices.Values(append(set.Headers(), ":path", "x-envoy-external-address", "x-forwarded-for"))); !slices.Equal(allowed, want) {
		t.Errorf("the page allows the headers %q, small.yaml reads, beside the addresses, %q", allowed, want)
	}
}

// shipped reads the part of the shipped bootstrap that is at a path.
func shipped[T any](t *testing.T, at string) (part T) {
	t.Helper()
	data, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	path, err := yaml.PathString(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.Read(strings.NewReader(string(data)), &part); err != nil {
		t.Fatal(err)
	}
	return part
}

const connectionManager = "$.static_resources.listeners[0].filter_chains[0].filters[0].typed_config"

// filterOf returns the filter of the shipped bootstrap that has this name.
func filterOf(t *testing.T, name any) map[string]any {
	t.Helper()
	for _, f := range shipped[[]map[string]any](t, connectionManager+".http_filters") {
		if f["name"] == name {
			return f
		}
	}
	t.Fatalf("envoy.yaml has no filter %q", name)
	return nil
}

// isOnSomeHost reports whether a virtual host of the shipped bootstrap has these settings.
func isOnSomeHost(t *testing.T, settings map[string]any) bool {
	t.Helper()
	for _, host := range shipped[[]map[string]any](t, connectionManager+".route_config.virtual_hosts") {
		if of, ok := host["typed_per_filter_config"].(map[string]any); ok {
			for name := range settings {
				if reflect.DeepEqual(of[name], settings[name]) {
					return true
				}
			}
		}
	}
	return false
}
