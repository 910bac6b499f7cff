package strictyaml

import (
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Kind is what a Node is.
type Kind int

// The kinds of nodes.
const (
	Other    Kind = iota // a number, true or false, as Text says it, or what only YAML has
	Null                 //
	Text                 //
	Sequence             //
	Mapping              //
)

// Node is a part of a document in which anchors, aliases and merges are resolved. A nil Node is one
// that is not there.
type Node struct {
	Line, Column int
	Kind         Kind
	Text         string
	Names        []string // of a mapping, in the order of Values
	Values       []*Node  // of a mapping or a sequence

	size int // how many nodes it stands for, with all that aliases repeat
}

// Read returns the first document of a text that holds something, or nil where none does. It sets
// no bounds: it is for texts that were read before, of which a part is wanted, or its place.
func Read(text string) (*Node, *Fault) {
	file, fault := Parse(strings.TrimPrefix(text, "\ufeff"), 1, Bounds{Twice: true})
	if fault != nil {
		return nil, fault
	}
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.NullNode, *ast.CommentGroupNode:
		default:
			return Tree(doc.Body, math.MaxInt)
		}
	}
	return nil, nil
}

// Field returns the value of this name, or nil where there is none or null.
func (n *Node) Field(path ...string) *Node {
	for _, name := range path {
		var found *Node
		for i := range n.Pairs() {
			if n.Names[i] == name {
				found = n.Values[i]
			}
		}
		n = found
	}
	if n != nil && n.Kind == Null {
		return nil
	}
	return n
}

// Pairs returns how many fields there are.
func (n *Node) Pairs() int {
	if n == nil {
		return 0
	}
	return len(n.Names)
}

// Items returns the values of a sequence.
func (n *Node) Items() []*Node {
	if n == nil || n.Kind != Sequence {
		return nil
	}
	return n.Values
}

// String returns the text, "" where there is none.
func (n *Node) String() string {
	if n == nil || n.Kind != Text {
		return ""
	}
	return n.Text
}

// Size returns how many nodes n stands for, with all that aliases repeat.
func (n *Node) Size() int { return n.size }

// Tree resolves what the parser returned. The whole may stand for at most this many nodes, so that
// a few aliases do not become millions of records.
func Tree(n ast.Node, most int) (*Node, *Fault) {
	t := &tree{anchors: map[string]*Node{}, most: most}
	root := t.node(n)
	return root, t.fault
}

type tree struct {
	anchors map[string]*Node // by name; the last before an alias counts
	most    int
	fault   *Fault // the first
}

func (t *tree) fail(n ast.Node, message string) {
	if t.fault == nil {
		t.fault = &Fault{Line: 1, Column: 1, Message: message}
		if at := n.GetToken(); at != nil && at.Position != nil {
			t.fault.Line, t.fault.Column = at.Position.Line, at.Position.Column
		}
	}
}

// node recurses as deep as the parser has done.
func (t *tree) node(n ast.Node) *Node {
	out := &Node{size: 1}
	if at := n.GetToken(); at != nil && at.Position != nil {
		out.Line, out.Column = at.Position.Line, at.Position.Column
	}
	if t.fault != nil {
		return out
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		value := t.node(n.Value)
		t.anchors[n.Name.GetToken().Value] = value
		return value
	case *ast.AliasNode:
		if value := t.anchors[n.Value.GetToken().Value]; value != nil {
			return value
		}
		t.fail(n, "an alias of an anchor that is not before it")
	case *ast.TagNode:
		return t.tagged(n)
	case *ast.MappingNode:
		out.Kind = Mapping
		if len(n.Values) > 0 {
			at := n.Values[0].Key.GetToken().Position
			out.Line, out.Column = at.Line, at.Column
		}
		t.fields(n, out)
	case *ast.SequenceNode:
		out.Kind = Sequence
		for _, v := range n.Values {
			t.add(n, out, t.node(v))
		}
	case *ast.StringNode:
		out.Kind, out.Text = Text, n.Value
	case *ast.LiteralNode:
		out.Kind, out.Text = Text, n.Value.Value
	case *ast.NullNode:
		out.Kind = Null
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		out.Text = n.GetToken().Value
	}
	return out
}

func (t *tree) add(at ast.Node, to, value *Node) {
	to.Values = append(to.Values, value)
	if to.size += value.size; to.size > t.most {
		t.fail(at, "its aliases stand for more than the "+strconv.Itoa(t.most)+" nodes that are read")
		to.size = t.most // no overflow, however often that is repeated
	}
}

// fields takes a mapping: its own fields win over merged ones, and of those the first.
func (t *tree) fields(n *ast.MappingNode, out *Node) {
	own := map[string]bool{}
	var merged []*Node
	for _, pair := range n.Values {
		if _, ok := pair.Key.(*ast.MergeKeyNode); ok {
			merged = append(merged, t.sources(pair)...)
			continue
		}
		name, ok := fieldName(pair.Key)
		if !ok {
			t.fail(pair.Key, "a field name must be plain text")
			continue
		}
		own[name] = true
		out.Names = append(out.Names, name)
		t.add(n, out, t.node(pair.Value))
	}
	for _, source := range merged {
		for i, name := range source.Names {
			if !own[name] && t.fault == nil {
				own[name] = true
				out.Names = append(out.Names, name)
				t.add(n, out, source.Values[i])
			}
		}
	}
}

// fieldName takes a whole number for the text that other readers of the same files take it for.
func fieldName(key ast.MapKeyNode) (string, bool) {
	switch key := key.(type) {
	case *ast.StringNode:
		return key.Value, true
	case *ast.IntegerNode:
		return key.Token.Value, strconv.FormatInt(asInt(key.Value), 10) == key.Token.Value
	}
	return "", false
}

func asInt(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case uint64:
		return int64(v)
	}
	return -1
}

// sources returns the mappings that << names.
func (t *tree) sources(pair *ast.MappingValueNode) []*Node {
	value := t.node(pair.Value)
	all := []*Node{value}
	if value.Kind == Sequence {
		all = value.Values
	}
	for _, source := range all {
		if source.Kind != Mapping {
			t.fail(pair.Key, "what is merged is not a mapping")
			return nil
		}
	}
	return all
}

func (t *tree) tagged(n *ast.TagNode) *Node {
	if n.Value == nil {
		t.fail(n, "a tag without a value")
		return &Node{Line: n.Start.Position.Line, Column: n.Start.Position.Column, size: 1}
	}
	value := t.node(n.Value)
	switch n.Start.Value {
	case "!!str":
		if value.Kind == Other || value.Kind == Null {
			shared := *value // an alias may name it
			shared.Kind = Text
			return &shared
		}
	case "!!map", "!!seq":
	case "!!int", "!!float", "!!bool", "!!null":
		if value.Kind == Text {
			t.fail(n, "a tag that does not fit its value")
		}
	default:
		t.fail(n, "a tag that is not read")
	}
	return value
}
