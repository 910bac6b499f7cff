package charttest

import (
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// peer is a pod that connects to another one of the release.
type peer struct {
	namespace string
	labels    map[string]string
}

// admits reports whether a NetworkPolicy lets a peer in at a named port.
func admits(t *testing.T, p *network.NetworkPolicy, from peer, port string) bool {
	t.Helper()
	matches := func(s *meta.LabelSelector, set map[string]string) bool {
		selector, err := meta.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return selector.Matches(labels.Set(set))
	}
	for _, rule := range p.Spec.Ingress {
		if !slices.ContainsFunc(rule.Ports, func(r network.NetworkPolicyPort) bool { return r.Port.String() == port }) {
			continue
		}
		for _, f := range rule.From {
			switch {
			case f.NamespaceSelector != nil && f.PodSelector == nil:
				if matches(f.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": from.namespace}) {
					return true
				}
			case f.PodSelector != nil && f.NamespaceSelector == nil:
				if from.namespace == p.Namespace && matches(f.PodSelector, from.labels) {
					return true
				}
			default:
				t.Fatalf("%+v", f)
			}
		}
	}
	return false
}

func TestWhoReachesWhat(t *testing.T) {
	v := valuesFiles(t)["trial"]
	v["keys"] = values{"apply": values{"enabled": true, "existingSecret": "keys"}}
	v["manage"] = values{"enabled": true, "tlsSecret": "manage-tls", "namespaces": []any{"gateways"}}
	all := objectsOf(t, v)
	server, redis := named[*network.NetworkPolicy](t, all, "tollgate"), named[*network.NetworkPolicy](t, all, "tollgate-redis")
	manage := named[*network.NetworkPolicy](t, all, "tollgate-manage")
	inside := map[string]peer{}
	for maker, p := range pods(all) {
		inside[maker] = peer{"tollgate", p.Labels}
	}
	elsewhere := func(namespace string) peer { return peer{namespace: namespace} }
	for _, c := range []struct {
		policy *network.NetworkPolicy
		from   peer
		port   string
		want   bool
	}{
		{server, elsewhere("istio-ingress"), "grpc", true},
		{server, elsewhere("envoy-gateway-system"), "grpc", true},
		{server, elsewhere("monitoring"), "grpc", false},
		{server, elsewhere("default"), "grpc", false},
		{server, elsewhere("monitoring"), "http", true},
		{server, elsewhere("istio-ingress"), "http", false},
		{server, inside["Pod tollgate-test"], "grpc", true},
		{server, inside["Deployment tollgate-admin"], "http", true},
		{server, inside["Deployment tollgate-admin"], "grpc", true},
		{server, inside["Job tollgate-keys-apply"], "grpc", false},
		{server, peer{"tollgate", map[string]string{"app": "other"}}, "grpc", false},
		{server, peer{"default", inside["Pod tollgate-test"].labels}, "grpc", false},
		{redis, inside["Deployment tollgate"], "redis", true},
		{redis, inside["Deployment tollgate-admin"], "redis", true},
		{redis, inside["Deployment tollgate-manage"], "redis", true},
		{redis, inside["Job tollgate-keys-apply"], "redis", true},
		{redis, inside["Job tollgate-bootstrap"], "redis", true},
		{redis, inside["Pod tollgate-test"], "redis", false},
		{manage, elsewhere("gateways"), "https", true},
		{manage, elsewhere("default"), "https", false},
		{manage, inside["Deployment tollgate-admin"], "https", false},
		{redis, peer{"tollgate", map[string]string{"app": "other"}}, "redis", false},
	} {
		if c.from.namespace == "" {
			t.Fatalf("no such pod: %v", slices.Sorted(keysOf(inside)))
		}
		if got := admits(t, c.policy, c.from, c.port); got != c.want {
			t.Errorf("%s: %+v reaches %s: %v", c.policy.Name, c.from, c.port, got)
		}
	}
}

func keysOf(m map[string]peer) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// Out of the server's pods goes what it needs, and nothing else.
func TestWhereTheServerConnects(t *testing.T) {
	egress := func(changes ...string) []network.NetworkPolicyEgressRule {
		return named[*network.NetworkPolicy](t, objectsOf(t, minimal(t, changes...)), "tollgate").Spec.Egress
	}
	ports := func(rules []network.NetworkPolicyEgressRule) (all []int) {
		for _, r := range rules {
			for _, p := range r.Ports {
				all = append(all, p.Port.IntValue())
			}
		}
		return all
	}
	if got := ports(egress()); !slices.Equal(got, []int{53, 53, 6379, 6380, 26379, 443}) {
		t.Errorf("ports %v", got)
	}
	if got := ports(egress("networkPolicy.egress.https=false", "redis.ports={7000}")); !slices.Equal(got, []int{53, 53, 7000}) {
		t.Errorf("ports %v", got)
	}
	bundled := named[*network.NetworkPolicy](t, objectsOf(t, set(t, valuesFiles(t)["trial"], "redis.ports={7000}")), "tollgate").Spec.Egress
	if got := ports(bundled); !slices.Equal(got, []int{53, 53, 6379, 443}) {
		t.Errorf("a Redis of its own: ports %v", got)
	}
	if got := egress("networkPolicy.egress.redisTo[0].ipBlock.cidr=10.0.0.0/8"); len(got[1].To) != 1 || got[1].To[0].IPBlock.CIDR != "10.0.0.0/8" {
		t.Errorf("%+v", got[1])
	}
	p := named[*network.NetworkPolicy](t, objectsOf(t, minimal(t, "networkPolicy.egress.enabled=false")), "tollgate")
	if len(p.Spec.Egress) > 0 || slices.Contains(p.Spec.PolicyTypes, network.PolicyTypeEgress) {
		t.Errorf("%+v", p.Spec)
	}
}

// Selectors mean exactly the pods that they should: those of the server.
func TestSelectorsFindTheServer(t *testing.T) {
	for name, all := range matrix(t) {
		for _, s := range of[*core.Service](all) {
			var found []string
			for maker, p := range pods(all) {
				if labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels)) {
					found = append(found, maker)
				}
			}
			if len(found) != 1 {
				t.Errorf("%s: Service %s selects %v", name, s.Name, found)
			}
			for _, p := range s.Spec.Ports {
				if p.AppProtocol == nil {
					t.Errorf("%s: Service %s: port %s has no appProtocol", name, s.Name, p.Name)
				}
			}
		}
	}
}
