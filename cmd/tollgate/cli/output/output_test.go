package output

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/goccy/go-yaml"
)

// hostile is what a client, or a line of a log, may have a terminal obey.
const hostile = "a\x1b[2J\x1b]0;title\a b\u009b31m\u202e\x7f\x00\U000e0041é😀"

// TestOutputObeysNobody prints texts that somebody else has chosen: a terminal gets nothing but
// what can be printed, and programs get every byte.
func TestOutputObeysNobody(t *testing.T) {
	type row struct {
		Name  string   `json:"name"`
		Lines string   `json:"lines"`
		Plain string   `json:"plain"`
		List  []string `json:"list"`
		N     int      `json:"n"`
	}
	in := row{hostile, "one\ntwo " + hostile, "several\nlines: true", []string{"true", "1", hostile}, 3}
	for _, format := range []Format{JSON, YAML} {
		text, err := format.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		unprintable(t, string(text))
		var out row
		read := json.Unmarshal
		if format == YAML {
			read = func(text []byte, v any) error { return yaml.Unmarshal(text, v) }
		}
		if err := read(text, &out); err != nil {
			t.Fatalf("%s: %v\n%s", format, err, text)
		}
		if out.Name != in.Name || out.Lines != in.Lines || out.Plain != in.Plain || len(out.List) != 3 || out.List[0] != "true" || out.List[1] != "1" || out.List[2] != hostile {
			t.Errorf("%s: got %+v, want %+v", format, out, in)
		}
	}
	var b strings.Builder
	if err := Columns(&b, [][]string{{"NAME", "N"}, {hostile + "\t\n\v\f", "1"}}); err != nil {
		t.Fatal(err)
	}
	unprintable(t, b.String())
	if n := strings.Count(b.String(), "\n"); n != 2 {
		t.Errorf("two rows are %d lines", n)
	}
}

func unprintable(t *testing.T, text string) {
	t.Helper()
	if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("what a terminal could obey, at %d of %q", i, text)
	}
}
