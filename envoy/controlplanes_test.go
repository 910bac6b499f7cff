package envoy_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
	"tollgate/testdata"
)

// These tests run what control planes make of the files in ../k8s: the API of a script is asked
// through an Envoy that is configured as theirs are.

// object is a decoded mapping.
type object = map[string]any

// manifests returns the objects of files in ../k8s.
func manifests(t *testing.T, files ...string) (out []object) {
	t.Helper()
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join("../k8s", file))
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(data), "\n---\n") {
			var o object
			if err := yaml.Unmarshal([]byte(document), &o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if o != nil {
				out = append(out, o)
			}
		}
	}
	return out
}

// shippedParts returns the connection manager and the clusters of the shipped bootstrap, as a whole
// that a test may change.
func shippedParts(t *testing.T) (root, manager object, clusters []any) {
	t.Helper()
	if err := yaml.Unmarshal(bootstrap(t), &root); err != nil {
		t.Fatal(err)
	}
	manager = dig(root, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config").(object)
	return root, manager, dig(root, "static_resources", "clusters").([]any)
}

// fileLog is the shipped access log on standard output, by which tests find the metadata of a
// request.
func fileLog(t *testing.T) any {
	t.Helper()
	_, manager, _ := shippedParts(t)
	return dig(manager, "access_log", 0)
}

// runsScript asks an API's script through an Envoy with a configuration, which is made when
// Tollgate's address is known.
func runsScript(t *testing.T, api string, configure func(tollgate string) object) {
	t.Helper()
	file, entries, blocks := extauthztest.APIFiles(t, api)
	// Both mend some paths before they ask, and refuse others by themselves: what Tollgate says of
	// these is for an Envoy that does neither.
	blocks = slices.DeleteFunc(blocks, func(b testdata.Block) bool { return strings.Contains(b.Name, "odd path") })
	if len(blocks) < 20 {
		t.Fatalf("only %d requests are left", len(blocks))
	}
	s := extauthztest.NewStack(t, nil, file)
	s.Logged = true
	config, err := json.Marshal(configure(s.Addr))
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	e := startEnvoyTo(t, upstream.Addr(), envoy.Version(), config, s.Addr, s)
	for i, protocol := range []string{"h1", "h2"} {
		extauthztest.RunScriptOn(t, extauthztest.Backends()[i], protocol, s, entries, blocks, func(t *testing.T, b *testdata.Block) *extauthztest.Answer {
			return e.ask(t, b, protocol)
		})
	}
}

// merged does what MERGE of an EnvoyFilter does, which is protobuf's: mappings are merged, lists
// appended, all else is replaced.
func merged(base, patch object) object {
	out := maps.Clone(base)
	for name, value := range patch {
		was, now := out[name], value
		switch now := now.(type) {
		case object:
			if o, ok := was.(object); ok {
				out[name] = merged(o, now)
				continue
			}
		case []any:
			if l, ok := was.([]any); ok {
				out[name] = slices.Concat(l, now)
				continue
			}
		}
		out[name] = now
	}
	return out
}

// istioGateway is what Istio's control plane makes of a provider and an AuthorizationPolicy without
// conditions for its ingress gateway: pilot/pkg/security/authz/builder. The rules are evaluated in
// shadow mode, and their result has the next filter ask.
func istioGateway(t *testing.T) object {
	t.Helper()
	provider := dig(manifests(t, "istio-mesh.yaml")[0], "meshConfig", "extensionProviders", 0, "envoyExtAuthzGrpc").(object)
	if provider["failOpen"] != false || provider["statusOnError"] != "503" {
		t.Fatalf("provider: %v", provider)
	}
	name := "outbound|9001||" + provider["service"].(string)
	root, manager, clusters := shippedParts(t)
	rbac := object{"name": "envoy.filters.http.rbac", "typed_config": object{
		"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "shadow_rules_stat_prefix": "istio_ext_authz_",
		"shadow_rules": object{"action": "DENY", "policies": object{"istio-ext-authz-ns[istio-system]-policy[tollgate]-rule[0]": object{
			"permissions": []any{object{"any": true}}, "principals": []any{object{"any": true}}}}},
	}}
	asks := object{"name": "envoy.filters.http.ext_authz", "typed_config": object{
		"@type":                 "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
		"grpc_service":          object{"envoy_grpc": object{"cluster_name": name, "authority": provider["service"]}, "timeout": provider["timeout"]},
		"transport_api_version": "V3", "failure_mode_allow": false, "status_on_error": object{"code": 503},
		"filter_enabled_metadata": object{"filter": "envoy.filters.http.rbac", "path": []any{object{"key": "istio_ext_authz_shadow_effective_policy_id"}},
			"value": object{"string_match": object{"prefix": "istio-ext-authz"}}},
	}}
	filters := manager["http_filters"].([]any)
	for name := range manager {
		if !slices.Contains([]string{"@type", "stat_prefix", "use_remote_address", "always_set_request_id_in_response", "route_config"}, name) {
			delete(manager, name)
		}
	}
	manager["normalize_path"] = true
	manager["access_log"] = []any{fileLog(t)}
	manager["http_filters"] = []any{rbac, asks, filters[0], filters[len(filters)-1]}
	for _, host := range dig(manager, "route_config", "virtual_hosts").([]any) {
		delete(host.(object), "typed_per_filter_config") // the API is chosen by host
	}
	asked := object{"name": name, "type": "STATIC", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
		"typed_extension_protocol_options": dig(clusters[0], "typed_extension_protocol_options")}
	root["static_resources"].(object)["clusters"] = []any{asked, clusters[1]}
	return root
}

// patchIstio applies the EnvoyFilters of files to Istio's configuration.
func patchIstio(t *testing.T, root object, files ...string) {
	t.Helper()
	chain := dig(root, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0).(object)
	clusters := dig(root, "static_resources", "clusters").([]any)
	count := 0
	for _, o := range manifests(t, files...) {
		if o["kind"] != "EnvoyFilter" {
			continue
		}
		for _, p := range dig(o, "spec", "configPatches").([]any) {
			value := dig(p, "patch", "value").(object)
			switch dig(p, "applyTo") {
			case "CLUSTER":
				clusters[0] = merged(clusters[0].(object), value)
			case "HTTP_FILTER":
				filters := dig(chain, "typed_config", "http_filters").([]any)
				filters[1] = merged(filters[1].(object), value)
			case "NETWORK_FILTER":
				chain["typed_config"] = merged(chain["typed_config"].(object), value["typed_config"].(object))
			}
			count++
		}
	}
	if count != 3 {
		t.Fatalf("%d patches", count)
	}
}

// renamed gives a cluster another name, wherever it stands.
func renamed(t *testing.T, root object, from, to string) object {
	t.Helper()
	data, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	quoted, _ := json.Marshal(from)
	if !bytes.Contains(data, quoted) {
		t.Fatalf("no cluster %s", from)
	}
	data = bytes.ReplaceAll(data, quoted, []byte(`"`+to+`"`))
	var out object
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestScriptThroughIstiosFilters asks through the filters that Istio makes, with our EnvoyFilters
// merged into them.
func TestScriptThroughIstiosFilters(t *testing.T) {
	root := istioGateway(t)
	patchIstio(t, root, "istio.yaml", "access-log/istio.yaml")
	name := dig(root, "static_resources", "clusters", 0, "name").(string)
	runsScript(t, "genapi", func(string) object { return renamed(t, root, name, "tollgate") })
}
