//go:build linux

package k8s

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"tollgate/k8s/kubetest"
)

// installDefinitions gives the API server the resource definitions of the gateways' projects,
// of the very module versions whose types the samples are decoded into. The Gateway API's are
// those of the experimental channel, which has the filter ExternalAuth.
func installDefinitions(t *testing.T, c *kubetest.Cluster, dir string) {
	t.Helper()
	var all bytes.Buffer
	for _, pattern := range []string{
		filepath.Join(moduleFolder(t, "sigs.k8s.io/gateway-api"), "config/crd/experimental/gateway.networking.k8s.io_*.yaml"),
		filepath.Join(moduleFolder(t, "github.com/envoyproxy/gateway"), "charts/gateway-crds-helm/templates/generated/*.yaml"),
		filepath.Join(moduleFolder(t, "istio.io/api"), "kubernetes/customresourcedefinitions.gen.yaml"),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no definitions at %s: %v", pattern, err)
		}
		for _, file := range files {
			all.WriteString("\n---\n")
			all.Write(withoutTemplates(readFile(t, file)))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "definitions.yaml"), all.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, c, dir, `
		kubectl apply --server-side -f definitions.yaml
		kubectl wait --for=condition=Established --timeout=60s customresourcedefinitions --all`)
}

// TestClusterTakesTheSamples has the API server judge every sample, also by the rules that their
// definitions state in CEL.
func TestClusterTakesTheSamples(t *testing.T) {
	c := startCluster(t)
	dir := pageFolder(t)
	installDefinitions(t, c, dir)
	shell(t, c, dir, `
		for namespace in tollgate orders istio-system edge; do kubectl create namespace $namespace; done
		for file in k8s/*.yaml k8s/access-log/*.yaml; do
			test $file = k8s/istio-mesh.yaml || kubectl apply --server-side --force-conflicts --dry-run=server -f $file
		done`)
	for name, object := range map[string]string{
		"a route's policy without its backend": `{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, metadata: {name: a, namespace: orders}, spec: {
			targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}], mergeType: StrategicMerge, extAuth: {grpc: {}}}}`,
		"a policy that asks two services": `{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, metadata: {name: a, namespace: orders}, spec: {
			targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}], extAuth: {grpc: {backendRefs: [{name: a, port: 1}]}, http: {backendRefs: [{name: a, port: 1}]}}}}`,
		"a filter that does not say how it asks": `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, namespace: orders}, spec: {
			rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: a, port: 1}}}]}]}}`,
	} {
		if out, err := tryShell(t, c, dir, "kubectl apply --server-side --dry-run=server -f - <<'END'\n"+object+"\nEND"); err == nil {
			t.Errorf("%s is taken, so no rule in CEL is run:\n%s", name, out)
		}
	}
}
