package policyfile

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

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
