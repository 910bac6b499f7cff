package policyfile

import (
	"encoding/json"
	"reflect"

	"github.com/invopop/jsonschema"
)

// Schema returns the JSON Schema (draft 2020-12) of a policy file, for editors. It says what a
// field is; Compile also checks what fields mean together.
func Schema() ([]byte, error) {
	s := reflector().Reflect(&document{})
	s.ID = ""
	s.Title = "Tollgate policy file"
	return json.MarshalIndent(s, "", "  ")
}

func reflector() *jsonschema.Reflector {
	return &jsonschema.Reflector{
		FieldNameTag:               "yaml",
		DoNotReference:             true,
		RequiredFromJSONSchemaTags: true,
		Mapper:                     schemaOf,
	}
}

// schemaOf describes the two types that are written in more than one form.
func schemaOf(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[credentialIn]():
		named := func(field string, value *jsonschema.Schema) *jsonschema.Schema {
			props := jsonschema.NewProperties()
			props.Set(field, value)
			return &jsonschema.Schema{Type: "object", Properties: props, Required: []string{field}, AdditionalProperties: jsonschema.FalseSchema}
		}
		text := func(description string) *jsonschema.Schema {
			return &jsonschema.Schema{Type: "string", Description: description}
		}
		issuer := reflector().ReflectFromType(reflect.TypeFor[oauth2In]())
		issuer.Version, issuer.ID = "", ""
		issuer.Description = "An issuer whose access tokens are taken, in Authorization: Bearer."
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
			{Const: "bearer"},
			named("authorization", text("Scheme of Authorization behind which a key stands; none for a key without one. bearer is short for Bearer.")),
			named("header", text("Header that holds a key.")),
			named("query", text("Parameter of the query that holds a key.")),
			named("oauth2", issuer),
		}}
	case reflect.TypeFor[anchorIn]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Const: "key"}, {Type: "integer", Minimum: "1", Maximum: "31"}}}
	}
	return nil
}
