package strictyaml

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text   string
		bounds Bounds
		want   string
	}{
		{"a: [b, {c: d}]\n", Bounds{Bytes: 20, Depth: 3, Tokens: 13, Plain: true}, ""},
		{"a: [b, {c: d}]\n", Bounds{Bytes: 14}, "5:1: 15 bytes are more than the 14 that are read"},
		{"a: [b, {c: d}]\n", Bounds{Depth: 2}, "5:8: nested too deep"},
		{"a:\n- b\n- - c\n", Bounds{Depth: 2}, "7:3: nested too deep"},
		{"a:\n  b:\n    c: d\n", Bounds{Depth: 2}, "7:5: nested too deep"},
		{"a: b\n# deep\n          # deeper\nc: d\n", Bounds{Depth: 1}, ""},
		{"a: [b, c]", Bounds{Tokens: 5}, "5:8: more than the 5 words and signs that are read"},
		{"a: &b c", Bounds{Plain: true}, `5:4: "&": anchors, aliases, tags, merges, directives and complex keys are not part of this file`},
		{"a: b\na: c\n", Bounds{}, `6:1: mapping key "a" already defined at [5:1]`},
		{"a: b\na: c\n", Bounds{Twice: true}, ""},
		{"a: [b", Bounds{}, "5:4: sequence end token ']' not found"},
	} {
		got := ""
		if _, fault := Parse(c.text, 5, c.bounds); fault != nil {
			got = fmt.Sprintf("%d:%d: %v", fault.Line, fault.Column, fault)
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.text, got, c.want)
		}
	}
}

// says writes a tree as one line.
func says(n *Node) string {
	switch {
	case n.Kind == Null:
		return "null"
	case n.Kind == Text:
		return fmt.Sprintf("%q", n.Text)
	case n.Kind == Other:
		return n.Text
	}
	var parts []string
	for i, v := range n.Values {
		name := ""
		if i < n.Pairs() {
			name = n.Names[i] + ":"
		}
		parts = append(parts, name+says(v))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func TestTree(t *testing.T) {
	for text, want := range map[string]string{
		"a: 5\nb: x\nc: ~\nd: true\ne: |\n  l\n":                    `[a:5 b:"x" c:null d:true e:"l\n"]`,
		"a: &x {b: 1}\nc: *x\nd: &x 2\ne: *x":                       `[a:[b:1] c:[b:1] d:2 e:2]`,
		"a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}":                     `[a:[b:1 c:2] d:[b:3 c:2]]`,
		"a: {<<: [{b: 1}, {b: 2, c: 3}]}":                           `[a:[b:1 c:3]]`,
		"a: {\"<<\": 1}":                                            `[a:[<<:1]]`,
		"7: a":                                                      `[7:"a"]`,
		"a: !!str 5\nb: !!int 5\nc: !!map {}\nd: &x !!str 6\ne: *x": `[a:"5" b:5 c:[] d:"6" e:"6"]`,
		"a: *x":                     "1:4: an alias of an anchor that is not before it",
		"a: &x [*x]":                "1:8: an alias of an anchor that is not before it",
		"a: !x 5":                   "1:4: a tag that is not read",
		"a: !!int x":                "1:4: a tag that does not fit its value",
		"a: {<<: 5}":                "1:5: what is merged is not a mapping",
		"true: 5":                   "1:1: a field name must be plain text",
		"07: 5":                     "1:1: a field name must be plain text",
		"a: [1,2,3,4,5,6,7,8,9,10]": "1:4: its aliases stand for more than the 10 nodes that are read",
	} {
		file, fault := Parse(text, 1, Bounds{})
		if fault != nil {
			t.Fatalf("%q: %v", text, fault)
		}
		most := 100
		if strings.Contains(want, "than the 10 ") {
			most = 10
		}
		root, fault := Tree(file.Docs[0].Body, most)
		got := ""
		if fault != nil {
			got = fmt.Sprintf("%d:%d: %v", fault.Line, fault.Column, fault)
		} else {
			got = says(root)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	var none *Node
	if none.Field("a") != nil || none.Items() != nil || none.String() != "" || none.Pairs() != 0 {
		t.Error("a node that is not there has something")
	}
}

func TestRead(t *testing.T) {
	for text, want := range map[string]string{
		"":            "nothing",
		"# a: b\n":    "nothing",
		"---\n---\n~": "nothing",
		"\ufeffkeys:\n- {id: a}\n- name: b\n  id: c\n---\nkeys: []\n": "4:7",
		"keys: [": "not read",
	} {
		got := "nothing"
		n, fault := Read(text)
		if fault != nil {
			got = "not read"
		} else if n != nil {
			id := n.Field("keys").Items()[1].Field("id")
			got = fmt.Sprintf("%d:%d", id.Line, id.Column)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
