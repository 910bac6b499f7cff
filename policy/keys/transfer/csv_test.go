package transfer

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"tollgate/policy/keys/keyfile"
)

// Each field of the keys file may be a column.
func TestEveryFieldIsAColumn(t *testing.T) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[keyfile.Fields]()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if err := set(&keyfile.Fields{}, name, ""); name == "" || err != nil {
			t.Errorf("%s, column %q: %v", field.Name, name, err)
		}
	}
}

func TestExtrasInACell(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "",
		"month=500@2026-12-31T23:59:59Z":  "month+500 until 2026-12-31T23:59:59Z;",
		"a=1@2026-12-31T00:00:00Z|b=2@x ": "a+1 until 2026-12-31T00:00:00Z;b+2 until x;", // the time is read with the other fields
		"month=500":                       "extras[0]: is not a limit's name, =, a number, @ and a time",
		"month@2026-12-31T23:59:59Z":      "extras[0]: is not a limit's name, =, a number, @ and a time",
		"a=1@x|month=@y":                  "extras[1].requests: is not a whole number",
		"month=many@y":                    "extras[0].requests: is not a whole number",
		"|":                               "extras: holds no item",
	} {
		var f keyfile.Fields
		got := ""
		if err := set(&f, "extras", text); err != nil {
			got = err.Error()
		}
		for _, x := range f.Extras {
			got += fmt.Sprintf("%s+%d until %s;", x.Name, x.Requests, x.Until)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
