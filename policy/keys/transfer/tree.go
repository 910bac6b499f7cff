package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth is far above what a document nests; the parsers recurse.
const maxDepth = 64

type kind int

const (
	other kind = iota // a number, true, false, or what only YAML has
	null
	text
	sequence
	mapping
)

// node is a part of a YAML or JSON document. A nil node is one that is not there.
type node struct {
	line   int
	kind   kind
	text   string
	names  []string // of a mapping, in the order of values
	values []*node  // of a mapping or a sequence
}

// field returns the value of this name, or nil.
func (n *node) field(path ...string) *node {
	for _, name := range path {
		var found *node
		for i := range n.pairs() {
			if n.names[i] == name {
				found = n.values[i]
			}
		}
		n = found
	}
	if n != nil && n.kind == null {
		return nil
	}
	return n
}

// pairs returns how many fields there are.
func (n *node) pairs() int {
	if n == nil {
		return 0
	}
	return len(n.names)
}

// items returns the values of a sequence.
func (n *node) items() []*node {
	if n == nil || n.kind != sequence {
		return nil
	}
	return n.values
}

// string returns the text, "" where there is none.
func (n *node) string() string {
	if n == nil || n.kind != text {
		return ""
	}
	return n.text
}

// fault is something wrong with one document; it holds nothing of its text.
type fault struct {
	line int
	what string
}

func (f *fault) Error() string { return f.what }

// readTrees reads all documents of a file, JSON or YAML. A document that is broken is nil and has a fault at its place.
func readTrees(r io.Reader) (roots []*node, faults []*fault, err error) {
	data, err := io.ReadAll(io.LimitReader(r, maxTree+1))
	switch {
	case err != nil:
		return nil, nil, err
	case len(data) > maxTree:
		return nil, nil, fmt.Errorf("it is larger than %d MiB", maxTree>>20)
	case !utf8.Valid(data):
		return nil, nil, errors.New("it is not UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if start := bytes.TrimSpace(data); len(start) > 0 && start[0] == '{' {
		j := &jsonTree{data: data, line: 1, d: json.NewDecoder(bytes.NewReader(data))}
		j.d.UseNumber()
		for {
			root, err := j.value(0)
			if errors.Is(err, io.EOF) {
				return roots, faults, nil
			}
			if err != nil { // there is no way to find the start of the next one
				return roots, append(faults, &fault{j.line, "not JSON"}), nil
			}
			roots = append(roots, root)
		}
	}
	for _, d := range documents(string(data)) {
		root, f := d.parse()
		if f != nil {
			faults = append(faults, f)
		} else if root != nil {
			roots = append(roots, root)
		}
	}
	return roots, faults, nil
}

// document is the text between two lines of ---.
type document struct {
	line int // of its first line
	text string
}

func documents(all string) []document {
	var out []document
	start, first, line := 0, 1, 0
	for at := 0; at < len(all); {
		line++
		end := len(all)
		if i := strings.IndexByte(all[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if s := strings.TrimRight(all[at:end], " \t\r\n"); s == "---" || strings.HasPrefix(s, "--- #") {
			out = append(out, document{first, all[start:at]})
			start, first = end, line+1
		}
		at = end
	}
	return append(out, document{first, all[start:]})
}

func (d document) parse() (*node, *fault) {
	tokens := lexer.Tokenize(d.text)
	depth, dashes := 0, 0
	for _, t := range tokens {
		t.Position.Line += d.line - 1
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			dashes++
		}
		if t.Type != token.SequenceEntryType {
			dashes = 0
		}
		if depth+dashes > maxDepth {
			return nil, &fault{t.Position.Line, "nested too deep"}
		}
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		f := &fault{d.line, "not YAML"}
		var at interface{ GetToken() *token.Token }
		if errors.As(err, &at) && at.GetToken() != nil && at.GetToken().Position != nil {
			f.line = at.GetToken().Position.Line
		}
		return nil, f
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil, nil
	}
	if len(file.Docs) > 1 {
		return nil, &fault{d.line, "not YAML: a second document without a line of ---"}
	}
	return yamlTree(file.Docs[0].Body, 0), nil
}

func yamlTree(n ast.Node, depth int) *node {
	out := &node{}
	if t := n.GetToken(); t != nil && t.Position != nil {
		out.line = t.Position.Line
	}
	if depth > maxDepth {
		return out
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.kind = mapping
		if len(n.Values) > 0 {
			out.line = n.Values[0].Key.GetToken().Position.Line
		}
		for _, pair := range n.Values {
			if name, ok := pair.Key.(*ast.StringNode); ok {
				out.names, out.values = append(out.names, name.Value), append(out.values, yamlTree(pair.Value, depth+1))
			}
		}
	case *ast.SequenceNode:
		out.kind = sequence
		for _, v := range n.Values {
			out.values = append(out.values, yamlTree(v, depth+1))
		}
	case *ast.StringNode:
		out.kind, out.text = text, n.Value
	case *ast.LiteralNode:
		out.kind, out.text = text, n.Value.Value
	case *ast.NullNode:
		out.kind = null
	case *ast.IntegerNode, *ast.FloatNode:
		out.text = n.GetToken().Value
	}
	return out
}

// jsonTree builds nodes from JSON. Their lines are those of the end of a scalar and of the start of the rest.
type jsonTree struct {
	data []byte
	d    *json.Decoder
	seen int // bytes of data whose lines are counted
	line int
}

func (j *jsonTree) token() (json.Token, error) {
	t, err := j.d.Token()
	to := int(j.d.InputOffset())
	j.line += bytes.Count(j.data[j.seen:to], []byte("\n"))
	j.seen = to
	return t, err
}

func (j *jsonTree) value(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	t, err := j.token()
	if err != nil {
		return nil, err
	}
	n := &node{line: j.line}
	switch t := t.(type) {
	case string:
		n.kind, n.text = text, t
	case nil:
		n.kind = null
	case json.Number:
		n.text = t.String()
	case json.Delim:
		n.kind = sequence
		if t == '{' {
			n.kind = mapping
		}
		return n, j.inside(n, depth)
	}
	return n, nil
}

func (j *jsonTree) inside(n *node, depth int) error {
	for j.d.More() {
		if n.kind == mapping {
			name, err := j.token()
			if err != nil {
				return unexpected(err)
			}
			n.names = append(n.names, name.(string))
		}
		v, err := j.value(depth + 1)
		if err != nil {
			return unexpected(err)
		}
		n.values = append(n.values, v)
	}
	_, err := j.token()
	return unexpected(err)
}

// unexpected keeps an end of the file within a value apart from one between two.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
