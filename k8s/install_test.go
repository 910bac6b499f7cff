//go:build linux

package k8s

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"

	"tollgate/k8s/kubetest"
)

// trialValues are those of an installation with all that the chart can do on a single node. Pods
// are taken for good soon, or each upgrade would take minutes.
const trialValues = `
image: {repository: registry.example.com/tollgate, tag: dev}
redis:
  bundled: {enabled: true, existingSecret: tollgate}
pepper: {existingSecret: tollgate}
admin: {enabled: true}
bootstrap: {enabled: true, api: orders, plans: [standard]}
test: {host: api.example.com, path: /v1/orders}
minReadySeconds: 1
integration: envoyGateway
envoyGateway:
  gateway: {name: public, namespace: orders, listeners: [http]}
  routes: [{name: orders-test, context: {api: orders, environment: test}}]
  patches: true
`

// installation is a release of the chart in a cluster.
type installation struct {
	*kubetest.Cluster
	t   *testing.T
	dir string
}

// helm runs helm with a policy, and returns what it said.
func (i *installation) helm(command, policy string) (string, error) {
	i.t.Helper()
	if err := os.WriteFile(filepath.Join(i.dir, "orders.yaml"), []byte(policy), 0o600); err != nil {
		i.t.Fatal(err)
	}
	return tryShell(i.t, i.Cluster, i.dir, command+` --namespace tollgate --values values.yaml --set-file 'policy.files.orders\.yaml=orders.yaml' --wait --timeout 3m`)
}

func (i *installation) mustHelm(command, policy string) {
	i.t.Helper()
	if out, err := i.helm(command, policy); err != nil {
		i.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// prepare makes the namespaces, the definitions of the gateways' objects, and the Secret.
func prepare(t *testing.T, values string) *installation {
	t.Helper()
	i := &installation{startCluster(t), t, pageFolder(t)}
	if err := os.WriteFile(filepath.Join(i.dir, "values.yaml"), []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	installDefinitions(t, i.Cluster, i.dir)
	shell(t, i.Cluster, i.dir, `
		kubectl create namespace tollgate
		kubectl label namespace tollgate pod-security.kubernetes.io/enforce=restricted
		kubectl create secret generic tollgate --namespace tollgate --from-literal=pepper=0123456789abcdef0123456789abcdef --from-literal=redis-password=abcdef
		kubectl apply --server-side -f k8s/envoy-gateway-example.yaml
	`)
	return i
}

// TestClusterInstallsTheChart installs, upgrades, rolls back and removes the chart, with Helm's
// server-side apply.
func TestClusterInstallsTheChart(t *testing.T) {
	i := prepare(t, trialValues)
	policy := string(readFile(t, "policies/orders.yaml"))
	i.mustHelm("helm install tollgate k8s/chart", policy)

	startApplication(t, "127.0.0.1:8080")
	startEnvoy(t, shippedEnvoy(t, endpoints(t, i.Cluster, "tollgate", "tollgate-headless", "grpc")))
	key := i.makeKey()
	for name, c := range map[string]struct {
		key  string
		want int
	}{"with a key": {key, 200}, "without one": {"", 401}, "with one that nobody has": {key[:len(key)-1] + "x", 401}} {
		if status := i.ask(c.key); status != c.want {
			t.Errorf("%s: %d, want %d", name, status, c.want)
		}
	}
	shell(t, i.Cluster, i.dir, "helm test tollgate --namespace tollgate --logs")
	i.upgrades(key, policy)
	i.uninstalls()
}

// ask asks for an order through Envoy.
func (i *installation) ask(key string) int {
	i.t.Helper()
	status, _ := request(i.t, "127.0.0.1:10000", "api.example.com", "/v1/orders", key)
	return status
}

// allSay reports whether each of the two servers answers a request without a key so.
func (i *installation) allSay(want int) bool {
	i.t.Helper()
	for range 8 {
		if i.ask("") != want {
			return false
		}
	}
	return true
}

// makeKey makes a key with the line of NOTES.txt.
func (i *installation) makeKey() string {
	i.t.Helper()
	notes := shell(i.t, i.Cluster, i.dir, "helm get notes tollgate --namespace tollgate")
	line := regexp.MustCompile(`(?m)^ *kubectl exec .* keys create .*$`).FindString(notes)
	line = strings.NewReplacer("TEAM", "team_first", "NAME", "first").Replace(line)
	out, err := executePage(i.t, i.Cluster, line, "--scopes", "write") // a plan alone allows nothing
	if err != nil {
		i.t.Fatal(err)
	}
	key := regexp.MustCompile(`ak_(live|test)_\w+`).FindString(out)
	if key == "" {
		i.t.Fatalf("no key in:\n%s", out)
	}
	return key
}

// pods returns the servers' pods that are ready, by UID.
func (i *installation) pods() (uids []string) {
	i.t.Helper()
	for _, p := range readyPods(i.t, i.Cluster, "tollgate", "tollgate") {
		uids = append(uids, string(p.UID))
	}
	slices.Sort(uids)
	return uids
}

// upgrades upgrades with a policy that is wrong, which is refused, with one that is right,
// which the pods load without a restart, and goes back.
func (i *installation) upgrades(key, policy string) {
	t := i.t
	before := i.pods()
	out, err := i.helm("helm upgrade tollgate k8s/chart", strings.Replace(policy, "scope: read}", "scope: reed}", 1))
	if err == nil || !strings.Contains(out, "reed") {
		t.Errorf("an upgrade with a broken policy: %v, want a refusal that says why:\n%s", err, out)
	}
	if status := i.ask(key); status != 200 {
		t.Errorf("after the upgrade that was refused: %d", status)
	}
	i.mustHelm("helm upgrade tollgate k8s/chart", strings.ReplaceAll(policy, "api.example.com", "elsewhere.example.com"))
	await(t, "the new policy is in force", func() bool { return i.allSay(403) })
	shell(t, i.Cluster, i.dir, "helm rollback tollgate 1 --namespace tollgate --wait --timeout 3m")
	await(t, "the first policy is again", func() bool { return i.allSay(401) })
	if status := i.ask(key); status != 200 {
		t.Errorf("after the rollback: %d", status)
	}
	if after := i.pods(); !slices.Equal(before, after) {
		t.Errorf("pods were replaced: %v, then %v", before, after)
	}
}

// uninstalls removes the release, and wants what NOTES.txt says to be left.
func (i *installation) uninstalls() {
	t := i.t
	shell(t, i.Cluster, i.dir, "helm uninstall tollgate --namespace tollgate --wait --timeout 3m")
	want := []string{"configmap/kube-root-ca.crt", "persistentvolumeclaim/data-tollgate-redis-0", "secret/tollgate", "secret/tollgate-bootstrap", "serviceaccount/default"}
	var got []string
	left := func() bool {
		got = strings.Fields(shell(t, i.Cluster, i.dir, `
		kubectl get all,configmaps,secrets,serviceaccounts,persistentvolumeclaims,networkpolicies,poddisruptionbudgets,roles,rolebindings,jobs,referencegrants --namespace tollgate --output name
		kubectl get securitypolicies,clienttrafficpolicies,envoyproxies,envoypatchpolicies --namespace orders --output name`))
		slices.Sort(got)
		return slices.Equal(got, want)
	}
	// Pods have time to drain, which Helm does not wait for.
	for end := time.Now().Add(limit * 3); !left(); {
		if time.Now().After(end) {
			t.Fatalf("left:\n%q, want\n%q", got, want)
		}
	}
}

// TestClusterInstallsAnUmbrella installs the chart as a part of another one.
func TestClusterInstallsAnUmbrella(t *testing.T) {
	var values strings.Builder
	values.WriteString("global: {team: platform}\ntollgate:\n  enabled: true\n")
	for line := range strings.Lines(strings.TrimSpace(trialValues)) {
		values.WriteString("  " + line)
	}
	i := prepare(t, values.String())
	chart, err := filepath.Abs("chart")
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(i.dir, "umbrella", "charts")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(folder, "tollgate"), os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	const about = "apiVersion: v2\nname: umbrella\nversion: 0.1.0\ndependencies:\n- {name: tollgate, version: '>=0.0.0-0', condition: tollgate.enabled}\n"
	if err := os.WriteFile(filepath.Join(i.dir, "umbrella", "Chart.yaml"), []byte(about), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(i.dir, "orders.yaml"), readFile(t, "policies/orders.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, i.Cluster, i.dir, `helm install platform umbrella --namespace tollgate --values values.yaml --set-file 'tollgate.policy.files.orders\.yaml=orders.yaml' --wait --timeout 3m`)
	if n := len(readyPods(t, i.Cluster, "tollgate", "platform-tollgate")); n != 2 {
		t.Errorf("%d pods are ready", n)
	}
	out, err := tryShell(t, i.Cluster, i.dir, `helm upgrade platform umbrella --namespace tollgate --reuse-values --set tollgate.replicas=3`)
	if err == nil || !strings.Contains(out, "replicas") {
		t.Errorf("a value that the chart does not have: %v\n%s", err, out)
	}
	shell(t, i.Cluster, i.dir, "helm uninstall platform --namespace tollgate --wait --timeout 3m")
}

// TestClusterSaysWhatIsMissing installs without the Secret, and with a wrong Redis: pods are not
// ready, and say why.
func TestClusterSaysWhatIsMissing(t *testing.T) {
	i := prepare(t, strings.Replace(trialValues, "admin: {enabled: true}\nbootstrap: {enabled: true, api: orders, plans: [standard]}\n", "", 1))
	if err := os.WriteFile(filepath.Join(i.dir, "orders.yaml"), readFile(t, "policies/orders.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, i.Cluster, i.dir, `
		kubectl delete secret tollgate --namespace tollgate
		helm install tollgate k8s/chart --namespace tollgate --values values.yaml --set-file 'policy.files.orders\.yaml=orders.yaml'`)
	await(t, "the status of a pod names the Secret", func() bool {
		var list core.PodList
		if err := i.Get(t.Context(), "/api/v1/namespaces/tollgate/pods?labelSelector=app.kubernetes.io/component=server", &list); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Items, func(p core.Pod) bool {
			return strings.Contains(fmt.Sprint(p.Status.ContainerStatuses), `secrets "tollgate" not found`)
		})
	})
	shell(t, i.Cluster, i.dir, `kubectl create secret generic tollgate --namespace tollgate --from-literal=pepper=0123456789abcdef0123456789abcdef --from-literal=redis-password=abcdef`)
	shell(t, i.Cluster, i.dir, `kubectl rollout status deployment/tollgate --namespace tollgate --timeout=2m`)
}
