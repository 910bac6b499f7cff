package k8s

import (
	"net"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// workload is a Deployment.
type workload struct {
	name     string
	selector *meta.LabelSelector
	pod      core.PodTemplateSpec
}

func workloads(samples []sample) (out []workload) {
	for _, d := range objects[*apps.Deployment](samples) {
		out = append(out, workload{d.Name, d.Spec.Selector, d.Spec.Template})
	}
	return out
}

// tollgate returns the server's workload.
func tollgate(t *testing.T, samples []sample) workload {
	t.Helper()
	for _, w := range workloads(samples) {
		if w.name == "tollgate" {
			return w
		}
	}
	t.Fatal("no workload named tollgate")
	return workload{}
}

// The namespace enforces the restricted profile, so a pod that breaks it would never start.
func TestPodsAreRestricted(t *testing.T) {
	for _, w := range workloads(readSamples(t)) {
		p := w.pod.Spec
		if p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken {
			t.Errorf("%s: gets a token of the Kubernetes API", w.name)
		}
		if c := p.SecurityContext; c == nil || c.RunAsNonRoot == nil || !*c.RunAsNonRoot || c.SeccompProfile == nil || c.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: pod securityContext %+v is not restricted", w.name, c)
		}
		for _, c := range p.Containers {
			s := c.SecurityContext
			if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
				s.Capabilities == nil || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
				t.Errorf("%s: container %s: securityContext %+v is not restricted", w.name, c.Name, s)
			}
			if !strings.Contains(c.Image, ":") || strings.HasSuffix(c.Image, ":latest") {
				t.Errorf("%s: image %q names no version", w.name, c.Image)
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s: container %s has no memory limit or no CPU request", w.name, c.Name)
			}
		}
	}
}

func TestProbesNamePorts(t *testing.T) {
	for _, w := range workloads(readSamples(t)) {
		for _, c := range w.pod.Spec.Containers {
			for kind, p := range map[string]*core.Probe{"liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
				port := ""
				switch {
				case p == nil:
					t.Errorf("%s: no %s probe", w.name, kind)
					continue
				case p.HTTPGet != nil:
					port = p.HTTPGet.Port.String()
				case p.TCPSocket != nil:
					port = p.TCPSocket.Port.String()
				}
				if portOf(w, port) == 0 {
					t.Errorf("%s: the %s probe's port %q is no port of the container", w.name, kind, port)
				}
			}
		}
	}
}

// portOf returns the number of a named container port, 0 for a name that the pod does not have.
func portOf(w workload, name string) int32 {
	for _, c := range w.pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == name {
				return p.ContainerPort
			}
		}
	}
	return 0
}

func TestVolumesAreThere(t *testing.T) {
	samples := readSamples(t)
	configMaps := map[string]bool{}
	for _, c := range objects[*core.ConfigMap](samples) {
		configMaps[c.Name] = true
	}
	for _, w := range workloads(samples) {
		volumes := map[string]bool{}
		for _, v := range w.pod.Spec.Volumes {
			volumes[v.Name] = true
			if v.Projected == nil {
				continue
			}
			for _, s := range v.Projected.Sources {
				if !configMaps[s.ConfigMap.Name] {
					t.Errorf("%s: no ConfigMap %s", w.name, s.ConfigMap.Name)
				}
			}
		}
		for _, m := range w.pod.Spec.Containers[0].VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s: no volume %s", w.name, m.Name)
			}
			if m.SubPath != "" {
				t.Errorf("%s: volume %s has a subPath, so its changes are never seen", w.name, m.Name)
			}
		}
	}
}

// arguments maps the server's flags, without dashes, to their values.
func arguments(t *testing.T, w workload) map[string]string {
	t.Helper()
	args := w.pod.Spec.Containers[0].Args
	if len(args) == 0 || args[0] != "serve" {
		t.Fatalf("%s does not serve: %q", w.name, args)
	}
	out := map[string]string{}
	for _, a := range args[1:] {
		name, value, ok := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		if !ok || name == a {
			t.Errorf("%q is not of the form --flag=value", a)
		}
		out[name] = value
	}
	return out
}

func TestArgumentsMatchThePod(t *testing.T) {
	w := tollgate(t, readSamples(t))
	args := arguments(t, w)
	for flag, port := range map[string]string{"grpc-address": "grpc", "http-address": "http"} {
		_, number, err := net.SplitHostPort(args[flag])
		if want := resource.NewQuantity(int64(portOf(w, port)), resource.DecimalSI).String(); err != nil || number != want {
			t.Errorf("--%s=%s, but the port %s is %s", flag, args[flag], port, want)
		}
	}
	for _, flag := range []string{"policy", "pepper-file"} {
		if !mounted(w, args[flag]) {
			t.Errorf("--%s=%s is in no volume", flag, args[flag])
		}
	}
}

// mounted reports whether a file or folder is a mounted volume, or an item of a mounted Secret.
func mounted(w workload, file string) bool {
	for _, m := range w.pod.Spec.Containers[0].VolumeMounts {
		if file == m.MountPath {
			return true
		}
		for _, v := range w.pod.Spec.Volumes {
			if v.Name != m.Name || v.Secret == nil {
				continue
			}
			for _, i := range v.Secret.Items {
				if path.Join(m.MountPath, i.Path) == file {
					return true
				}
			}
		}
	}
	return false
}

// drainTimeout is the default of --drain-timeout.
const drainTimeout = 20 * time.Second

func TestPodHasTimeToDrain(t *testing.T) {
	w := tollgate(t, readSamples(t))
	p := w.pod.Spec
	// Before SIGTERM a pod says that it is well, so a hook that waits is time in which nobody hears
	// of its end.
	if p.Containers[0].Lifecycle != nil {
		t.Error("a lifecycle hook")
	}
	delay, err := time.ParseDuration(arguments(t, w)["drain-delay"])
	if err != nil || delay < 5*time.Second {
		t.Errorf("--drain-delay %s: %v; want 5 s or more, because control planes hear of pods later than health checks do", delay, err)
	}
	need := int64((delay + drainTimeout).Seconds()) + 10
	if p.TerminationGracePeriodSeconds == nil || *p.TerminationGracePeriodSeconds < need {
		t.Errorf("terminationGracePeriodSeconds %v, want at least %d", p.TerminationGracePeriodSeconds, need)
	}
}

// keyBytes is what a key in memory takes with the longest names (--cache-keys), serverBytes what
// the server takes beside them. It sets Go's memory limit by the container's, unless GOMEMLIMIT is
// set.
const (
	keyBytes    = 800
	serverBytes = 64 << 20
)

func TestMemoryIsEnough(t *testing.T) {
	w := tollgate(t, readSamples(t))
	c := w.pod.Spec.Containers[0]
	n, err := strconv.ParseInt(arguments(t, w)["cache-keys"], 10, 64)
	if limit := c.Resources.Limits.Memory().Value() * 9 / 10; err != nil || n*keyBytes+serverBytes > limit {
		t.Errorf("%d keys do not fit into 90 %% of %s: %v", n, c.Resources.Limits.Memory(), err)
	}
	for _, e := range c.Env {
		if e.Name == "GOMEMLIMIT" {
			t.Error("GOMEMLIMIT, which does not follow the container's limit")
		}
	}
}

// The Secret is made by hand, so the page's command must make every key that a pod reads.
func TestSecretsAreDescribed(t *testing.T) {
	text := string(readFile(t, "README.md"))
	described := map[string]bool{}
	for _, m := range regexp.MustCompile(`--from-(?:literal|file)=([\w.-]+)=`).FindAllStringSubmatch(text, -1) {
		described[m[1]] = true
	}
	if !strings.Contains(text, "create secret generic tollgate --namespace tollgate") {
		t.Error("nothing says how to make the Secret")
	}
	for _, w := range workloads(readSamples(t)) {
		for _, e := range w.pod.Spec.Containers[0].Env {
			if e.ValueFrom != nil && (e.ValueFrom.SecretKeyRef.Name != "tollgate" || !described[e.ValueFrom.SecretKeyRef.Key]) {
				t.Errorf("%s: %s reads a secret that nothing describes", w.name, e.Name)
			}
		}
		for _, v := range w.pod.Spec.Volumes {
			if v.Secret == nil {
				continue
			}
			for _, i := range v.Secret.Items {
				if v.Secret.SecretName != "tollgate" || !described[i.Key] {
					t.Errorf("%s: volume %s reads a secret that nothing describes", w.name, v.Name)
				}
			}
		}
	}
}
