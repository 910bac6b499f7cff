package envoy_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// serviceSpec finds where what a Service says of itself begins.
var serviceSpec = regexp.MustCompile(`(?m)\nkind: Service\n(?:.*\n)*?spec:\n`)

// translate has Envoy Gateway's own translator make Envoy's configuration of the Gateway in the
// example, for the API pictify in place of orders.
func translate(t *testing.T, files ...string) (answer object) {
	t.Helper()
	found, _ := filepath.Glob("../.tools/egctl-*/egctl")
	if len(found) == 0 {
		extauthztest.Require(t, "egctl", "no egctl in .tools: run `make test-egctl`")
	}
	var text strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join("../k8s", file))
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(data), "\n---\n") {
			// What the translator need not know: Deployments and the like.
			if file != "tollgate.yaml" || strings.Contains(document, "\nkind: Service\n") || strings.Contains(document, "\nkind: Namespace\n") {
				// The translator wants what the API server would fill in.
				if !strings.Contains(document, "clusterIP: None") {
					document = serviceSpec.ReplaceAllString(document, "$0  clusterIP: 10.96.0.3\n")
				}
				text.WriteString("---\n" + document + "\n")
			}
		}
	}
	text.WriteString("---\napiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: orders}\nspec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 8080, protocol: TCP}]}\n")
	manifest := strings.NewReplacer("api.example.com", "api.pictify.io", "sandbox.example.com", "sandbox.pictify.io", "value: orders}", "value: pictify}").Replace(text.String())
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd := exec.CommandContext(extauthztest.Within(t), found[len(found)-1], "x", "translate", "--from", "gateway-api", "--to", "gateway-api,xds", "--output", "json", "--file", file)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// snake writes the names of a decoded protobuf message as Envoy's files do. Names that users chose
// have dots, dashes or slashes, or no capitals.
func snake(v any) any {
	switch v := v.(type) {
	case object:
		out := object{}
		for name, value := range v {
			if !strings.ContainsAny(name, ".-/@") {
				name = capital.ReplaceAllStringFunc(name, func(c string) string { return "_" + strings.ToLower(c) })
			}
			out[name] = snake(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = snake(v[i])
		}
		return out
	}
	return v
}

var capital = regexp.MustCompile(`[A-Z]`)

// resources collects what a dump of xDS holds of one kind, by the names that lead to it.
func resources(t *testing.T, configs []any, list string, steps ...any) (out []object) {
	t.Helper()
	for _, c := range configs {
		entries, _ := c.(object)[list].([]any)
		for _, e := range entries {
			resource := dig(e, steps...).(object)
			delete(resource, "@type")
			out = append(out, resource)
		}
	}
	if len(out) == 0 {
		t.Fatalf("the translation has no %s", list)
	}
	return out
}

// gatewayBootstrap returns Envoy Gateway's configuration as one that needs no control plane: routes
// and endpoints are written into it.
func gatewayBootstrap(t *testing.T, answer object, tollgate string) object {
	t.Helper()
	configs := snake(dig(answer, "xds", "orders/public", "configs")).([]any)
	// There is another listener, which answers probes.
	listeners := slices.DeleteFunc(resources(t, configs, "dynamic_listeners", "active_state", "listener"), func(l object) bool { return l["name"] != "orders/public/http" })
	routes := resources(t, configs, "dynamic_route_configs", "route_config")
	if len(listeners) != 1 || len(routes) != 1 {
		t.Fatalf("%d listeners, %d route configurations", len(listeners), len(routes))
	}
	listener := listeners[0]
	listener["name"] = "ingress"
	if chain, ok := listener["default_filter_chain"]; ok {
		listener["filter_chains"] = []any{chain}
		delete(listener, "default_filter_chain")
	}
	manager := dig(listener, "filter_chains", 0, "filters", 0, "typed_config").(object)
	delete(manager, "rds")
	manager["route_config"] = routes[0]
	// By these the tests find a request in the log, and know whether it has reached the
	// application.
	manager["always_set_request_id_in_response"] = true
	filters := manager["http_filters"].([]any)
	delete(dig(filters[len(filters)-1], "typed_config").(object), "suppress_envoy_headers")
	manager["access_log"] = append(manager["access_log"].([]any), fileLog(t))
	clusters := gatewayClusters(t, configs, tollgate)
	root := object{"static_resources": object{"listeners": []any{listener}, "clusters": clusters}}
	for _, c := range resources(t, configs, "dynamic_active_clusters", "cluster") {
		if to := roleOf(c["name"].(string)); to != "" {
			root = renamed(t, root, c["name"].(string), to)
		}
	}
	return root
}

// roleOf returns the name by which envoytest knows a cluster of Envoy Gateway's, "" for one that it
// does not.
func roleOf(name string) string {
	switch {
	case strings.Contains(name, "extauth"):
		return "tollgate"
	case strings.HasPrefix(name, "httproute/"):
		return "upstream"
	}
	return ""
}

// gatewayClusters returns the clusters with endpoints in place of a control plane. Those of
// one role must be alike, but for the name.
func gatewayClusters(t *testing.T, configs []any, tollgate string) (out []any) {
	t.Helper()
	host, port, err := net.SplitHostPort(tollgate)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, c := range resources(t, configs, "dynamic_active_clusters", "cluster") {
		name := c["name"].(string)
		c["type"] = "STATIC"
		delete(c, "eds_cluster_config")
		delete(c, "load_assignment")
		role := roleOf(name)
		if role != "" {
			delete(c, "name")
			delete(c, "alt_stat_name")
			delete(c, "metadata") // the name of the policy or route
			text, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			c["name"] = name
			if was, ok := seen[role]; ok && was != string(text) {
				t.Errorf("two clusters for %s:\n%s\n%s", role, was, text)
			} else if ok {
				continue
			}
			seen[role] = string(text)
		}
		c["load_assignment"] = object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{object{
			"endpoint": object{"address": object{"socket_address": object{"address": host, "port_value": json.Number(port)}}}}}}}}
		out = append(out, c)
	}
	return out
}

// accepted fails the test for each object of a kind whose conditions are not all true: Envoy
// Gateway takes a policy that is wrong, and says so only there.
func accepted(t *testing.T, answer object, list string, want int) {
	t.Helper()
	objects, _ := answer[list].([]any)
	if len(objects) != want {
		t.Errorf("%d %s, want %d", len(objects), list, want)
	}
	for _, o := range objects {
		ancestors, _ := dig(o, "status", "ancestors").([]any)
		if len(ancestors) == 0 {
			t.Errorf("%s: nothing took it: %v", list, o)
		}
		for _, a := range ancestors {
			for _, c := range dig(a, "conditions").([]any) {
				if dig(c, "status") != "True" {
					t.Errorf("%s %v: %v", list, dig(o, "metadata", "name"), c)
				}
			}
		}
	}
}

// TestScriptThroughEnvoyGateway asks through what Envoy Gateway makes of our files.
func TestScriptThroughEnvoyGateway(t *testing.T) {
	answer := translate(t, "tollgate.yaml", "envoy-gateway-example.yaml", "envoy-gateway.yaml", "access-log/envoy-gateway.yaml")
	accepted(t, answer, "securityPolicies", 2)
	accepted(t, answer, "clientTrafficPolicies", 1)
	accepted(t, answer, "envoyPatchPolicies", 2)
	runsScript(t, "pictify", func(tollgate string) object { return gatewayBootstrap(t, answer, tollgate) })
}
