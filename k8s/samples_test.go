package k8s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	eg "github.com/envoyproxy/gateway/api/v1alpha1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	mesh "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	istio "istio.io/api/security/v1beta1"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gw "sigs.k8s.io/gateway-api/apis/v1"
	gwbeta "sigs.k8s.io/gateway-api/apis/v1beta1"
	strict "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// authorizationPolicy is the object that istio.io/client-go would wrap around the generated spec.
type authorizationPolicy struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	Spec            istioSpec `json:"spec"`
}

// istioSpec decodes by protojson, which refuses unknown fields as Istio's own webhook does.
type istioSpec struct{ *istio.AuthorizationPolicy }

func (s *istioSpec) UnmarshalJSON(data []byte) error {
	s.AuthorizationPolicy = new(istio.AuthorizationPolicy)
	return protojson.Unmarshal(data, s.AuthorizationPolicy)
}

// envoyFilter is likewise.
type envoyFilter struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	Spec            envoyFilterSpec `json:"spec"`
}

type envoyFilterSpec struct{ *networking.EnvoyFilter }

func (s *envoyFilterSpec) UnmarshalJSON(data []byte) error {
	s.EnvoyFilter = new(networking.EnvoyFilter)
	return protojson.Unmarshal(data, s.EnvoyFilter)
}

// telemetry is likewise.
type telemetry struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	Spec            telemetrySpec `json:"spec"`
}

type telemetrySpec struct{ *telemetryapi.Telemetry }

func (s *telemetrySpec) UnmarshalJSON(data []byte) error {
	s.Telemetry = new(telemetryapi.Telemetry)
	return protojson.Unmarshal(data, s.Telemetry)
}

// newObject returns an empty object of the real Go type, nil for a kind that no sample may have.
func newObject(apiVersion, kind string) any {
	switch apiVersion + " " + kind {
	case "v1 Namespace":
		return new(core.Namespace)
	case "v1 ServiceAccount":
		return new(core.ServiceAccount)
	case "v1 ConfigMap":
		return new(core.ConfigMap)
	case "v1 Service":
		return new(core.Service)
	case "apps/v1 Deployment":
		return new(apps.Deployment)
	case "policy/v1 PodDisruptionBudget":
		return new(disruption.PodDisruptionBudget)
	case "networking.k8s.io/v1 NetworkPolicy":
		return new(network.NetworkPolicy)
	case "gateway.networking.k8s.io/v1 GatewayClass":
		return new(gw.GatewayClass)
	case "gateway.networking.k8s.io/v1 Gateway":
		return new(gw.Gateway)
	case "gateway.networking.k8s.io/v1 HTTPRoute":
		return new(gw.HTTPRoute)
	case "gateway.networking.k8s.io/v1beta1 ReferenceGrant":
		return new(gwbeta.ReferenceGrant)
	case "gateway.envoyproxy.io/v1alpha1 SecurityPolicy":
		return new(eg.SecurityPolicy)
	case "gateway.envoyproxy.io/v1alpha1 ClientTrafficPolicy":
		return new(eg.ClientTrafficPolicy)
	case "gateway.envoyproxy.io/v1alpha1 EnvoyProxy":
		return new(eg.EnvoyProxy)
	case "gateway.envoyproxy.io/v1alpha1 EnvoyPatchPolicy":
		return new(eg.EnvoyPatchPolicy)
	case "networking.istio.io/v1alpha3 EnvoyFilter":
		return new(envoyFilter)
	case "telemetry.istio.io/v1 Telemetry":
		return new(telemetry)
	case "security.istio.io/v1 AuthorizationPolicy":
		return new(authorizationPolicy)
	}
	return nil
}

// sample is one object of a file.
type sample struct {
	file, apiVersion, kind, namespace, name string
	json                                    []byte
	object                                  any
}

func (s sample) String() string {
	return fmt.Sprintf("%s: %s %s/%s", s.file, s.kind, s.namespace, s.name)
}

// decodeSample reads one YAML document; a duplicate or unknown field, also in another case, is an
// error.
func decodeSample(file string, document []byte) (sample, error) {
	data, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return sample{}, err
	}
	var head struct {
		meta.TypeMeta `json:",inline"`
		Metadata      struct{ Name, Namespace string }
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return sample{}, err
	}
	s := sample{file: file, apiVersion: head.APIVersion, kind: head.Kind, name: head.Metadata.Name, namespace: head.Metadata.Namespace, json: data}
	if s.object = newObject(s.apiVersion, s.kind); s.object == nil {
		return s, fmt.Errorf("no Go type for %s %s", s.apiVersion, s.kind)
	}
	faults, err := strict.UnmarshalStrict(data, s.object)
	return s, errors.Join(append(faults, err)...)
}

// documents splits a file; comments before the first object are no document.
func documents(data []byte) (out [][]byte) {
	for _, d := range regexp.MustCompile(`(?m)^---$`).Split(string(data), -1) {
		if strings.TrimSpace(regexp.MustCompile(`(?m)^\s*#.*$`).ReplaceAllString(d, "")) != "" {
			out = append(out, []byte(d))
		}
	}
	return out
}

// meshFile holds chart values, not Kubernetes objects.
const meshFile = "istio-mesh.yaml"

func readSamples(t *testing.T) (out []sample) {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, file := range files {
		if file == meshFile {
			continue
		}
		for i, d := range documents(readFile(t, file)) {
			s, err := decodeSample(file, d)
			if err != nil {
				t.Fatalf("%s, document %d: %v", file, i+1, err)
			}
			out = append(out, s)
		}
	}
	return out
}

// readMesh returns the mesh configuration of the Istio sample.
func readMesh(t *testing.T) *mesh.MeshConfig {
	t.Helper()
	var values struct {
		MeshConfig json.RawMessage `json:"meshConfig"`
	}
	data, err := yaml.YAMLToJSONStrict(readFile(t, meshFile))
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&values); err != nil {
		t.Fatalf("%s: %v", meshFile, err)
	}
	config := new(mesh.MeshConfig)
	if err := protojson.Unmarshal(values.MeshConfig, config); err != nil {
		t.Fatalf("%s: %v", meshFile, err)
	}
	return config
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// objects returns the samples of one Go type.
func objects[T any](samples []sample) (out []T) {
	for _, s := range samples {
		if o, ok := s.object.(T); ok {
			out = append(out, o)
		}
	}
	return out
}

func TestSamplesDecodeStrictly(t *testing.T) {
	seen := map[string]string{}
	for _, s := range readSamples(t) {
		id := strings.Join([]string{s.apiVersion, s.kind, s.namespace, s.name}, " ")
		if s.name == "" || seen[id] != "" {
			t.Errorf("%s: no name, or already in %q", s, seen[id])
		}
		seen[id] = s.file
		if clusterWide := s.kind == "Namespace" || s.kind == "GatewayClass"; clusterWide != (s.namespace == "") {
			t.Errorf("%s: the namespace must be written out, and only where the kind has one", s)
		}
	}
	if proto.Size(readMesh(t)) == 0 {
		t.Errorf("%s says nothing", meshFile)
	}
}

// A check that cannot fail would prove nothing about the samples.
func TestDecodeRefuses(t *testing.T) {
	for name, document := range map[string]string{
		"unknown field":        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selektor: {a: b}}",
		"unknown nested field": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {containers: [{name: a, imagePullpolicy: Always}]}}}",
		"duplicate field":      "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: ClusterIP, type: NodePort}",
		"wrong type":           "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: grpc}]}",
		"unknown kind":         "apiVersion: v1\nkind: Servise\nmetadata: {name: a}",
		"Istio spec":           "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: CUSTOMS}",
		"Envoy Gateway":        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: a}\nspec: {extAuth: {failopen: true}}",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decodeSample("", []byte(document)); err == nil {
				t.Errorf("decoded:\n%s", document)
			}
		})
	}
}
