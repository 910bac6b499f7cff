//go:build linux

package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limit bounds the start of the control plane. It takes some seconds.
const limit = 2 * time.Minute

// adminToken is that of the administrator, in a network that nobody else is in.
const adminToken = "kubetest-admin"

// Cluster is a Kubernetes of one node.
type Cluster struct {
	*Client
	// Kubeconfig is a file for kubectl and helm.
	Kubeconfig string
	// Tools is the folder of kubectl.
	Tools string

	dir  string
	node *node
}

// Image is what a container of some image finds in its root folder.
type Image struct {
	// Files are paths in the container, and the files or folders of this machine that are there.
	Files map[string]string
	// Entrypoint and Env are those of the image.
	Entrypoint, Env []string
}

// Images maps an image's name, without registry and tag, to what is in it.
type Images map[string]Image

// Start starts a cluster that ends with the test. It skips the test where its parts are missing,
// and fails it where TOLLGATE_REQUIRE says that they may not be.
func Start(t *testing.T, images Images) *Cluster {
	t.Helper()
	tools, err := ready()
	if err != nil && !strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "kubernetes") {
		t.Skipf("SKIPPED: no Kubernetes (make test-k8s): %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Tools: tools, dir: temporary(t)}
	pool, err := writeCertificates(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Client = newClient("https://"+hostAddress+":6443", adminToken, pool)
	if err := c.writeAccess(); err != nil {
		t.Fatal(err)
	}
	if err := openNetwork(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c.startControlPlane(ctx, t)
	c.node = newNode(c, images)
	if err := c.node.register(ctx); err != nil {
		t.Fatal(err)
	}
	c.node.serveLogs(t)
	stopped := make(chan struct{})
	running, stop := context.WithCancel(context.Background())
	go func() {
		defer close(stopped)
		c.node.run(running)
	}()
	t.Cleanup(func() {
		stop()
		<-stopped
		if t.Failed() {
			c.node.tell(t)
		}
	})
	return c
}

// temporary makes a folder that goes with the test, unless something is still mounted in it.
func temporary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubetest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), " "+dir+"/") {
			t.Errorf("%s: left, because of what is mounted in it (%v)", dir, err)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// ready returns the folder of the programs, or says what is missing.
func ready() (tools string, err error) {
	tools = os.Getenv("TOLLGATE_KUBERNETES")
	if tools == "" {
		return "", errors.New("TOLLGATE_KUBERNETES names no folder with kube-apiserver")
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubectl"} {
		if _, err := os.Stat(filepath.Join(tools, name)); err != nil {
			return "", err
		}
	}
	if os.Geteuid() != 0 {
		return "", errors.New("containers have users and networks of their own, which takes root")
	}
	if os.Getpid() != 1 {
		return "", errors.New("this process must be the first of its own namespaces, which end with it: unshare --net --mount --pid --fork --kill-child")
	}
	return tools, nil
}

// writeAccess writes the administrator's token, for the API server and as a kubeconfig.
func (c *Cluster) writeAccess() error {
	c.Kubeconfig = filepath.Join(c.dir, "kubeconfig")
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: kubetest, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: admin, user: {token: %s}}]
contexts: [{name: admin, context: {cluster: kubetest, user: admin}}]
current-context: admin
`, c.base, filepath.Join(c.dir, "ca.crt"), adminToken)
	return errors.Join(
		os.WriteFile(filepath.Join(c.dir, "tokens.csv"), []byte(adminToken+",admin,admin,system:masters\n"), 0o600),
		os.WriteFile(c.Kubeconfig, []byte(config), 0o600))
}

// controllers are those that Tollgate's objects need. What watches over nodes is left out:
// this node does not fail.
const controllers = "deployment-controller,replicaset-controller,statefulset-controller,job-controller,endpointslice-controller," +
	"serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller,garbage-collector-controller,disruption-controller," +
	"ttl-after-finished-controller"

func (c *Cluster) startControlPlane(ctx context.Context, t *testing.T) {
	t.Helper()
	file := func(name string) string { return filepath.Join(c.dir, name) }
	c.start(t, "etcd", "--data-dir="+file("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380")
	c.start(t, "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address="+hostAddress, "--advertise-address="+hostAddress,
		"--cert-dir="+file("certificates"), "--tls-cert-file="+file("server.crt"), "--tls-private-key-file="+file("server.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+file("accounts.key"),
		"--service-account-signing-key-file="+file("accounts.key"), "--service-cluster-ip-range=10.96.0.0/16",
		"--token-auth-file="+file("tokens.csv"), "--authorization-mode=RBAC", "--kubelet-preferred-address-types=InternalIP", "--profiling=false")
	await(ctx, t, "the API server is ready", func() bool { return c.Get(ctx, "/readyz", nil) == nil })
	c.start(t, "kube-controller-manager", "--kubeconfig="+c.Kubeconfig, "--leader-elect=false", "--controllers="+controllers,
		"--service-account-private-key-file="+file("accounts.key"), "--root-ca-file="+file("ca.crt"), "--kube-api-qps=200", "--kube-api-burst=400",
		"--secure-port=0", "--profiling=false")
	await(ctx, t, "the controllers work", func() bool {
		return c.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil) == nil
	})
}

// start runs a program of the control plane, which is killed when the test ends.
func (c *Cluster) start(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(c.Tools, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, tail(log.Name(), 4096))
		}
	})
}

// tail returns the last bytes of a file.
func tail(file string, size int) []byte {
	text, _ := os.ReadFile(file)
	return text[max(0, len(text)-size):]
}

// await waits until ready says so.
func await(ctx context.Context, t *testing.T, what string, ready func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, ctx.Err())
		}
	}
}
