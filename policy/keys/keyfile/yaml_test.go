package keyfile

import (
	"reflect"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// A field of a key that the form forgets comes back empty.
func TestEveryFieldIsInTheYAMLForm(t *testing.T) {
	want := keystest.FullKey()
	want.Other = keys.Digest{} // no part of an export
	f := FieldsOf(want)
	file := f.AppendYAML([]byte("keys:\n"))
	entries, err := ParseFile("all", file)
	if err != nil || len(entries) != 1 || !reflect.DeepEqual(&entries[0].Key, want) {
		t.Errorf("%s came back as %+v, %v", file, entries, err)
	}
}

// Texts that YAML would take for something else, or end early, are quoted.
func TestYAMLTexts(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "plain_text-1": "plain_text-1", "Yes": `"Yes"`, "null": `"null"`, "1": `"1"`, "a b": `"a b"`, "a: b": `"a: b"`, "<é>": `"<é>"`, `"`: `"\""`, "_a": `"_a"`,
	} {
		if got := yamlText(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestIgnoredErrorSaysWhat(t *testing.T) {
	if err := error(&IgnoredError{What: "a route"}); err.Error() != "a route" {
		t.Error(err)
	}
}
