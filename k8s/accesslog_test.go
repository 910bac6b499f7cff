package k8s

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"

	eg "github.com/envoyproxy/gateway/api/v1alpha1"
	"sigs.k8s.io/yaml"
)

// readAccessLog reads a file of access-log, as strictly as the other samples.
func readAccessLog(t *testing.T, file string) (out []sample) {
	t.Helper()
	definitions := readSchemas(t)
	for i, d := range documents(readFile(t, filepath.Join("access-log", file))) {
		s, err := decodeSample(file, d)
		if err != nil {
			t.Fatalf("%s, document %d: %v", file, i+1, err)
		}
		if _, err := definitions.check(t, s.apiVersion, s.kind, s.json); err != nil || s.name == "" || s.namespace == "" {
			t.Errorf("%s: %v", s, err)
		}
		out = append(out, s)
	}
	return out
}

// shippedAccessLog returns what ../envoy/envoy.yaml says of the access log to Tollgate: the logger,
// and the options of the log.
func shippedAccessLog(t *testing.T) (logger, options object) {
	t.Helper()
	var root object
	if err := yaml.Unmarshal(readFile(t, "../envoy/envoy.yaml"), &root); err != nil {
		t.Fatal(err)
	}
	listener := dig(root, "static_resources", "listeners").([]any)[0].(object)
	chain := listener["filter_chains"].([]any)[0].(object)
	manager := chain["filters"].([]any)[0].(object)["typed_config"].(object)
	for _, l := range manager["access_log"].([]any) {
		if l.(object)["name"] == "envoy.access_loggers.http_grpc" {
			logger = l.(object)
		}
	}
	return logger, manager["access_log_options"].(object)
}

// The files for Istio and Envoy Gateway have the access log sent as envoy.yaml has.
func TestAccessLogIsSentAsByEnvoyItself(t *testing.T) {
	logger, options := shippedAccessLog(t)
	common := dig(logger, "typed_config", "common_config").(object)

	filters := objects[*envoyFilter](readAccessLog(t, "istio.yaml"))
	if len(filters) != 1 || len(filters[0].Spec.ConfigPatches) != 1 {
		t.Fatalf("%d EnvoyFilters", len(filters))
	}
	patch := filters[0].Spec.ConfigPatches[0]
	config := patch.GetPatch().GetValue().AsMap()["typed_config"].(object)
	got := config["access_log"].([]any)[0].(object)
	provider := readMesh(t).ExtensionProviders[0].GetEnvoyExtAuthzGrpc()
	cluster := dig(got, "typed_config", "common_config", "grpc_service", "envoy_grpc").(object)
	if cluster["cluster_name"] != "outbound|9001||"+provider.GetService() || provider.GetPort() != 9001 {
		t.Errorf("cluster %v is not the provider's", cluster)
	}
	cluster["cluster_name"] = "tollgate"
	if !reflect.DeepEqual(got, logger) || !reflect.DeepEqual(config["access_log_options"], any(options)) {
		t.Errorf("Istio:\n%v\nin envoy.yaml:\n%v %v", config, logger, options)
	}

	logs := objects[*telemetry](readAccessLog(t, "istio-telemetry.yaml"))[0]
	if name := logs.Spec.AccessLogging[0].Providers[0].Name; name != readMesh(t).ExtensionProviders[1].Name {
		t.Errorf("the Telemetry names %s, which the mesh does not have", name)
	}

	gateway := readAccessLog(t, "envoy-gateway.yaml")
	sink := objects[*eg.EnvoyProxy](gateway)[0].Spec.Telemetry.AccessLog.Settings[0].Sinks[0].ALS
	if *sink.LogName != common["log_name"] {
		t.Errorf("the log is named %s", *sink.LogName)
	}
	patches := map[string]any{}
	for _, p := range objects[*eg.EnvoyPatchPolicy](gateway)[0].Spec.JSONPatches {
		var value any
		if err := json.Unmarshal(p.Operation.Value.Raw, &value); err != nil {
			t.Fatal(err)
		}
		patches[*p.Operation.Path] = value
	}
	want := map[string]any{
		"/buffer_flush_interval": common["buffer_flush_interval"], "/buffer_size_bytes": common["buffer_size_bytes"], "/access_log_options": any(options),
	}
	if !reflect.DeepEqual(patches, want) {
		t.Errorf("Envoy Gateway:\n%v\nin envoy.yaml:\n%v", patches, want)
	}
}
