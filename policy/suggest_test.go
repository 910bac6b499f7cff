package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestSuggestionsAreFew(t *testing.T) {
	var many []string
	for i := range maxSuggested + 1 {
		many = append(many, fmt.Sprint("name", i))
	}
	for _, test := range []struct {
		name  string
		known []string
		want  string
	}{
		{"x", nil, "; there is none"},
		{"zzzzzz", many, ""},
		{"zzzzzz", many[:2], `; there is ["name0" "name1"]`},
		{"nam1", many, `; did you mean "name1"?`},
		{"name", many, `; did you mean "name0"?`},
		{strings.Repeat("x", 10_000), many, ""},
	} {
		if got := Suggest(test.name, test.known); got != test.want {
			t.Errorf("%.10s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"ab", "ba", 2},
	} {
		if got := edits(test.a, test.b); got != test.want {
			t.Errorf("edits(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
	// A distance is the same both ways, and no detour is shorter.
	word := func() string {
		b := make([]byte, rand.IntN(6))
		for i := range b {
			b[i] = "abc"[rand.IntN(3)]
		}
		return string(b)
	}
	for range 2000 {
		a, b, c := word(), word(), word()
		if edits(a, b) != edits(b, a) || edits(a, c) > edits(a, b)+edits(b, c) || (edits(a, b) == 0) != (a == b) {
			t.Fatalf("%q, %q, %q", a, b, c)
		}
	}
}
