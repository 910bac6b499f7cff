package policyfile

import (
	"encoding/json"
	"reflect"

	"github.com/invopop/jsonschema"
)

// Schema returns the JSON Schema (draft 2020-12) of a policy file, for editors. It says what a
// field is; Compile also checks what fields mean together.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		DoNotReference:             true,
		RequiredFromJSONSchemaTags: true,
		Mapper:                     schemaOf,
	}
	s := r.Reflect(&document{})
	s.ID = ""
	s.Title = "Tollgate policy file"
	return json.MarshalIndent(s, "", "  ")
}

// schemaOf describes the two types that are written in more than one form.
func schemaOf(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[credentialIn]():
		named := func(field string) *jsonschema.Schema {
			props := jsonschema.NewProperties()
			props.Set(field, &jsonschema.Schema{Type: "string"})
			return &jsonschema.Schema{Type: "object", Properties: props, Required: []string{field}, AdditionalProperties: jsonschema.FalseSchema}
		}
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Const: "bearer"}, named("authorization"), named("header"), named("query")}}
	case reflect.TypeFor[anchorIn]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Const: "key"}, {Type: "integer", Minimum: "1", Maximum: "31"}}}
	}
	return nil
}
