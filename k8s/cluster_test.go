//go:build linux

package k8s

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"tollgate/k8s/kubetest"
)

// installLimit bounds what is waited for in a cluster: two replicas that are replaced one after the
// other, each ready for minReadySeconds, take most of it.
const installLimit = 3 * time.Minute

// startCluster starts a Kubernetes whose containers find this Tollgate, Debian's Redis and Envoy.
func startCluster(t *testing.T) *kubetest.Cluster {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return kubetest.Start(t, kubetest.Images{
		"tollgate": {
			Files:      map[string]string{"/usr/local/bin/tollgate": filepath.Join(root, "bin", "static", "tollgate")},
			Entrypoint: []string{"/usr/local/bin/tollgate"}, Env: []string{"PATH=/usr/local/bin"},
		},
		"redis": kubetest.Host(),
		"envoy": {Files: map[string]string{
			"/usr/local/bin/envoy": envoyBinary(t), "/usr/lib": "/usr/lib", "/lib": "/lib", "/lib64": "/lib64", "/bin": "/bin"}},
	})
}

// shell runs commands with kubectl as the cluster's administrator, in a folder in which k8s is.
func shell(t *testing.T, c *kubetest.Cluster, dir, script string) string {
	t.Helper()
	out, err := tryShell(t, c, dir, script)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return out
}

func tryShell(t *testing.T, c *kubetest.Cluster, dir, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*installLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NO_PROXY=*", "no_proxy=*", "KUBECONFIG="+c.Kubeconfig, "PATH="+c.Tools+":"+os.Getenv("PATH"), "HOME="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pageFolder returns a folder with what a reader of the page has: a checkout.
func pageFolder(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"k8s", "envoy"} {
		if err := os.Symlink(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pageBlock returns the block of shell commands of a page that holds a text.
func pageBlock(t *testing.T, page, text string) string {
	t.Helper()
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(readFile(t, page)), -1) {
		if strings.Contains(m[1], text) {
			return m[1]
		}
	}
	t.Fatalf("%s: no block with %q", page, text)
	return ""
}

// executePage runs a line of a page that runs a command in a pod.
func executePage(t *testing.T, c *kubetest.Cluster, line string, more ...string) (stdout string, err error) {
	t.Helper()
	m := regexp.MustCompile(`kubectl exec --namespace (\S+) deploy/(\S+) -- (.*)`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("not understood: %s", line)
	}
	pods := readyPods(t, c, m[1], m[2])
	stdout, stderr, err := c.Exec(t.Context(), m[1], pods[0].Name, "", nil, append(strings.Fields(m[3]), more...)...)
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", line, err, stderr)
	}
	return stdout, err
}

// readyPods returns the pods of a Deployment that are ready.
func readyPods(t *testing.T, c *kubetest.Cluster, namespace, deployment string) (out []core.Pod) {
	t.Helper()
	var d apps.Deployment
	if err := c.Get(t.Context(), "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+deployment, &d); err != nil {
		t.Fatal(err)
	}
	var labels []string
	for name, value := range d.Spec.Selector.MatchLabels {
		labels = append(labels, name+"="+value)
	}
	var pods core.PodList
	if err := c.Get(t.Context(), "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+strings.Join(labels, ","), &pods); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool {
			return c.Type == core.PodReady && c.Status == core.ConditionTrue
		}) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no pod of %s/%s is ready", namespace, deployment)
	}
	return out
}

// endpoints returns the addresses behind a Service's port, as a gateway's control plane finds them.
func endpoints(t *testing.T, c *kubetest.Cluster, namespace, service, port string) (out []string) {
	t.Helper()
	var list discovery.EndpointSliceList
	path := "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices?labelSelector=" + discovery.LabelServiceName + "=" + service
	if err := c.Get(t.Context(), path, &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		for _, p := range s.Ports {
			for _, e := range s.Endpoints {
				if *p.Name == port && *e.Conditions.Ready {
					out = append(out, net.JoinHostPort(e.Addresses[0], fmt.Sprint(*p.Port)))
				}
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("nothing is behind %s/%s", namespace, service)
	}
	return out
}

// startApplication starts what is behind the gateway. It answers with the headers that it got.
func startApplication(t *testing.T, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(r.Header)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// startEnvoy starts the pinned Envoy with a bootstrap, and returns when it is ready.
func startEnvoy(t *testing.T, bootstrap object) {
	t.Helper()
	data, err := json.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, envoyBinary(t), "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
	await(t, "Envoy is ready", func() bool {
		response, err := http.Get("http://127.0.0.1:9901/ready")
		return err == nil && response.Body.Close() == nil && response.StatusCode == 200
	})
}

func envoyBinary(t *testing.T) string {
	t.Helper()
	file := os.Getenv("ENVOY_BIN")
	if file == "" {
		file = filepath.Join("..", ".tools", "envoy")
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, "envoy")
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("no Envoy: %v", err)
	}
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		t.Fatal(err)
	}
	if file, err = filepath.Abs(file); err != nil {
		t.Fatal(err)
	}
	return file
}

// shippedEnvoy returns ../envoy/envoy.yaml in front of an API that is chosen by host, with Tollgate
// at addresses.
func shippedEnvoy(t *testing.T, tollgate []string) object {
	t.Helper()
	var root object
	if err := yaml.Unmarshal(readFile(t, "../envoy/envoy.yaml"), &root); err != nil {
		t.Fatal(err)
	}
	manager := dig(root, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config").(object)
	routes := manager["route_config"].(object)
	routes["virtual_hosts"] = slices.DeleteFunc(routes["virtual_hosts"].([]any), func(h any) bool { return h.(object)["name"] != "other" })
	dig(root, "static_resources", "clusters", 0, "load_assignment", "endpoints", 0).(object)["lb_endpoints"] = lbEndpoints(t, tollgate)
	return root
}

func lbEndpoints(t *testing.T, addresses []string) (out []any) {
	t.Helper()
	for _, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, object{"endpoint": object{"address": object{"socket_address": object{"address": host, "port_value": json.Number(port)}}}})
	}
	return out
}

// request sends a request through the Envoy that listens at address, and returns the status.
func request(t *testing.T, address, host, path, key string) (status int, body []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

// TestClusterFollowsThePage does what the page says: a trial with Helm, a key, and requests through
// Envoy; then a policy that is wrong, and one that is right again; then an Envoy in a pod.
func TestClusterFollowsThePage(t *testing.T) {
	c := startCluster(t)
	dir := pageFolder(t)
	shell(t, c, dir, pageBlock(t, "README.md", "helm install tollgate"))
	startApplication(t, "127.0.0.1:8080")
	startEnvoy(t, shippedEnvoy(t, endpoints(t, c, "tollgate", "tollgate-headless", "grpc")))
	ask := func(key string) int {
		status, _ := request(t, "127.0.0.1:10000", "api.example.com", "/v1/orders", key)
		return status
	}
	key := keyOfPage(t, c, "live")
	if status := ask(key); status != 200 {
		t.Errorf("with the key of the page: %d", status)
	}
	for name, wrong := range map[string]string{"without a key": "", "with a key that nobody has": key[:len(key)-1] + "x"} {
		if status := ask(wrong); status != 401 {
			t.Errorf("%s: %d", name, status)
		}
	}
	keepsPolicy(t, c, ask, key)
	runsAnEnvoy(t, c, dir)
}

// runsAnEnvoy follows the page about an Envoy of one's own, whose pods find Tollgate by its name.
func runsAnEnvoy(t *testing.T, c *kubetest.Cluster, dir string) {
	t.Helper()
	// The application is on this machine, and has the name that the page's bootstrap says.
	startApplication(t, "10.244.0.1:8080")
	shell(t, c, dir, `
		kubectl create namespace orders
		kubectl create service clusterip orders --namespace orders --tcp=8080:8080
		kubectl apply -f - <<-'END'
		{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: orders-a, namespace: orders, labels: {kubernetes.io/service-name: orders}},
		addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: ["10.244.0.1"], conditions: {ready: true}}]}
		END`)
	shell(t, c, dir, pageBlock(t, "plain-envoy.md", "kubectl create configmap envoy"))
	shell(t, c, dir, "kubectl rollout status deployment/envoy --namespace edge --timeout=2m")
	envoy := readyPods(t, c, "edge", "envoy")[0].Status.PodIP + ":10000"
	key := keyOfPage(t, c, "test")
	for name, r := range map[string]struct {
		host, key string
		want      int
	}{
		"with a key":   {"sandbox.example.com", key, 200},
		"without one":  {"sandbox.example.com", "", 401},
		"another host": {"nobody.example.com", key, 403},
	} {
		if status, _ := request(t, envoy, r.host, "/v1/orders", r.key); status != r.want {
			t.Errorf("through an Envoy of one's own, %s: %d, want %d", name, status, r.want)
		}
	}
	if out, err := tryShell(t, c, dir, "k8s/try-bypass.sh http://"+envoy+"/v1/orders sandbox.example.com"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// keyOfPage runs the page's line that makes a key, for an environment.
func keyOfPage(t *testing.T, c *kubetest.Cluster, environment string) string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^kubectl exec .* keys create .*$`).FindString(string(readFile(t, "README.md")))
	out, err := executePage(t, c, strings.Replace(line, "--env live", "--env "+environment, 1))
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`ak_(live|test)_\w+`).FindString(out)
	if key == "" {
		t.Fatalf("no key in:\n%s", out)
	}
	return key
}

// keepsPolicy breaks the policy in its ConfigMap, and mends it.
func keepsPolicy(t *testing.T, c *kubetest.Cluster, ask func(key string) int, key string) {
	t.Helper()
	const path = "/api/v1/namespaces/tollgate/configmaps/tollgate-policies"
	var before core.ConfigMap
	if err := c.Get(t.Context(), path, &before); err != nil {
		t.Fatal(err)
	}
	set := func(text string) {
		if err := c.Patch(t.Context(), path, object{"data": object{"orders.yaml": text}}); err != nil {
			t.Fatal(err)
		}
	}
	good := before.Data["orders.yaml"]
	set(strings.Replace(good, "scope: read}", "scope: reed}", 1))
	await(t, "each pod says that the new policy is wrong", func() bool { return everyPodSays(t, c, "reed") })
	if status := ask(key); status != 200 {
		t.Errorf("with a policy that is wrong: %d", status)
	}
	// Without a key, which has a limit: of a host that no policy names, another answer is given.
	set(strings.ReplaceAll(good, "api.example.com", "elsewhere.example.com"))
	await(t, "the new policy is in force, without a restart", func() bool { return ask("") == 403 })
	set(good)
	await(t, "the old one is again", func() bool {
		again := true
		for range 8 { // by both servers
			again = again && ask("") == 401
		}
		return again
	})
	if status := ask(key); status != 200 {
		t.Errorf("with the old policy again: %d", status)
	}
	for _, p := range readyPods(t, c, "tollgate", "tollgate") {
		if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("%s has restarted %d times", p.Name, n)
		}
	}
}

// everyPodSays reports whether the log of each pod holds a text.
func everyPodSays(t *testing.T, c *kubetest.Cluster, text string) bool {
	t.Helper()
	for _, p := range readyPods(t, c, "tollgate", "tollgate") {
		if !bytes.Contains([]byte(c.Log("tollgate", p.Name)), []byte(text)) {
			return false
		}
	}
	return true
}
