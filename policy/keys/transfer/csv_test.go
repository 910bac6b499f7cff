package transfer

import (
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
