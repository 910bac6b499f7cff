package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"tollgate/policy/keys/smallfile"
	"tollgate/policy/keys/strictyaml"
)

// Fault is one thing wrong in a policy file.
type Fault struct {
	File         string
	Line, Column int // 1-based
	Message      string
}

// Error returns "file:line:column: message".
func (f *Fault) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

// File is a file's name, used in errors, and its text.
type File struct {
	Name string
	Data []byte
}

// ReadFiles reads the YAML files at path: the file itself, or every *.yaml and
// *.yml of the directory, sorted by name. Sub-directories and dot files are left
// out, so that a Kubernetes ConfigMap volume works as it is mounted.
func ReadFiles(path string) ([]File, error) { return readFiles(path, maxFile) }

// maxFiles is how many bytes the files of a directory may have together, and a
// file of keys.
const maxFiles = 64 << 20

// ReadKeyFiles is ReadFiles for keys files, which are larger than policies.
func ReadKeyFiles(path string) ([]File, error) { return readFiles(path, maxFiles) }

func readFiles(path string, most int64) ([]File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		names, err = policyNames(path)
		if err != nil {
			return nil, err
		}
	}
	files := make([]File, 0, len(names))
	left := int64(maxFiles)
	for _, name := range names {
		data, err := readFile(name, most)
		if err != nil {
			return nil, err
		}
		if left -= int64(len(data)); left < 0 {
			return nil, fmt.Errorf("%s: its files are larger than %d bytes together", path, maxFiles)
		}
		files = append(files, File{Name: name, Data: data})
	}
	return files, nil
}

// readFile reads a regular file: a pipe or a device could hold its reader up for
// good. Its size is judged before it is read.
func readFile(name string, most int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return smallfile.Read(name, most)
}

func policyNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), ".") || (ext != ".yaml" && ext != ".yml") {
			continue
		}
		name := filepath.Join(dir, e.Name())
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s holds no *.yaml file", dir)
	}
	sort.Strings(names)
	return names, nil
}

// Load reads and compiles the policy file or directory at path.
func Load(path string) (*Set, error) {
	files, err := ReadFiles(path)
	if err != nil {
		return nil, err
	}
	return Compile(files...)
}

// Compile compiles policy files, one API each, into a Set. Every fault of every
// file is reported, each as a *Fault, joined with errors.Join.
func Compile(files ...File) (*Set, error) {
	set := newSet()
	var faults []error
	for _, f := range files {
		api, at, errs := compileFile(f)
		if len(errs) > 0 {
			faults = append(faults, errs...)
			continue
		}
		faults = append(faults, set.add(api, at)...)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if len(set.apis) == 0 {
		return nil, errors.New("policy: no policy file given")
	}
	return set, nil
}

func compileFile(f File) (*API, *source, []error) {
	src := &source{name: f.Name, hosts: map[string]string{}}
	doc, fault := src.decode(f.Data)
	if fault != nil {
		return nil, nil, []error{fault}
	}
	api := compile(doc, src)
	if len(src.faults) > 0 {
		return nil, nil, src.faults
	}
	return api, src, nil
}

// source is the text of one policy file; it turns places such as
// $.routes[2].scope into lines and columns and gathers the file's faults.
type source struct {
	name   string
	body   ast.Node
	hosts  map[string]string // the place of each host
	faults []error
}

// maxFaults ends the list of a file in which nothing fits.
const maxFaults = 100

func (s *source) decode(data []byte) (*document, *Fault) {
	text, fault := s.text(data)
	if fault != nil {
		return nil, fault
	}
	file, bad := strictyaml.Parse(text, 1, strictyaml.Bounds{Depth: maxDepth, Plain: true})
	if bad != nil {
		return nil, &Fault{File: s.name, Line: bad.Line, Column: bad.Column, Message: bad.Message}
	}
	for _, d := range file.Docs {
		if d.Body == nil || d.Body.Type() == ast.NullType || d.Body.Type() == ast.CommentType {
			continue
		}
		if s.body != nil {
			return nil, s.faultAt(first(d.Body), "a second document; a policy file holds one API")
		}
		s.body = d.Body
	}
	if s.body == nil {
		return nil, &Fault{File: s.name, Line: 1, Column: 1, Message: "empty policy file"}
	}
	var doc document
	if fault := s.strict(s.body, reflect.TypeFor[document]()); fault != nil {
		return nil, fault
	}
	if err := yaml.NodeToValue(s.body, &doc, yaml.Strict()); err != nil {
		return nil, s.yamlFault(err)
	}
	return &doc, nil
}

// yamlFault keeps the library's message and position and drops its source
// excerpt, which spans lines.
func (s *source) yamlFault(err error) *Fault {
	var y yaml.Error
	if errors.As(err, &y) {
		return s.faultAt(y.GetToken(), y.GetMessage())
	}
	return &Fault{File: s.name, Line: 1, Column: 1, Message: err.Error()}
}

func (s *source) faultAt(t *token.Token, message string) *Fault {
	f := &Fault{File: s.name, Line: 1, Column: 1, Message: message}
	if t != nil && t.Position != nil {
		f.Line, f.Column = t.Position.Line, t.Position.Column
	}
	return f
}

// fault records a fault at a place such as "routes[2].scope". Where the place
// itself is missing from the file, the nearest place around it is named.
func (s *source) fault(place, format string, args ...any) {
	if len(s.faults) == maxFaults {
		return
	}
	s.faults = append(s.faults, s.faultAt(s.token(place), fmt.Sprintf(format, args...)))
}

func (s *source) token(place string) *token.Token {
	for place != "" {
		path, err := yaml.PathString("$." + place)
		if err == nil {
			if node, err := path.FilterNode(s.body); err == nil && node != nil {
				return first(node)
			}
		}
		cut := strings.LastIndexAny(place, ".[")
		place = place[:max(cut, 0)]
	}
	return first(s.body)
}

// first returns the token at which a value begins: a mapping's first key, not
// the colon behind it.
func first(node ast.Node) *token.Token {
	switch n := node.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return first(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return first(n.Key)
	case *ast.SequenceNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return first(n.Values[0])
		}
	}
	return node.GetToken()
}

func quote(s string) string { return strconv.Quote(s) }

func at(list string, i int, field string) string {
	place := list + "[" + strconv.Itoa(i) + "]"
	if field != "" {
		place += "." + field
	}
	return place
}
