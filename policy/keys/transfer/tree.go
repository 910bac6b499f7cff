package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"

	"tollgate/policy/keys/strictyaml"
)

// node is a part of a YAML or JSON document. A nil node is one that is not there.
type node = strictyaml.Node

const (
	// maxTree is the largest file that is read as a whole, in bytes.
	maxTree = 64 << 20
	// maxNodes is how many values a file may hold, and how many words and signs of YAML a document:
	// those take about 300 bytes of memory each while they are read. Kong's file of 100,000
	// consumers has 1,600,000.
	maxNodes = 2 << 20
	// maxDepth is far above what a document nests; the parsers recurse.
	maxDepth = 64
)

// fault is something wrong with one document; it holds nothing of its text.
type fault struct {
	line int
	what string
}

func (f *fault) Error() string { return f.what }

// readTrees reads all documents of a file, JSON or YAML. A document that is broken is left out and
// has a fault.
func readTrees(r io.Reader) (roots []*node, faults []*fault, err error) {
	data, err := io.ReadAll(io.LimitReader(r, maxTree+1))
	switch {
	case err != nil:
		return nil, nil, err
	case len(data) > maxTree:
		return nil, nil, fmt.Errorf("it is larger than %d MiB; split it", maxTree>>20)
	case !utf8.Valid(data):
		return nil, nil, errors.New("it is not UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if start := bytes.TrimSpace(data); len(start) > 0 && (start[0] == '{' || start[0] == '[' && json.Valid(data)) {
		roots, faults = readJSON(data)
		return unlisted(roots), faults, nil
	}
	left := maxNodes
	for d := range documents(string(data)) {
		root, f := d.parse(&left)
		if f != nil {
			faults = append(faults, f)
		} else if root != nil {
			roots = append(roots, root)
		}
		if left < 0 {
			break
		}
	}
	return unlisted(roots), faults, nil
}

// unlisted takes documents apart that are a list, such as pages put together by jq -s.
func unlisted(roots []*node) []*node {
	var out []*node
	for _, root := range roots {
		if root.Kind == strictyaml.Sequence {
			out = append(out, root.Values...)
		} else {
			out = append(out, root)
		}
	}
	return out
}

// document is the text between two lines of ---.
type document struct {
	line int // of its first line
	text string
}

func documents(all string) iter.Seq[document] {
	return func(yield func(document) bool) {
		start, first, line := 0, 1, 0
		for at := 0; at < len(all); {
			line++
			end := len(all)
			if i := strings.IndexByte(all[at:], '\n'); i >= 0 {
				end = at + i + 1
			}
			if s := strings.TrimRight(all[at:end], " \t\r\n"); s == "---" || strings.HasPrefix(s, "--- #") {
				if !yield(document{first, all[start:at]}) {
					return
				}
				start, first = end, line+1
			}
			at = end
		}
		yield(document{first, all[start:]})
	}
}

func (d document) parse(left *int) (*node, *fault) {
	file, bad := strictyaml.Parse(d.text, d.line, strictyaml.Bounds{Depth: maxDepth, Tokens: maxNodes})
	switch {
	case bad != nil && bad.Quotes:
		return nil, &fault{bad.Line, "not YAML"}
	case bad != nil:
		return nil, &fault{bad.Line, bad.Message}
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return nil, nil
	case len(file.Docs) > 1:
		return nil, &fault{d.line, "not YAML: a second document without a line of ---"}
	}
	if _, nothing := file.Docs[0].Body.(*ast.CommentGroupNode); nothing {
		return nil, nil
	}
	root, bad := strictyaml.Tree(file.Docs[0].Body, maxNodes)
	if bad != nil {
		return nil, &fault{bad.Line, "not read: " + bad.Message}
	}
	if *left -= root.Size(); *left < 0 {
		return nil, &fault{d.line, tooMany()}
	}
	return root, nil
}

func tooMany() string { return fmt.Sprintf("the file holds more than %d values; split it", maxNodes) }

// jsonTree builds nodes from JSON. Their lines are those of the end of a scalar and of the start of
// the rest.
type jsonTree struct {
	data []byte
	d    *json.Decoder
	seen int // bytes of data whose lines are counted
	line int
	left int // values that may still come
}

func readJSON(data []byte) (roots []*node, faults []*fault) {
	j := &jsonTree{data: data, line: 1, left: maxNodes, d: json.NewDecoder(bytes.NewReader(data))}
	j.d.UseNumber()
	for {
		root, err := j.value(0)
		var bad *fault
		switch {
		case errors.Is(err, io.EOF):
			return roots, faults
		case errors.As(err, &bad):
			return roots, append(faults, bad)
		case err != nil: // there is no way to find the start of the next one
			return roots, append(faults, &fault{j.line, "not JSON"})
		}
		roots = append(roots, root)
	}
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
	if j.left--; j.left < 0 {
		return nil, &fault{j.line, tooMany()}
	}
	n := &node{Line: j.line}
	switch t := t.(type) {
	case string:
		n.Kind, n.Text = strictyaml.Text, t
	case nil:
		n.Kind = strictyaml.Null
	case bool:
		n.Text = strconv.FormatBool(t)
	case json.Number:
		n.Text = t.String()
	case json.Delim:
		n.Kind = strictyaml.Sequence
		if t == '{' {
			n.Kind = strictyaml.Mapping
		}
		return n, j.inside(n, depth)
	}
	return n, nil
}

func (j *jsonTree) inside(n *node, depth int) error {
	seen := map[string]bool{}
	for j.d.More() {
		if n.Kind == strictyaml.Mapping {
			name, err := j.token()
			if err != nil {
				return unexpected(err)
			}
			if seen[name.(string)] {
				return &fault{j.line, "a field is named twice"}
			}
			seen[name.(string)] = true
			n.Names = append(n.Names, name.(string))
		}
		v, err := j.value(depth + 1)
		if err != nil {
			return unexpected(err)
		}
		n.Values = append(n.Values, v)
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

// listOf returns the values of a field that holds a list. One of another kind is a fault: nothing
// of it could be read.
func listOf(n *node, name string) ([]*node, error) {
	v := n.Field(name)
	if v != nil && v.Kind != strictyaml.Sequence {
		return nil, &fault{v.Line, name + ": must be a list"}
	}
	return v.Items(), nil
}

// unknownField returns the first field that is not one of these and not null.
func unknownField(n *node, known ...string) string {
	for i, name := range n.Names {
		if !slices.Contains(known, name) && n.Values[i].Kind != strictyaml.Null {
			return name
		}
	}
	return ""
}

// scalar is the text of anything that is no list and no mapping.
func scalar(n *node) string {
	if n == nil || n.Kind == strictyaml.Sequence || n.Kind == strictyaml.Mapping {
		return ""
	}
	return n.Text
}
