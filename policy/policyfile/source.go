package policyfile

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

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
