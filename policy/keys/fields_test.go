package keys

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
)

// keyFields are the fields of Key, of which FullKey leaves none out but LastUsed.
func keyFields() []reflect.StructField { return reflect.VisibleFields(reflect.TypeFor[Key]()) }

// A field of a key that a form forgets comes back empty.
func TestEveryFieldIsInEachForm(t *testing.T) {
	want := FullKey()
	want.Other = Digest{} // no part of an export
	f := FieldsOf(want)
	line, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseFields(line)
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := again.Entry()
	if err != nil || !reflect.DeepEqual(&fromJSON.Key, want) {
		t.Errorf("JSON: %s came back as %+v, %v", line, fromJSON.Key, err)
	}
	file := f.appendYAML([]byte("keys:\n"))
	entries, err := ParseFile("all", file)
	if err != nil || len(entries) != 1 || !reflect.DeepEqual(&entries[0].Key, want) {
		t.Errorf("YAML: %s came back as %+v, %v", file, entries, err)
	}
}

// What is different in the file is named and changed, but for what is never taken from a file.
func TestEveryFieldIsCompared(t *testing.T) {
	never := []string{"ID", "API", "Team", "Environment", "UpdatedAt", "LastUsed", "Version", "Algorithm", "Digest", "Other"}
	full := reflect.ValueOf(FullKey()).Elem()
	for _, field := range keyFields() {
		old := Sample(func(k *Key) { k.AnchorDay = 3 })
		k := old.clone()
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
