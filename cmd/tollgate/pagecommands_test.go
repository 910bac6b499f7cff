package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/policy/connect/redistest"
)

// step is something that a page has its reader type: a block of shell commands, or one command
// within a sentence or a table.
type step struct{ page, code string }

// programs are the words with which a command begins. A span of code that begins with one and goes
// on is a command, and is run; alone the word is only a name.
const programs = `tollgate|bin/tollgate[a-z-]*|make|go|git|curl|openssl|sed|awk|cat|env|docker|` +
	`kubectl|helm|istioctl|deck|kong|envoy|nginx|caddy|redis-cli|redis-server`

// commandLine finds the lines that begin with a program and go on.
var commandLine = regexp.MustCompile(`(?m)^(` + programs + `) `)

// readPage returns the steps of a page, in its order, and its spans of code.
func readPage(t *testing.T, page string) (steps []step, spans []string) {
	t.Helper()
	fence := regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$|`([^`\n]+)`")
	for _, m := range fence.FindAllStringSubmatch(pageText(t, page), -1) {
		language, block, span := m[1], m[2], m[3]
		switch {
		case language == "sh":
			steps = append(steps, step{page, block})
		case span != "":
			spans = append(spans, span)
			if commandLine.MatchString(span) && !isName(span) {
				steps = append(steps, step{page, span + "\n"})
			}
		}
	}
	return steps, spans
}

// TestTrialOfKubernetesPage starts a server on the example policy and on the Secret that the page
// makes, makes a key with the page's command, and opens the API with it.
func TestTrialOfKubernetesPage(t *testing.T) {
	dir := pagesFolder(t)
	steps, _ := readPage(t, "k8s/README.md")
	exec := ""
	for _, s := range steps {
		if strings.Contains(s.code, "redis-password=") {
			runShell(t, dir, s.page, standIns+s.code)
		}
		if _, command, ok := strings.Cut(s.code, "deploy/tollgate-admin -- tollgate keys create "); ok {
			exec = "bin/tollgate keys create " + strings.TrimSpace(command)
		}
	}
	t.Setenv("TOLLGATE_POLICY", "k8s/policies/orders.yaml")
	t.Setenv("TOLLGATE_PEPPER_FILE", "secret/pepper")
	stop := background(t, dir, "bin/tollgate serve --authz-http-address unix:authz", "127.0.0.1:0")
	defer stop()
	runShell(t, dir, "the key of k8s/README.md", exec+` >key
		KEY=$(grep -o 'ak_live_[A-Za-z0-9]*' key)
		ask() { curl -s -o /dev/null -w '%{http_code}' --unix-socket authz http://tollgate/envoy/api=orders,environment=live/v1/orders "$@"; }
		test "$(ask)" = 401
		test "$(ask -H "Authorization: Bearer $KEY")" = 200
		test "$(ask -H "Authorization: Bearer ${KEY}x")" = 401
		grep -q '^[0-9a-f]\{48\}$' secret/redis-password
	`)
}

// TestBlocksSayWhatTheyAre fails for a block whose commands nobody would run: those of sh are run,
// and the other languages have none.
func TestBlocksSayWhatTheyAre(t *testing.T) {
	for _, page := range pages {
		for _, m := range regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(pageText(t, page), -1) {
			if !slices.Contains([]string{"sh", "yaml", "mermaid", "nginx", "caddyfile", "text"}, m[1]) || m[1] == "text" && commandLine.MatchString(m[2]) {
				t.Errorf("%s: a block of %q, which is neither run nor known to hold no commands:\n%s", page, m[1], m[2])
			}
		}
	}
}

// isName reports whether a span is the name of one of our commands, such as tollgate keys create,
// and nothing more.
func isName(span string) bool {
	path := strings.TrimPrefix(span, "tollgate ")
	found, rest, err := newRoot().Find(strings.Fields(path))
	return err == nil && len(rest) == 0 && found.CommandPath() == "tollgate "+path
}

// makeTargets are the targets that pages name, and why this test only asks make whether it knows
// them.
func makeTargets() map[string]string {
	return map[string]string{
		"run":                "the test of tollgate-demo does it, and sends each request that it prints",
		"build":              "the binary under test is in its place",
		"test":               "this is it",
		"test-envoys":        "it is make test with more Envoys",
		"test-outage":        "20 minutes; TestReplicasLeave takes a short look in every run",
		"test-before":        "it builds another commit; TestBesideTheVersionBefore is what it runs",
		"test-times":         "minutes; TestNextRequestIsLetThroughSoon takes fewer rounds in every run",
		"test-usage":         "minutes; TestUsageThroughEnvoy counts fewer requests in every run",
		"test-log-loss":      "minutes; TestAgesLoseNoEntries and the others run shorter in every run",
		"test-clickhouse":    "0.9 GB; TestRealEngine runs wherever the engine is",
		"test-webhooks":      "it needs npm; TestVerifiedByAnother runs wherever the package is",
		"image":              "minutes; the tests of k8s/image pack and push another binary",
		"test-image":         "it builds the image",
		"test-chart":         "it compiles Helm's engine, which CI does not",
		"kind-up":            "it needs Docker",
		"chart-files":        "it writes into the tree; test-chart compares",
		"test-oauth-servers": "it needs Java and Maven; TestOAuthSpringAuthorizationServer runs wherever the server is built",
		"test-oauth":         "it needs npm; TestOAuthThroughEnvoy runs wherever the package is",
		"test-scan":          "TestFirstLookUpsDuringAScan takes a smaller one in every run",
		"bench":              "ten minutes; CI runs bench-short, and tollgate-bench's own test reads its page",
		"bench-short":        "CI runs it",
		"bench-envoy":        "minutes; TestBenchEnvoyShort measures a moment of each row",
		"pgo":                "minutes, and it writes into the tree",
		"check":              "CI runs it",
		"fuzz":               "CI runs it",
		"caddy":              "CI runs it",
		"test-k8s":           "it builds a Kubernetes and needs root",
		"test-egctl":         "it builds Envoy Gateway's translator, 20 minutes; TestScriptThroughIstiosFilters runs the files for Istio in every run",
	}
}

// standIns are shell functions for programs that are not here. Each looks at what can be known
// without them.
const standIns = `
# Our own targets: see makeTargets.
make() { command make -C "$REPO" -n "$@" >/dev/null; }
# CI has neither a cluster nor containers. The files must be there, which the tests of k8s and envoy
# read; a Secret becomes a folder, as a pod sees it; a command in a pod must be one of ours.
kubectl() {
  local a command="$*"
  case $command in *' -- tollgate '*) bin/${command#*-- } --help >/dev/null || return ;; esac
  for a in "$@"; do
    case $a in
      --from-literal=*) mkdir -p secret; a=${a#*=}; printf %s "${a#*=}" >secret/"${a%%=*}" ;;
      --from-file=*) mkdir -p secret; a=${a#*=}; cp "${a#*=}" secret/"${a%%=*}" || return ;;
      *.yaml) test -e "${a##*=}" || return ;;
      k8s/chart) test -e "$a/Chart.yaml" || return ;;
    esac
  done
}
helm() { kubectl "$@"; }
docker() { kubectl "$@"; }
# It would take the ports that the file names; the tests of envoy start it with others.
envoy() { test "$1" = -c && test -e "$2"; }
# The tests of policy/usage/clickhouse let the real engine take the tables.
clickhouse-client() { case $* in *--query*) ;; *) grep -cE '^CREATE (TABLE|USER)' >/dev/null ;; esac; }
# Its own test reads the flags that its page gives it.
bin/tollgate-bench() { :; }
# Kong's own.
deck() { test "$*" = "gateway dump"; }
kong() { test "$*" = "config db_export"; }
`

// TestPagesCommands runs every command of the pages, in order, as a new user would, in a folder of
// its own. A server runs until the next one starts, and what is exported stays so.
func TestPagesCommands(t *testing.T) {
	dir := pagesFolder(t)
	address := "127.0.0.1:" + redistest.FreePort(t)
	manage := "127.0.0.1:" + redistest.FreePort(t)
	replace := strings.NewReplacer("127.0.0.1:9002", address, "127.0.0.1:9003", manage, "127.0.0.1:6379", redistest.Start(t, redistest.Plain).Address(),
		"127.0.0.1:8123", startSink(t))
	t.Setenv("TOLLGATE_MANAGE_ADDRESS", manage)
	stop := func() {}
	defer func() { stop() }()
	exports := standIns
	for _, page := range pages {
		steps, _ := readPage(t, page)
		for _, s := range steps {
			var script strings.Builder
			for command := range strings.Lines(replace.Replace(s.code)) {
				switch {
				case strings.Contains(command, "tollgate serve"):
					runShell(t, dir, page, exports+script.String())
					script.Reset()
					stop()
					stop = func() {}
					stop = background(t, dir, command, address)
				case strings.Contains(command, "tollgate manage"): // beside the server, until the end
					runShell(t, dir, page, exports+script.String())
					script.Reset()
					defer background(t, dir, command, address)()
				case strings.HasPrefix(command, "export "):
					exports += command
				default:
					script.WriteString(command)
				}
			}
			runShell(t, dir, page, exports+script.String())
		}
	}
	// What the commands were there for: the leaked key is revoked, the successor is not, the import
	// brought one, and the file holds the first three.
	runShell(t, dir, "after all pages", exports+`
		(bin/tollgate keys verify < leaked.txt || true) | grep revoked
		test "$(bin/tollgate keys list --status revoked | grep -c '^key_')" = 1
		test "$(bin/tollgate keys list --status active | grep -c '^key_')" = 3
		test "$(grep -c 'id: key_' keys.yaml)" -ge 3
	`)
}

// TestPagesNameWhatThereIs holds the names on all pages (commands, make targets, flags) to the
// code, and wants each command that a README names to be shown at work in some block.
func TestPagesNameWhatThereIs(t *testing.T) {
	var shown strings.Builder
	for _, page := range pages {
		steps, _ := readPage(t, page)
		for _, s := range steps {
			shown.WriteString(s.code)
		}
	}
	foreign := []string{
		"accesslog.fields.names.RequestPath", "accesslog.fields.headers.defaultmode", // Traefik's
		"config-yaml", // Envoy's
		"request",     // of tollgate-bench, whose own test reads its page
	}
	flags, nouns := flagsOf(newRoot()), nounsOf(newRoot())
	for _, page := range append(contributing(), pages...) {
		_, spans := readPage(t, page)
		for _, span := range spans {
			words := strings.Fields(span)
			flag, isFlag := strings.CutPrefix(words[0], "--")
			flag, _, _ = strings.Cut(flag, "=")
			switch {
			case isFlag && !flags[flag] && !slices.Contains(foreign, flag):
				t.Errorf("%s: `%s`: no command has this flag", page, span)
			case isName(span) && len(words) > 1:
				name := "tollgate " + strings.TrimPrefix(span, "tollgate ")
				if !strings.Contains(shown.String(), name+" ") && !strings.Contains(shown.String(), name+"\n") {
					t.Errorf("%s: `%s`: no page shows this command at work", page, span)
				}
			case len(words) > 1 && nouns[words[0]+" "+words[1]]:
				t.Errorf("%s: `%s`: a command begins with tollgate, a name has no arguments", page, span)
			}
		}
	}
}

// TestMakeTargetsOfPages wants each target that a page names to be in makeTargets, and none there
// that no page names.
func TestMakeTargetsOfPages(t *testing.T) {
	named := map[string]bool{}
	for _, page := range append(contributing(), pages...) {
		steps, _ := readPage(t, page)
		for _, s := range steps {
			for _, m := range regexp.MustCompile(`(?m)^make (\S+)`).FindAllStringSubmatch(s.code, -1) {
				named[m[1]] = true
				if makeTargets()[m[1]] == "" {
					t.Errorf("%s: make %s: makeTargets does not say why it need not be run", page, m[1])
				}
			}
		}
	}
	for target := range makeTargets() {
		if !named[target] {
			t.Errorf("no page names make %s", target)
		}
	}
}

// contributing are the pages for those who work on Tollgate. Their commands are not run.
func contributing() []string { return []string{".github/CONTRIBUTING.md", ".github/RATIONALE.md"} }

// flagsOf returns the flags of a command and of all below it.
func flagsOf(c *cobra.Command) map[string]bool {
	names := map[string]bool{"help": true, "version": true}
	add := func(f *pflag.Flag) { names[f.Name] = true }
	c.Flags().VisitAll(add)
	c.PersistentFlags().VisitAll(add)
	for _, below := range c.Commands() {
		for name := range flagsOf(below) {
			names[name] = true
		}
	}
	return names
}

// nounsOf returns our commands of two words, such as keys create.
func nounsOf(root *cobra.Command) map[string]bool {
	names := map[string]bool{}
	for _, noun := range root.Commands() {
		for _, verb := range noun.Commands() {
			names[noun.Name()+" "+verb.Name()] = true
		}
	}
	return names
}

// pagesFolder is a clone as far as the pages use it: what they write lands beside the links.
func pagesFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("REPO", root)
	t.Setenv("TOLLGATE_STORE_SOCKET", filepath.Join(tollgatetest.ShortDir(t), "s"))
	binary, err := exec.LookPath("tollgate") // put there by testscript.Main
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"bin/tollgate": binary}
	for _, folder := range []string{"testdata", "envoy", "k8s"} {
		links[folder] = filepath.Join(root, folder)
	}
	for link, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func runShell(t *testing.T, dir, page, script string) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", "set -x\n"+script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", page, err, out)
	}
}

// background starts a server and waits until it is ready.
func background(t *testing.T, dir, command, address string) (stop func()) {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "addresses.json")
	cmd := exec.Command("bash", "-c", "exec env "+command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TOLLGATE_GRPC_ADDRESS=127.0.0.1:0", "TOLLGATE_HTTP_ADDRESS="+address, "TOLLGATE_ADDRESSES_FILE="+ready)
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
