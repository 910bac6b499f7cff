package cli

import (
	"reflect"
	"slices"
	"testing"

	"tollgate/policy/keys"
)

// Programs get each field of a key but its hashes. No key has a Client.
func TestEveryFieldIsPrinted(t *testing.T) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[keys.Key]()) {
		_, printed := reflect.TypeFor[keyView]().FieldByName(field.Name)
		if printed == slices.Contains([]string{"Algorithm", "Digest", "Other", "Client"}, field.Name) {
			t.Errorf("%s: printed is %v", field.Name, printed)
		}
	}
}
