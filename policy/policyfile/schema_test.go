package policyfile

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func schema(t *testing.T) (*jsonschema.Schema, map[string]any) {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	root := doc.(map[string]any)
	if root["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("$schema %v", root["$schema"])
	}
	// The compiler checks the schema against its meta-schema.
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return s, root
}

func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// everything is a policy that uses every part of the language.
const everything = `
api: shop
hosts: [shop.example.com]
credentials: [bearer, {header: X-API-Key}, {query: api_key}]
environments:
- {name: live, prefix: sk_live_, hosts: [shop.example.com], context: live}
- {name: test, prefix: sk_test_, hosts: [sandbox.example.com], context: test, quota: false}
scopes: [{name: read}, {name: write, implies: [read]}, {name: admin, implies: [write]}]
routes:
- {name: add, match: "POST /items", scope: write, cost: 2}
- {name: me, match: "GET /me", scope: none, cost: 0}
- {name: wide, match: "/any/{rest...}", scope: read}
- {name: health, match: "GET /health", public: true}
plans:
- {name: closed, limits: [{name: minute, requests: 10, per: minute}, {name: month, requests: 100, per: month, quota: true}]}
- {name: open, failure_mode: open, limits: [{name: minute, requests: 10, per: minute}]}
- {name: local, failure_mode: local, limits: [{name: minute, requests: 10, per: minute}]}
- {name: unlimited, limits: []}
- {name: own, month_anchor: key, limits: [{name: month, requests: 100, per: month}]}
rate_headers: {family: x-ratelimit, ietf: true}
errors:
  dialect: envelope
  request_id: requestId
  answers:
  - {on: [missing_credential, unknown_key], status: 401, code: missing_credential, message: is missing_credential}
  - {on: [undecided], status: 503, code: undecided, message: is undecided}
`

func TestSchemaAcceptsGoodFiles(t *testing.T) {
	s, _ := schema(t)
	names, err := filepath.Glob(filepath.Join("..", "..", "testdata", "*", "policy.yaml"))
	if err != nil || len(names) < 4 {
		t.Fatal(names, err)
	}
	for _, name := range append(names, filepath.Join("..", "..", "testdata", "small.yaml")) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := validate(t, s, []byte(everything)); err != nil {
		t.Error(err)
	}
}

// An editor that knows the schema marks these; what fields mean together is for Compile alone.
func TestSchemaRefusesBadFiles(t *testing.T) {
	s, _ := schema(t)
	for _, fault := range []string{
		"unknown-field", "unknown-field-nested", "wrong-type-list", "wrong-type-number", "wrong-type-fraction", "wrong-type-quoted-number",
		"api-missing", "api-name-bad", "credentials-empty", "credentials-missing", "credential-unknown-word", "credential-both", "credential-unknown-place",
		"address-from-unknown", "address-hops-negative", "empty-scopes-unknown", "routes-empty", "route-match-missing", "route-name-missing", "route-cost-negative",
		"plan-anchor-0", "plan-anchor-32", "plan-anchor-word", "plan-failure-mode-unknown", "plan-counting-unknown", "plan-limits-null", "plan-without-limits",
		"limit-unknown-unit", "limit-per-missing", "limit-requests-missing", "limit-requests-negative", "limit-environment-twice", "limit-environments-empty", "dialect-unknown", "dialect-missing",
		"answer-status-200", "answer-status-600", "answer-message-missing", "answer-without-reason", "checksum-unknown", "undecided-unknown",
		"rate-headers-family-unknown", "rate-headers-reset-unknown",
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "bad", fault+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if validate(t, s, text) == nil {
			t.Errorf("%s is valid", fault)
		}
	}
}

// Every field that a file may have is in the schema, described, and nothing else.
func TestSchemaDescribesEveryField(t *testing.T) {
	_, root := schema(t)
	seen := 0
	var walk func(path string, node map[string]any, typ reflect.Type)
	walk = func(path string, node map[string]any, typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			if typ.Kind() == reflect.Slice {
				node, _ = node["items"].(map[string]any)
			}
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[credentialIn]() || typ == reflect.TypeFor[anchorIn]() {
			return
		}
		props, _ := node["properties"].(map[string]any)
		if node["additionalProperties"] != false || len(props) != typ.NumField() {
			t.Errorf("%s: %d of %d fields, additionalProperties %v", path, len(props), typ.NumField(), node["additionalProperties"])
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
			field, ok := props[name].(map[string]any)
			if !ok || name == "" {
				t.Errorf("%s.%s is not in the schema", path, typ.Field(i).Name)
				continue
			}
			if text, _ := field["description"].(string); !strings.HasSuffix(text, ".") || len(text) < 10 {
				t.Errorf("%s.%s: description %q", path, name, text)
			}
			seen++
			walk(path+"."+name, field, typ.Field(i).Type)
		}
	}
	walk("$", root, reflect.TypeFor[document]())
	if seen < 50 {
		t.Errorf("only %d fields", seen)
	}
	if _, err := json.Marshal(root); err != nil {
		t.Error(err)
	}
}
