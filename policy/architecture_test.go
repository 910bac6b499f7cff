package policy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// goFiles parses every file of the module that is not a test, by path below the module's root.
func goFiles(t *testing.T) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	fset, files := token.NewFileSet(), map[string]*ast.File{}
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files[filepath.ToSlash(rel)] = file
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 30 {
		t.Fatalf("only %d files found", len(files))
	}
	return fset, files
}

// room returns the part of the module that a file belongs to.
func room(path string) string {
	dir := filepath.ToSlash(filepath.Dir(path))
	for _, r := range []string{"policy/keys/smallfile", "policy/keys/strictyaml", "policy/keys/strictjson", "policy/keys/keystest", "policy/keys/roles", "policy/keys/store", "policy/keys/standing", "policy/keys/audit", "policy/keys/cache", "policy/keys/keyfile", "policy/keys/transfer", "policy/keys/admin", "policy/keys", "policy/connect", "policy/limits/counters", "policy/limits", "policy/router", "policy/answer", "policy/policyfile", "policy/usage/ledger", "policy/usage/clickhouse", "policy/usage", "policy/errorlog/journal", "policy/errorlog", "policy/alerts/webhook", "policy/alerts/mail", "policy/alerts/guard", "policy/alerts/outbox", "policy/alerts/watch", "policy/alerts/inspect", "policy/alerts/rates", "policy/alerts/networks", "policy/alerts", "policy/oauth/issuer", "policy/oauth/tokens", "policy/oauth/introspection", "policy/oauth/oauthtest", "policy/oauth/springtest", "policy/oauth", "policy/manage/once", "policy/manage/api", "policy", "extauthz/decisionlines", "extauthz/extauthztest", "extauthz/scrape", "extauthz/grpcserver", "extauthz/httpserver", "extauthz/yardstick", "extauthz", "cmd", "envoy", "k8s", "testdata"} {
		if dir == r || strings.HasPrefix(dir, r+"/") {
			return r
		}
	}
	return dir
}

// Data flows one way: cmd → the servers → extauthz → policy → keys, limits. Envoy's types stay in
// the gRPC server, Redis' in the rooms that store; cmd wires all of them.
func TestImports(t *testing.T) {
	const forTests = "extauthz/extauthztest" // puts both servers on a store, as cmd does
	inner := map[string][]string{
		"policy/keys":             nil,
		"policy/keys/smallfile":   nil,
		"policy/keys/strictyaml":  nil,
		"policy/keys/strictjson":  nil,
		"policy/connect":          {"policy/keys/smallfile"},
		"policy/keys/roles":       {"policy/keys"},
		"policy/keys/store":       {"policy/keys", "policy/keys/roles", "policy/keys/strictjson", "policy/connect"},
		"policy/keys/standing":    {"policy/keys", "policy/connect", "policy/keys/store"},
		"policy/keys/audit":       {"policy/keys", "policy/connect", "policy/keys/roles", "policy/keys/store"},
		"policy/keys/cache":       {"policy/keys", "policy/keys/store", "policy/connect"},
		"policy/keys/keyfile":     {"policy/keys", "policy/keys/strictyaml", "policy/keys/strictjson"},
		"policy/keys/transfer":    {"policy/keys", "policy/keys/keyfile", "policy/keys/strictyaml"},
		"policy/keys/admin":       {"policy/keys", "policy/keys/roles", "policy/keys/store", "policy/keys/audit", "policy/keys/keyfile"},
		"policy/keys/keystest":    {"policy/keys", "policy/connect"},
		"policy/limits":           nil,
		"policy/limits/counters":  {"policy/limits", "policy/connect"},
		"policy/router":           nil,
		"policy/answer":           nil,
		"policy":                  {"policy/keys", "policy/limits", "policy/router", "policy/answer", "policy/oauth"},
		"policy/policyfile":       {"policy", "policy/keys/smallfile", "policy/keys/strictyaml", "policy/keys", "policy/limits", "policy/router", "policy/answer", "policy/oauth"},
		"policy/usage":            {"policy", "policy/keys"},
		"policy/usage/ledger":     {"policy", "policy/connect", "policy/keys", "policy/usage"},
		"policy/usage/clickhouse": {"policy/usage"},
		"policy/errorlog":         {"policy", "policy/keys"},
		"policy/errorlog/journal": {"policy", "policy/errorlog", "policy/connect"},
		"policy/alerts":           {"policy", "policy/keys", "policy/limits"},
		"policy/alerts/guard":     nil,
		"policy/alerts/webhook":   {"policy/alerts", "policy/alerts/guard"},
		"policy/alerts/mail":      {"policy/alerts", "policy/alerts/guard"},
		"policy/alerts/outbox":    {"policy/alerts", "policy/connect"},
		"policy/alerts/watch":     {"policy", "policy/alerts", "policy/keys", "policy/keys/store", "policy/limits"},
		"policy/alerts/inspect":   {"policy", "policy/alerts", "policy/keys", "policy/keys/store"},
		"policy/alerts/networks":  {"policy", "policy/alerts", "policy/connect", "policy/keys"},
		"policy/alerts/rates":     {"policy", "policy/alerts", "policy/keys/store", "policy/usage"},
		"extauthz/decisionlines":  {"policy"},
		"policy/manage/api":       {"policy/keys", "policy/keys/admin", "policy/keys/audit", "policy/keys/roles", "policy/keys/store", "policy/keys/strictjson", "policy/manage/once"},
		"policy/manage/once":      {"policy/connect"},
		"extauthz":                {"extauthz/decisionlines", "policy", "policy/oauth", "policy/alerts/outbox", "policy/policyfile", "policy/usage", "policy/usage/ledger", "policy/usage/clickhouse", "policy/errorlog", "policy/errorlog/journal", "policy/connect", "policy/keys", "policy/keys/cache", "policy/keys/standing", "policy/limits", "policy/limits/counters"},
		"extauthz/grpcserver":     {"extauthz", "policy"},
		"extauthz/httpserver":     {"extauthz", "policy"},
		"extauthz/yardstick":      {"extauthz/grpcserver"},
		"envoy":                   {"testdata"},
		"testdata":                {"testdata", "policy/keys/keyfile"},
		"k8s":                     nil,

		"policy/oauth":               {"policy/keys"},
		"policy/oauth/issuer":        {"policy/oauth"},
		"policy/oauth/tokens":        {"policy/oauth", "policy/oauth/issuer"},
		"policy/oauth/introspection": {"policy/oauth", "policy/oauth/issuer", "policy/keys/smallfile"},
		"extauthz/scrape":            {"policy/oauth/introspection", "policy/oauth/issuer", "policy/oauth/tokens"},
	}
	libraries := map[string][]string{
		"github.com/envoyproxy/go-control-plane": {"extauthz/grpcserver", "extauthz/yardstick", "cmd"},
		"google.golang.org/":                     {"extauthz/grpcserver", "extauthz/yardstick", "cmd"},
		"github.com/redis/":                      {"policy/connect", "policy/keys/store", "policy/keys/standing", "policy/keys/audit", "policy/keys/keystest", "policy/limits/counters", "policy/usage/ledger", "policy/errorlog/journal", "policy/manage/once", "policy/alerts/outbox", "policy/alerts/networks", "cmd"},
		"github.com/alicebob/":                   {"cmd", "policy/keys/keystest"},
		"github.com/prometheus/":                 {"extauthz", "extauthz/scrape", "extauthz/decisionlines", "cmd"},
		"go.opentelemetry.io/":                   {"extauthz", "cmd"},
		"github.com/spf13/":                      {"cmd"},
		"github.com/danielgtaylor/huma":          {"policy/manage/api"},
		"github.com/go-jose/":                    {"policy/oauth", "policy/oauth/introspection"},
		"log/slog":                               {"policy/oauth/issuer", "policy/oauth/introspection", "policy/connect", "policy/manage/api", "policy/keys", "policy/keys/keyfile", "policy/keys/cache", "policy/keys/keystest", "extauthz", "extauthz/grpcserver", "extauthz/httpserver", "cmd"},
	}
	_, files := goFiles(t)
	for path, file := range files {
		from := room(path)
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if to, ours := strings.CutPrefix(name, "tollgate/"); ours {
				if to = room(to + "/x.go"); from != "cmd" && from != forTests && from != to && !slices.Contains(inner[from], to) {
					t.Errorf("%s imports %s", path, name)
				}
			}
			for library, rooms := range libraries {
				if strings.HasPrefix(name, library) && !slices.Contains(rooms, from) && from != "envoy" && from != forTests {
					t.Errorf("%s imports %s", path, name)
				}
			}
		}
	}
}

// A decision could run inside another host: nothing below policy, nor what compiles its files,
// knows gRPC or protocol buffers, not even through a library, and what only computes knows no
// Redis.
func TestPolicyIsFreeOfIO(t *testing.T) {
	grpc := []string{"google.golang.org/", "github.com/envoyproxy/", "github.com/golang/protobuf", "github.com/planetscale/", "tollgate/extauthz"}
	redis := []string{"github.com/redis/", "github.com/alicebob/", "github.com/sony/gobreaker"}
	for room, unwanted := range map[string][]string{
		"tollgate/policy":            append(redis, grpc...),
		"tollgate/policy/policyfile": append(redis, grpc...),
		"tollgate/policy/router":     append(redis, grpc...),
		"tollgate/policy/answer":     append(redis, grpc...),
		"tollgate/policy/limits":     append(redis, grpc...),
		"tollgate/policy/oauth":      append(redis, grpc...),
	} {
		out, err := exec.Command("go", "list", "-deps", room).Output()
		if err != nil {
			t.Fatal(err)
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, room) || len(deps) < 20 {
			t.Fatalf("no list: %q", deps)
		}
		for _, dep := range deps {
			if slices.ContainsFunc(unwanted, func(prefix string) bool { return strings.HasPrefix(dep, prefix) }) {
				t.Errorf("%s depends on %s", room, dep)
			}
		}
	}
}

// What decides, and what answers over HTTP, knows neither gRPC nor Envoy's messages. Protocol
// buffers themselves come with Prometheus' library.
func TestOnlyTheGRPCServerKnowsGRPC(t *testing.T) {
	for _, room := range []string{"tollgate/extauthz", "tollgate/extauthz/httpserver"} {
		out, err := exec.Command("go", "list", "-deps", room).Output()
		if err != nil {
			t.Fatal(err)
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, "tollgate/policy") {
			t.Fatalf("no list: %q", deps)
		}
		for _, dep := range deps {
			for _, unwanted := range []string{"google.golang.org/grpc", "google.golang.org/genproto", "github.com/envoyproxy/", "tollgate/extauthz/grpcserver"} {
				if strings.HasPrefix(dep, unwanted) {
					t.Errorf("%s depends on %s", room, dep)
				}
			}
		}
	}
}

// CONTRIBUTING.md draws who imports whom. The drawing is the code's, and a package imports only
// what stands below it.
func TestDrawingOfImports(t *testing.T) {
	page, err := os.ReadFile("../.github/CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, drawing, _ := strings.Cut(string(page), "```text\n")
	drawing, _, _ = strings.Cut(drawing, "```")
	drawn, place := map[string][]string{}, map[string]int{}
	for line := range strings.Lines(drawing) {
		name, imports, _ := strings.Cut(strings.TrimSpace(line), "->")
		name = strings.TrimSpace(name)
		drawn[name], place[name] = strings.Fields(imports), len(place)
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "tollgate/...", "tollgate/testdata").Output()
	if err != nil {
		t.Fatal(err)
	}
	real := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		var ours []string
		for _, path := range strings.Fields(line) {
			if name, ok := strings.CutPrefix(path, "tollgate/"); ok {
				ours = append(ours, name)
			}
		}
		name, imports := ours[0], slices.Sorted(slices.Values(ours[1:]))
		real[name] = true
		if got, ok := drawn[name]; !ok || !slices.Equal(got, imports) {
			t.Errorf("drawn: %s -> %v, want %v", name, got, imports)
		}
		for _, below := range imports {
			if place[below] <= place[name] {
				t.Errorf("the arrow from %s to %s points upwards", name, below)
			}
		}
	}
	for name := range drawn {
		if !real[name] {
			t.Errorf("drawn: %s, which is no package", name)
		}
	}
}

// What shows and measures the server is never linked into it: neither a benchmark nor demo keys are
// in the process that guards keys.
func TestTheServerHoldsNoTools(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "tollgate/cmd/tollgate").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "tollgate/extauthz") {
		t.Fatalf("no list: %q", deps)
	}
	for _, dep := range deps {
		for _, unwanted := range []string{"tollgate/testdata", "tollgate/envoy", "tollgate/cmd/tollgate-", "tollgate/extauthz/yardstick", "testing"} {
			if strings.HasPrefix(dep, unwanted) {
				t.Errorf("the server depends on %s", dep)
			}
		}
	}
}

// The policy room uses net/http for its names and for ServeMux's judgement at load, never to talk.
func TestPolicyMakesNoCalls(t *testing.T) {
	_, files := goFiles(t)
	for path, file := range files {
		if !slices.Contains([]string{"policy", "policy/policyfile", "policy/router", "policy/answer", "policy/oauth"}, room(path)) {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "http" &&
				!slices.Contains([]string{"ServeMux", "NewServeMux", "NotFoundHandler"}, sel.Sel.Name) && !strings.HasPrefix(sel.Sel.Name, "Method") {
				t.Errorf("%s uses http.%s", path, sel.Sel.Name)
			}
			return true
		})
		for _, spec := range file.Imports {
			if name := spec.Path.Value; name == `"net"` || name == `"context"` || name == `"sync"` {
				t.Errorf("%s imports %s: a decision waits for nothing", path, name)
			}
		}
	}
}

func TestFunctionsAreShort(t *testing.T) {
	const longest = 60
	fset, files := goFiles(t)
	for path, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.FuncDecl, *ast.FuncLit:
				if lines := fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1; lines > longest {
					t.Errorf("%s:%d: a function of %d lines, at most %d", path, fset.Position(n.Pos()).Line, lines, longest)
				}
			}
			return true
		})
	}
}

// A package that is larger does more than one thing, and so does a folder with more files.
func TestPackagesAreSmall(t *testing.T) {
	const mostLines, mostFiles = 3000, 20
	fset, parsed := goFiles(t)
	lines, files := map[string]int{}, map[string]int{}
	for path, file := range parsed {
		dir := filepath.Dir(path)
		files[dir]++
		lines[dir] += codeLines(t, filepath.Join("..", path), fset, file)
	}
	for dir, n := range lines {
		if n > mostLines || files[dir] > mostFiles {
			t.Errorf("%s has %d lines of code in %d files, at most %d in %d", dir, n, files[dir], mostLines, mostFiles)
		}
	}
	if n := lines["policy/keys/store"]; n < 1000 {
		t.Errorf("only %d lines counted in policy/keys/store", n)
	}
}

// codeLines counts the lines that are neither blank nor comment alone.
func codeLines(t *testing.T, path string, fset *token.FileSet, file *ast.File) (n int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Comments {
		for _, c := range group.List {
			from, to := fset.Position(c.Pos()).Offset, fset.Position(c.End()).Offset
			for i := from; i < to; i++ {
				if text[i] != '\n' {
					text[i] = ' '
				}
			}
		}
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) != "" {
			n++
		}
	}
	return n
}

// A comment on lines of its own is at most 100 columns wide, with tabs of four.
func TestCommentsAreNarrow(t *testing.T) {
	const widest = 100
	seen := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		mark := map[string]string{".go": "//", ".lua": "--"}[filepath.Ext(path)]
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." && strings.HasPrefix(d.Name(), "."), path == "../policy/limits/counters/testdata":
			return filepath.SkipDir
		case d.IsDir() || mark == "":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			line = strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    ")
			comment, ok := strings.CutPrefix(strings.TrimSpace(line), mark)
			if !ok || mark == "//" && strings.HasPrefix(comment, "go:") {
				continue
			}
			seen++
			if width := utf8.RuneCountInString(line); width > widest {
				t.Errorf("%s:%d: a comment of %d columns, at most %d", path, n, width, widest)
			}
		}
		return nil
	})
	if err != nil || seen < 5000 {
		t.Errorf("%d lines of comments: %v", seen, err)
	}
}

// There is no state outside of values: no init, and no package variable but error sentinels,
// embedded files, what the linker sets (-X), interface checks, scripts and tables nobody writes.
func TestNoGlobals(t *testing.T) {
	fset, files := goFiles(t)
	for _, file := range files {
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: init", fset.Position(d.Pos()))
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				embedded := d.Doc != nil && (strings.Contains(commentText(d.Doc), "go:embed") || strings.Contains(commentText(d.Doc), "set by the linker (-X"))
				for _, spec := range d.Specs {
					if v := spec.(*ast.ValueSpec); !embedded && !(v.Doc != nil && strings.Contains(commentText(v.Doc), "go:embed")) && !constantVar(v) {
						t.Errorf("%s: package variable %s", fset.Position(v.Pos()), v.Names[0].Name)
					}
				}
			}
		}
	}
}

func commentText(g *ast.CommentGroup) string {
	var b strings.Builder
	for _, c := range g.List {
		b.WriteString(c.Text)
	}
	return b.String()
}

func constantVar(v *ast.ValueSpec) bool {
	if v.Names[0].Name == "_" {
		return true
	}
	if len(v.Values) != 1 {
		return false
	}
	switch value := v.Values[0].(type) {
	case *ast.CallExpr:
		sel, ok := value.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		pkg, ok := sel.X.(*ast.Ident)
		return ok && slices.Contains([]string{"errors.New", "fmt.Errorf", "redis.NewScript"}, pkg.Name+"."+sel.Sel.Name)
	case *ast.CompositeLit:
		array, ok := value.Type.(*ast.ArrayType)
		return ok && array.Len != nil
	}
	return false
}

// What starts servers for tests is imported by tests only, and by what is for tests itself.
func TestOnlyTestsImportTestSupport(t *testing.T) {
	support := []string{"/redistest", "/keystest", "/tollgatetest", "/extauthztest", "/clickhousetest", "/oauthtest", "/springtest"}
	_, files := goFiles(t)
	for path, file := range files {
		if slices.Contains(support, "/"+filepath.Base(filepath.Dir(path))) {
			continue
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, support := range support {
				if strings.HasPrefix(name, "tollgate/") && strings.HasSuffix(name, support) {
					t.Errorf("%s imports %s", path, name)
				}
			}
		}
	}
}
