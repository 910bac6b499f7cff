package policyfile

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"tollgate/policy/keys/strictyaml"
)

// source is the text of one policy file; it turns places such as $.routes[2].scope into lines and
// columns and gathers the file's faults.
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

// yamlFault keeps the library's message and position and drops its source excerpt, which spans
// lines.
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

// fault records a fault at a place such as "routes[2].scope". Where the place itself is missing
// from the file, the nearest place around it is named.
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

// first returns the token at which a value begins: a mapping's first key, not the colon behind it.
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

const (
	// maxFile is what a Kubernetes ConfigMap can hold, in bytes.
	maxFile = 1 << 20
	// maxDepth is far above what a document nests; the parser recurses.
	maxDepth = 17
)

// text refuses what is no text and drops the byte order mark of some editors.
func (s *source) text(data []byte) (string, *Fault) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(data) > maxFile {
		return "", &Fault{File: s.name, Line: 1, Column: 1, Message: fmt.Sprintf("%d bytes are more than a policy file may have: %d", len(data), maxFile)}
	}
	line, column := 1, 1
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 || r == 0 {
			return "", &Fault{File: s.name, Line: line, Column: column, Message: fmt.Sprintf("byte %#02x is no text, want UTF-8", rest[0])}
		}
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
		rest = rest[size:]
	}
	return string(data), nil
}

// strict refuses what the decoder would take in silence: a key that is no text, at which it drops
// the whole mapping, and a scalar of another type, which it converts (60.9 would become 60, 1.50
// the text 1.5). t is the type that node is decoded to, nil where the document does not know it.
func (s *source) strict(node ast.Node, t reflect.Type) *Fault {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			key, ok := v.Key.(*ast.StringNode)
			if !ok {
				return s.faultAt(v.Key.GetToken(), "unknown field "+quote(v.Key.String())+", want a text")
			}
			if fault := s.strict(v.Value, member(t, key.Value)); fault != nil {
				return fault
			}
		}
	case *ast.SequenceNode:
		for _, v := range n.Values {
			if fault := s.strict(v, member(t, "")); fault != nil {
				return fault
			}
		}
	case ast.ScalarNode:
		return s.scalar(n, t)
	}
	return nil
}

// member returns the type of a field of a struct, or of the elements of a list or map.
func member(t reflect.Type, field string) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Map:
		return t.Elem()
	case reflect.Struct:
		for i := range t.NumField() {
			if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name == field {
				return t.Field(i).Type
			}
		}
	}
	return nil
}

func (s *source) scalar(n ast.ScalarNode, t reflect.Type) *Fault {
	if t == nil || n.Type() == ast.NullType {
		return nil
	}
	kind, want := ast.UnknownNodeType, ""
	switch t.Kind() {
	case reflect.String:
		if n.Type() == ast.LiteralType {
			return nil // a text over several lines
		}
		kind, want = ast.StringType, "a text, in quotes"
	case reflect.Bool:
		kind, want = ast.BoolType, "true or false"
	case reflect.Int, reflect.Int64:
		kind, want = ast.IntegerType, "a whole number"
	default:
		return nil
	}
	text := n.GetToken().Value
	// 060 is 48 to some parsers and 60 to others.
	odd := kind == ast.IntegerType && !regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`).MatchString(text)
	if n.Type() != kind || odd {
		return s.faultAt(n.GetToken(), "bad value "+quote(text)+", want "+want)
	}
	return nil
}
