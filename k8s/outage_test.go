package k8s

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	eg "github.com/envoyproxy/gateway/api/v1alpha1"
	gw "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// object is a decoded mapping.
type object = map[string]any

// whenReplicasLeave are the settings of ../envoy/envoy.yaml that keep requests when a replica
// leaves or dies. The tests of the server run them in an Envoy; what is here must say the same.
type whenReplicasLeave struct {
	retry                   object
	health, outliers, panic any
	connectTimeout          any
}

func readBootstrap(t *testing.T) (w whenReplicasLeave) {
	t.Helper()
	var root any
	if err := yaml.Unmarshal(readFile(t, "../envoy/envoy.yaml"), &root); err != nil {
		t.Fatal(err)
	}
	cluster := dig(root, "static_resources", "clusters", 0)
	w.health, w.outliers, w.panic = dig(cluster, "health_checks"), dig(cluster, "outlier_detection"), dig(cluster, "common_lb_config")
	w.connectTimeout = dig(cluster, "connect_timeout")
	for _, f := range dig(root, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config", "http_filters").([]any) {
		if dig(f, "name") == "envoy.filters.http.ext_authz" {
			w.retry = dig(f, "typed_config", "grpc_service", "retry_policy").(object)
		}
	}
	if dig(cluster, "name") != "tollgate" || w.retry == nil || w.health == nil || w.outliers == nil || w.panic == nil {
		t.Fatalf("../envoy/envoy.yaml: %+v", w)
	}
	return w
}

// dig walks down a decoded document by names and indexes.
func dig(v any, steps ...any) any {
	for _, s := range steps {
		switch s := s.(type) {
		case string:
			v = v.(object)[s]
		case int:
			v = v.([]any)[s]
		}
	}
	return v
}

func TestIstioLosesNoRequestWithAReplica(t *testing.T) {
	samples, want := readSamples(t), readBootstrap(t)
	filters := objects[*envoyFilter](samples)
	if len(filters) != 1 || len(filters[0].Spec.ConfigPatches) != 2 {
		t.Fatalf("%d EnvoyFilters", len(filters))
	}
	policy := objects[*authorizationPolicy](samples)[0]
	if f := filters[0]; f.Namespace != policy.Namespace || !reflect.DeepEqual(f.Spec.GetWorkloadSelector().GetLabels(), policy.Spec.GetSelector().GetMatchLabels()) {
		t.Error("it is for other gateways than the AuthorizationPolicy")
	}
	for _, p := range filters[0].Spec.ConfigPatches {
		if p.GetPatch().GetOperation().String() != "MERGE" || p.GetMatch().GetContext().String() != "GATEWAY" {
			t.Errorf("%s: %s in %s", p.GetApplyTo(), p.GetPatch().GetOperation(), p.GetMatch().GetContext())
		}
		value := p.GetPatch().GetValue().AsMap()
		switch p.GetApplyTo().String() {
		case "CLUSTER":
			provider := readMesh(t).ExtensionProviders[0].GetEnvoyExtAuthzGrpc()
			if c := p.GetMatch().GetCluster(); c.GetService() != provider.GetService() || c.GetPortNumber() != provider.GetPort() {
				t.Errorf("cluster %s:%d is not the provider's", c.GetService(), c.GetPortNumber())
			}
			got := whenReplicasLeave{want.retry, value["health_checks"], value["outlier_detection"], value["common_lb_config"], value["connect_timeout"]}
			if !reflect.DeepEqual(got, want) || len(value) != 4 {
				t.Errorf("cluster:\n%v\nin envoy.yaml:\n%v", got, want)
			}
		case "HTTP_FILTER":
			if got := dig(value, "typed_config", "grpc_service", "retry_policy"); !reflect.DeepEqual(got, any(want.retry)) || len(value) != 1 {
				t.Errorf("retries:\n%v\nin envoy.yaml:\n%v", got, want.retry)
			}
		default:
			t.Errorf("applies to %s", p.GetApplyTo())
		}
	}
}

// patched returns the fields that an EnvoyPatchPolicy adds to the retry policy of every filter that
// asks Tollgate.
func patched(t *testing.T, p *eg.EnvoyPatchPolicy, listener string) object {
	t.Helper()
	fields := object{}
	for _, patch := range p.Spec.JSONPatches {
		o := patch.Operation
		if patch.Type != eg.ListenerEnvoyResourceType || patch.Name != listener || o.Op != "add" ||
			*o.JSONPath != `..http_filters[?(@.name=~"envoy.filters.http.ext_authz/.*")].typed_config.grpc_service.retry_policy` {
			t.Errorf("%s: %s %s: %s at %s", p.Name, patch.Type, patch.Name, o.Op, *o.JSONPath)
		}
		var value any
		if err := json.Unmarshal(o.Value.Raw, &value); err != nil {
			t.Fatal(err)
		}
		fields[strings.TrimPrefix(*o.Path, "/")] = value
	}
	return fields
}

// seconds writes a duration as Envoy's files do.
func seconds(t *testing.T, d *gw.Duration) string {
	t.Helper()
	parsed, err := time.ParseDuration(string(*d))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%gs", parsed.Seconds())
}

func TestEnvoyGatewayLosesNoRequestWithAReplica(t *testing.T) {
	samples, want := readSamples(t), readBootstrap(t)
	patches := objects[*eg.EnvoyPatchPolicy](samples)
	gateways := objects[*gw.Gateway](samples)
	if len(patches) != 1 || len(gateways) != 1 || len(gateways[0].Spec.Listeners) != 1 || string(patches[0].Spec.TargetRef.Name) != gateways[0].Name {
		t.Fatalf("%d EnvoyPatchPolicies for %d Gateways", len(patches), len(gateways))
	}
	g := gateways[0]
	fields := patched(t, patches[0], fmt.Sprintf("%s/%s/%s", g.Namespace, g.Name, g.Spec.Listeners[0].Name))
	for _, p := range objects[*eg.SecurityPolicy](samples) {
		if p.Spec.MergeType != nil {
			continue // another's settings
		}
		s := p.Spec.ExtAuth.GRPC.BackendSettings
		var triggers []string
		for _, trigger := range s.Retry.RetryOn.Triggers {
			triggers = append(triggers, string(trigger))
		}
		retry := object{
			"retry_on": strings.Join(triggers, ","), "num_retries": float64(*s.Retry.NumRetries),
			"retry_back_off": object{"base_interval": seconds(t, s.Retry.PerRetry.BackOff.BaseInterval), "max_interval": seconds(t, s.Retry.PerRetry.BackOff.MaxInterval)},
		}
		for name, value := range fields {
			retry[name] = value
		}
		if !reflect.DeepEqual(retry, want.retry) {
			t.Errorf("%s: retries:\n%v\nin envoy.yaml:\n%v", p.Name, retry, want.retry)
		}
		active, passive := s.HealthCheck.Active, s.HealthCheck.Passive
		if active.Type != eg.ActiveHealthCheckerTypeGRPC || active.GRPC == nil {
			t.Errorf("%s: no health check over gRPC", p.Name)
		}
		health := []any{object{
			"timeout": seconds(t, active.Timeout), "interval": seconds(t, active.Interval),
			"no_traffic_interval": seconds(t, active.Interval), // which Envoy Gateway cannot set: 60 s, until the first check
			"unhealthy_threshold": float64(*active.UnhealthyThreshold), "healthy_threshold": float64(*active.HealthyThreshold), "grpc_health_check": object{},
		}}
		if !reflect.DeepEqual(any(health), want.health) {
			t.Errorf("%s: health checks:\n%v\nin envoy.yaml:\n%v", p.Name, health, want.health)
		}
		if !*passive.SplitExternalLocalOriginErrors || float64(*passive.ConsecutiveLocalOriginFailures) != dig(want.outliers, "consecutive_local_origin_failure") ||
			seconds(t, passive.BaseEjectionTime) != dig(want.outliers, "base_ejection_time") || *passive.MaxEjectionPercent != 100 || *passive.Consecutive5xxErrors < 1_000_000 {
			t.Errorf("%s: outlier detection %+v", p.Name, passive)
		}
		if *s.HealthCheck.PanicThreshold != 1 || *s.CircuitBreaker.MaxParallelRetries < 4096 || seconds(t, s.Timeout.TCP.ConnectTimeout) != want.connectTimeout {
			t.Errorf("%s: panicThreshold, maxParallelRetries or connectTimeout", p.Name)
		}
	}
}
