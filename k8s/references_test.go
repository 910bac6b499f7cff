package k8s

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	eg "github.com/envoyproxy/gateway/api/v1alpha1"
	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gw "sigs.k8s.io/gateway-api/apis/v1"
	gwbeta "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/yaml"
)

// samplePolicy is the part of the ConfigMap's policy file that gateways refer to.
type samplePolicy struct {
	API          string
	Environments []struct {
		Context string
		Hosts   []string
	}
}

func readPolicy(t *testing.T, samples []sample) (out samplePolicy) {
	t.Helper()
	for _, c := range objects[*core.ConfigMap](samples) {
		if len(c.Data) != 1 {
			t.Fatalf("%s holds %d policies", c.Name, len(c.Data))
		}
		for name, text := range c.Data {
			if err := yaml.Unmarshal([]byte(text), &out); err != nil || out.API+".yaml" != name {
				t.Fatalf("%s: API %q: %v", name, out.API, err)
			}
		}
	}
	return out
}

// selects reports whether a selector means the pods of exactly one workload.
func selects(t *testing.T, samples []sample, selector *meta.LabelSelector) (found workload, ok bool) {
	t.Helper()
	s, err := meta.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, w := range workloads(samples) {
		if s.Matches(labels.Set(w.pod.Labels)) {
			found, n = w, n+1
		}
	}
	return found, n == 1
}

func TestSelectorsFindTheirPods(t *testing.T) {
	samples := readSamples(t)
	for _, w := range workloads(samples) {
		if found, ok := selects(t, samples, w.selector); !ok || found.name != w.name {
			t.Errorf("%s does not select its own pods, or also others", w.name)
		}
		for _, c := range w.pod.Spec.TopologySpreadConstraints {
			if found, ok := selects(t, samples, c.LabelSelector); !ok || found.name != w.name {
				t.Errorf("%s: spread over %s counts the wrong pods", w.name, c.TopologyKey)
			}
		}
	}
	for _, s := range objects[*core.Service](samples) {
		w, ok := selects(t, samples, &meta.LabelSelector{MatchLabels: s.Spec.Selector})
		if !ok {
			t.Errorf("Service %s selects no workload, or several", s.Name)
		}
		for _, p := range s.Spec.Ports {
			// What the world outside connects to has a number of its own.
			if n := portOf(w, p.TargetPort.String()); n == 0 || n != p.Port && s.Spec.Type != core.ServiceTypeLoadBalancer || p.AppProtocol == nil {
				t.Errorf("Service %s: port %s: want the container's number and an appProtocol", s.Name, p.Name)
			}
		}
	}
	for _, b := range objects[*disruption.PodDisruptionBudget](samples) {
		if _, ok := selects(t, samples, b.Spec.Selector); !ok {
			t.Errorf("PodDisruptionBudget %s selects no workload, or several", b.Name)
		}
	}
	for _, p := range objects[*network.NetworkPolicy](samples) {
		w, ok := selects(t, samples, &p.Spec.PodSelector)
		for _, rule := range p.Spec.Ingress {
			for _, port := range rule.Ports {
				if !ok || portOf(w, port.Port.String()) == 0 {
					t.Errorf("NetworkPolicy %s: port %s is no port of its pods", p.Name, port.Port)
				}
			}
		}
	}
}

// hasService reports whether namespace/name is a Service of the samples with that port for gRPC.
func hasService(samples []sample, namespace, name string, port int32) bool {
	for _, s := range objects[*core.Service](samples) {
		for _, p := range s.Spec.Ports {
			if s.Namespace == namespace && s.Name == name && p.Port == port && *p.AppProtocol == "grpc" {
				return true
			}
		}
	}
	return false
}

func TestIstioFindsTollgate(t *testing.T) {
	samples, providers := readSamples(t), map[string]bool{}
	for _, p := range readMesh(t).ExtensionProviders {
		g, service, port := p.GetEnvoyExtAuthzGrpc(), p.GetEnvoyHttpAls().GetService(), p.GetEnvoyHttpAls().GetPort()
		if g != nil {
			providers[p.Name] = true
			service, port = g.GetService(), g.GetPort()
		}
		parts := strings.SplitN(service, ".", 3)
		if len(parts) != 3 || parts[2] != "svc.cluster.local" || !hasService(samples, parts[1], parts[0], int32(port)) {
			t.Errorf("provider %s: no Service %s with port %d", p.Name, service, port)
		}
		if g == nil {
			continue
		}
		if d := g.GetTimeout().AsDuration(); d <= 0 || d > time.Second || g.GetFailOpen() || g.GetStatusOnError() != "503" {
			t.Errorf("provider %s: timeout %v, failOpen %t, statusOnError %s", p.Name, d, g.GetFailOpen(), g.GetStatusOnError())
		}
	}
	policies := objects[*authorizationPolicy](samples)
	if len(policies) == 0 {
		t.Fatal("no AuthorizationPolicy")
	}
	for _, p := range policies {
		if p.Spec.GetAction().String() != "CUSTOM" || !providers[p.Spec.GetProvider().GetName()] {
			t.Errorf("%s: action %s, provider %s", p.Name, p.Spec.GetAction(), p.Spec.GetProvider().GetName())
		}
		if len(p.Spec.Rules) != 1 || len(p.Spec.Rules[0].GetTo())+len(p.Spec.Rules[0].GetFrom())+len(p.Spec.Rules[0].GetWhen()) != 0 {
			t.Errorf("%s: not every request is checked: %v", p.Name, p.Spec.Rules)
		}
	}
}

// granted reports whether a ReferenceGrant lets a SecurityPolicy of one namespace use a Service of
// another.
func granted(samples []sample, from, to, service string) bool {
	for _, g := range objects[*gwbeta.ReferenceGrant](samples) {
		ok := g.Namespace == to && slices.ContainsFunc(g.Spec.From, func(f gw.ReferenceGrantFrom) bool {
			return f.Group == eg.GroupName && f.Kind == eg.KindSecurityPolicy && string(f.Namespace) == from
		})
		if ok && slices.ContainsFunc(g.Spec.To, func(o gw.ReferenceGrantTo) bool {
			return o.Group == "" && o.Kind == "Service" && (o.Name == nil || string(*o.Name) == service)
		}) {
			return true
		}
	}
	return false
}

func TestEnvoyGatewayFindsTollgate(t *testing.T) {
	samples := readSamples(t)
	policies := objects[*eg.SecurityPolicy](samples)
	if len(policies) == 0 {
		t.Fatal("no SecurityPolicy")
	}
	for _, p := range policies {
		a := p.Spec.ExtAuth
		if a == nil || a.GRPC == nil || len(a.GRPC.BackendRefs) != 1 {
			t.Fatalf("%s: no single gRPC backend", p.Name)
		}
		b := a.GRPC.BackendRefs[0]
		if b.Namespace == nil || b.Port == nil || !hasService(samples, string(*b.Namespace), string(b.Name), int32(*b.Port)) {
			t.Fatalf("%s: no such Service: %+v", p.Name, b)
		}
		if string(*b.Namespace) != p.Namespace && !granted(samples, p.Namespace, string(*b.Namespace), string(b.Name)) {
			t.Errorf("%s: no ReferenceGrant", p.Name)
		}
		if p.Spec.MergeType != nil {
			// All else is the Gateway's, which it is merged into.
			if *p.Spec.MergeType != eg.StrategicMerge || p.Spec.TargetRefs[0].Kind == "Gateway" || a.FailOpen != nil || a.StatusOnError != nil || a.Timeout != nil || a.GRPC.BackendSettings != nil {
				t.Errorf("%s: merges by %s, or says what the Gateway's policy says", p.Name, *p.Spec.MergeType)
			}
			continue
		}
		if p.Spec.TargetRefs[0].Kind != "Gateway" {
			t.Errorf("%s: takes the place of the Gateway's policy", p.Name)
		}
		if a.FailOpen == nil || *a.FailOpen || a.StatusOnError == nil || *a.StatusOnError != 503 || a.Timeout == nil {
			t.Fatalf("%s: failOpen, statusOnError or timeout is left to a default", p.Name)
		}
		if d, err := time.ParseDuration(string(*a.Timeout)); err != nil || d > time.Second {
			t.Errorf("%s: timeout %s: %v", p.Name, *a.Timeout, err)
		}
	}
}

// targets lists "Kind namespace/name" of what can be targeted.
func targets(samples []sample) map[string]bool {
	out := map[string]bool{}
	for _, s := range samples {
		out[fmt.Sprintf("%s %s/%s", s.kind, s.namespace, s.name)] = true
	}
	return out
}

func TestRoutesAndPoliciesAreAttached(t *testing.T) {
	samples := readSamples(t)
	known, policy := targets(samples), readPolicy(t, samples)
	var hosts []string
	for _, e := range policy.Environments {
		hosts = append(hosts, e.Hosts...)
	}
	for _, g := range objects[*gw.Gateway](samples) {
		if !known["GatewayClass /"+string(g.Spec.GatewayClassName)] || !known["Namespace /"+g.Namespace] {
			t.Errorf("Gateway %s: no class %s, or no namespace", g.Name, g.Spec.GatewayClassName)
		}
	}
	for _, r := range objects[*gw.HTTPRoute](samples) {
		for _, p := range r.Spec.ParentRefs {
			if !known["Gateway "+r.Namespace+"/"+string(p.Name)] {
				t.Errorf("HTTPRoute %s: no Gateway %s", r.Name, p.Name)
			}
		}
		for _, h := range r.Spec.Hostnames {
			if !slices.Contains(hosts, string(h)) {
				t.Errorf("HTTPRoute %s: the policy file knows no host %s", r.Name, h)
			}
		}
	}
	attached := func(object, namespace string, refs []gw.LocalPolicyTargetReferenceWithSectionName) {
		for _, r := range refs {
			if r.Group != gw.GroupName || !known[string(r.Kind)+" "+namespace+"/"+string(r.Name)] {
				t.Errorf("%s: no %s %s", object, r.Kind, r.Name)
			}
		}
	}
	whole := false
	for _, p := range objects[*eg.SecurityPolicy](samples) {
		attached(p.Name, p.Namespace, p.Spec.TargetRefs)
		whole = whole || len(p.Spec.TargetRefs) == 1 && p.Spec.TargetRefs[0].Kind == "Gateway"
		for _, c := range p.Spec.ExtAuth.ContextExtensions {
			if !policy.accepts(c.Name, *c.Value) {
				t.Errorf("SecurityPolicy %s: the policy file knows no %s %s", p.Name, c.Name, *c.Value)
			}
		}
	}
	if !whole {
		t.Error("no SecurityPolicy covers the whole Gateway: a route added later would be open")
	}
	for _, p := range objects[*eg.ClientTrafficPolicy](samples) {
		attached(p.Name, p.Namespace, p.Spec.TargetRefs)
	}
}

// accepts reports whether the policy file gives a context extension a meaning.
func (p samplePolicy) accepts(name, value string) bool {
	switch name {
	case "api":
		return value == p.API
	case "environment":
		for _, e := range p.Environments {
			if e.Context == value {
				return true
			}
		}
	}
	return false
}

// With client IP detection Envoy Gateway turns use_remote_address off, and then the address header
// is the client's word.
func TestClientCannotNameItself(t *testing.T) {
	policies := objects[*eg.ClientTrafficPolicy](readSamples(t))
	if len(policies) == 0 {
		t.Fatal("no ClientTrafficPolicy")
	}
	for _, p := range policies {
		if p.Spec.ClientIPDetection != nil {
			t.Errorf("%s: clientIPDetection does not go with client_address: external-address", p.Name)
		}
		if *p.Spec.Path.EscapedSlashesAction != eg.RejectRequestAction || *p.Spec.Headers.WithUnderscoresAction != eg.WithUnderscoresActionRejectRequest {
			t.Errorf("%s: odd paths or headers pass", p.Name)
		}
		for _, h := range []string{"X-Consumer-ID", "X-Consumer-Username", "X-Credential-Identifier", "X-Authenticated-Scope", "X-Consumer-Plan",
			"X-Envoy-External-Address", "X-Envoy-Auth-Failure-Mode-Allowed"} {
			if !slices.Contains(p.Spec.Headers.EarlyRequestHeaders.Remove, h) {
				t.Errorf("%s: the client may send %s", p.Name, h)
			}
		}
		removed := func(name string) bool {
			return slices.ContainsFunc(p.Spec.Headers.EarlyRequestHeaders.RemoveOnMatch, func(m eg.StringMatch) bool {
				return *m.Type == eg.StringMatchRegularExpression && regexp.MustCompile(`^(?:`+m.Value+`)$`).MatchString(name)
			})
		}
		for name, want := range map[string]bool{
			"x.consumer.id": true, "x-consumer.plan": true, "x~authenticated~scope": true, "x.credential-identifier": true, "x+consumer+username": true,
			"x.envoy.external.address": true, "x-http-method-override": true, "x-http-method": true, "x-method-override": true, "x.http.method": true,
			"x.envoy.auth.failure.mode.allowed": true, "x-consumer-idle": false, "my-x-consumer-id": false, "x-method": false,
		} {
			if removed(name) != want {
				t.Errorf("%s: %s is removed: %v", p.Name, name, !want)
			}
		}
	}
}
