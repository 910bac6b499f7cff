package admin

import (
	"reflect"
	"slices"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// What is different in the file is named and changed, but for what is never taken from a file.
func TestEveryFieldIsCompared(t *testing.T) {
	never := []string{"ID", "API", "Team", "Environment", "UpdatedAt", "LastUsed", "Version", "Algorithm", "Digest", "Other", "Client"}
	full := reflect.ValueOf(keystest.FullKey()).Elem()
	for _, field := range reflect.VisibleFields(reflect.TypeFor[keys.Key]()) {
		old := keystest.Sample(func(k *keys.Key) { k.AnchorDay = 3 })
		k := old.Clone()
		reflect.ValueOf(k).Elem().FieldByIndex(field.Index).Set(full.FieldByIndex(field.Index))
		if field.Name == "LimitID" || field.Name == "Name" {
			reflect.ValueOf(k).Elem().FieldByIndex(field.Index).SetString("another")
		}
		c := &candidate{key: k, dated: true, updated: true, versioned: true, anchored: true, counted: true, state: true, signed: true}
		changes := fieldChanges(old, c.over(old))
		if slices.Contains(never, field.Name) == (len(changes) == 1) {
			t.Errorf("%s: %+v", field.Name, changes)
		}
	}
}
