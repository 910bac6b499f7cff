package charttest

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// made is a file for those who do without the chart: what a template makes for the names of the
// example.
type made struct {
	template string
	values   []string
}

func integrations() map[string]made {
	gateway := []string{"integration=envoyGateway", "envoyGateway.gateway.name=public", "envoyGateway.gateway.namespace=orders",
		"envoyGateway.routes[0].name=orders-test", "envoyGateway.routes[0].context.api=orders", "envoyGateway.routes[0].context.environment=test",
		"envoyGateway.gateway.listeners[0]=http", "envoyGateway.patches=true"}
	return map[string]made{
		"../istio.yaml":                      {"integration-istio", []string{"integration=istio"}},
		"../access-log/istio.yaml":           {"integration-istio-access-log", []string{"integration=istio", "istio.accessLog=envoyFilter"}},
		"../access-log/istio-telemetry.yaml": {"integration-istio-access-log", []string{"integration=istio", "istio.accessLog=telemetry"}},
		"../envoy-gateway.yaml":              {"integration-envoy-gateway", gateway},
		"../access-log/envoy-gateway.yaml":   {"integration-envoy-gateway-access-log", gateway},
		"../gateway-api.yaml": {"integration-gateway-api", []string{"integration=gatewayApi", "gatewayApi.controller=io.cilium/gateway-controller",
			"gatewayApi.routes[0].name=orders", "gatewayApi.routes[0].namespace=orders", "gatewayApi.routes[0].parentRefs[0].name=public",
			"gatewayApi.routes[0].hostnames[0]=api.example.com", "gatewayApi.routes[0].backendRefs[0].name=orders", "gatewayApi.routes[0].backendRefs[0].port=8080"}},
	}
}

// chartLabels are what the chart says of itself in each object.
var chartLabels = regexp.MustCompile(`(?m)^  labels:\n(?:    .*\n)+`)

// The files for Istio, Envoy Gateway and the Gateway API say what the chart says: they are
// made from it (go test -update).
func TestIntegrationFilesAreMadeFromTheChart(t *testing.T) {
	for file, m := range integrations() {
		rendered, err := standard().render(loadChart(t), minimal(t, m.values...))
		if err != nil {
			t.Fatal(err)
		}
		text := chartLabels.ReplaceAllString(rendered["tollgate/templates/"+m.template+".yaml"], "")
		want := []byte(strings.Trim(text, "\n") + "\n")
		if len(want) < 100 {
			t.Fatalf("%s: the chart makes nothing", file)
		}
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if got := readFile(t, file); !bytes.Equal(got, want) {
			t.Errorf("%s is not what the chart makes (go test -update)", file)
		}
	}
}

func TestIntegrationRefuses(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"integration=gatewayApi,gatewayApi.controller=gateway.envoyproxy.io/gatewayclass-controller,gatewayApi.namespaces={orders}", "set integration: envoyGateway"},
		{"integration=gatewayApi,gatewayApi.controller=istio.io/gateway-controller,gatewayApi.namespaces={orders}", "set integration: istio"},
		{"integration=gatewayApi,gatewayApi.controller=gateway.nginx.org/nginx-gateway-controller,gatewayApi.namespaces={orders}", "io.cilium/gateway-controller"},
		{"integration=gatewayApi,gatewayApi.controller=io.cilium/gateway-controller", "gatewayApi.routes"},
		{"integration=envoyGateway", "envoyGateway.gateway"},
		{"integration=envoyGateway,envoyGateway.patches=true,envoyGateway.gateway.name=public,envoyGateway.gateway.namespace=orders", "listeners"},
		{"integration=istio,istio.selector=null", "istio.selector"},
		{"integration=nginx", "integration"},
		{"integration=istio,istio.accessLog=both", "accessLog"},
	} {
		_, err := standard().render(loadChart(t), minimal(t, c.values))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want a refusal with %q", c.values, err, c.want)
		}
	}
}

// Nothing of the gateways' side is made unless it is asked for.
func TestIntegrationIsOffByItself(t *testing.T) {
	for name, text := range mustRender(t, minimal(t)) {
		if strings.Contains(name, "integration-") && strings.TrimSpace(text) != "" {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

func mustRender(t *testing.T, v values) map[string]string {
	t.Helper()
	rendered, err := standard().render(loadChart(t), v)
	if err != nil {
		t.Fatal(err)
	}
	return rendered
}
