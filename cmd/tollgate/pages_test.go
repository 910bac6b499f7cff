package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/goccy/go-yaml"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/policyfile"
)

// pages are README.md and the rooms' own pages, in the order in which somebody
// new would read them. Their commands are run in this order, in one folder.
var pages = []string{
	"README.md", "policy/README.md", "policy/keys/README.md", "policy/usage/README.md", "envoy/README.md", "cmd/tollgate/README.md",
	"cmd/tollgate-bench/README.md", "k8s/README.md",
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

// TestPagesAreListed fails for a page whose commands nobody would run.
func TestPagesAreListed(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "ls-files", "--cached", "--others", "--exclude-standard", "README.md", "*/README.md").Output()
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
	for _, name := range append([]string{".github/CONTRIBUTING.md", ".github/RATIONALE.md"}, pages...) {
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
			shipped := filterOf(t, shown["name"])
			if shown["name"] == "envoy.filters.http.ext_authz" {
				checkAllowedHeaders(t, b.code)
				for _, f := range []map[string]any{shown, shipped} {
					delete(f["typed_config"].(map[string]any), "allowed_headers") // of another policy
				}
			}
			if name != "envoy/envoy.yaml" || !reflect.DeepEqual(shown, shipped) {
				t.Errorf("%s does not show the filter of %s:\n%v\n%v", b.page, name, shown, shipped)
			}
		case "cluster":
			shown, shipped := any(nil), clusterOf(t)
			if err := yaml.Unmarshal([]byte(b.code), &shown); err != nil {
				t.Fatal(err)
			}
			if name != "envoy/envoy.yaml" || !reflect.DeepEqual(shown, shipped) {
				t.Errorf("%s does not show the cluster of %s:\n%v\n%v", b.page, name, shown, shipped)
			}
		case "websocket": // the tests of extauthz put it into a real Envoy
		default:
			t.Errorf("a YAML block of %s is bound to nothing: %q", b.page, b.above)
		}
	}
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

// clusterOf returns the cluster of Tollgate in the shipped bootstrap.
func clusterOf(t *testing.T) any {
	t.Helper()
	data, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	path, err := yaml.PathString("$.static_resources.clusters[0]")
	if err != nil {
		t.Fatal(err)
	}
	var cluster any
	if err := path.Read(strings.NewReader(string(data)), &cluster); err != nil {
		t.Fatal(err)
	}
	return cluster
}

func filterOf(t *testing.T, name any) map[string]any {
	t.Helper()
	data, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	path, err := yaml.PathString("$.static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters")
	if err != nil {
		t.Fatal(err)
	}
	var filters []map[string]any
	if err := path.Read(strings.NewReader(string(data)), &filters); err != nil {
		t.Fatal(err)
	}
	for _, f := range filters {
		if f["name"] == name {
			return f
		}
	}
	t.Fatalf("envoy.yaml has no filter %q", name)
	return nil
}

// TestPagesCommands runs every command of the pages, in order, as a new user
// would, in a folder of its own. A server runs until the next one starts, and
// what is exported stays so.
func TestPagesCommands(t *testing.T) {
	dir, address := readmeFolder(t), loopbackPort(t)
	replace := strings.NewReplacer("127.0.0.1:9002", address, "127.0.0.1:6379", redistest.Start(t, redistest.Plain).Address())
	stop := func() {}
	defer func() { stop() }()
	var exports strings.Builder
	for _, b := range fenced(t, "sh") {
		var script strings.Builder
		for command := range strings.Lines(b.code) {
			switch {
			case strings.HasPrefix(command, "make "):
				// What the target does is CI's to run; here it need only exist.
				if out, err := exec.Command("make", "-C", "../..", "-n", strings.Fields(command)[1]).CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", command, err, out)
				}
			case strings.Contains(command, "tollgate serve"):
				runShell(t, dir, exports.String()+script.String())
				script.Reset()
				stop()
				stop = background(t, dir, replace.Replace(command), address)
			case strings.HasPrefix(command, "export "):
				exports.WriteString(replace.Replace(command))
			default:
				script.WriteString(replace.Replace(command))
			}
		}
		runShell(t, dir, exports.String()+script.String())
	}
	// What the commands were there for: the leaked key is revoked, the successor is not, and the
	// file holds both.
	runShell(t, dir, exports.String()+`
		(bin/tollgate keys verify < leaked.txt || true) | grep revoked
		test "$(bin/tollgate keys list --status revoked | grep -c '^key_')" = 1
		test "$(bin/tollgate keys list --status active | grep -c '^key_')" = 2
		test "$(grep -c 'id: key_' keys.yaml)" -ge 3
	`)
}

func readmeFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	binary, err := exec.LookPath("tollgate") // put there by testscript.Main
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"testdata": filepath.Join(root, "testdata"), "bin/tollgate": binary} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func runShell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("bash", "-euxo", "pipefail", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// background starts a server and waits until it is ready.
func background(t *testing.T, dir, command, address string) (stop func()) {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "addresses.json")
	cmd := exec.Command("bash", "-c", "exec env "+command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TOLLGATE_GRPC_ADDRESS=127.0.0.1:0", "TOLLGATE_HTTP_ADDRESS="+address,
		"TOLLGATE_STORE_SOCKET="+filepath.Join(tollgatetest.ShortDir(t), "s"), "TOLLGATE_ADDRESSES_FILE="+ready)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, log.String())
		}
	}
	eventually(t, command, func() bool {
		data, err := os.ReadFile(ready)
		return err == nil && json.Valid(data)
	})
	return stop
}

func loopbackPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
