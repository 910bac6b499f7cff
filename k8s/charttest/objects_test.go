package charttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	strict "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// object is one that the chart makes.
type object struct {
	meta.TypeMeta `json:",inline"`
	Metadata      meta.ObjectMeta `json:"metadata"`
	json          []byte
	typed         any
}

func (o object) String() string { return o.Kind + " " + o.Metadata.Name }

// hook reports whether Helm runs it at certain times, and keeps it out of the release.
func (o object) hook() bool { return o.Metadata.Annotations["helm.sh/hook"] != "" }

func newTyped(apiVersion, kind string) any {
	switch apiVersion + " " + kind {
	case "v1 ServiceAccount":
		return new(core.ServiceAccount)
	case "v1 ConfigMap":
		return new(core.ConfigMap)
	case "v1 Service":
		return new(core.Service)
	case "v1 Pod":
		return new(core.Pod)
	case "apps/v1 Deployment":
		return new(apps.Deployment)
	case "apps/v1 StatefulSet":
		return new(apps.StatefulSet)
	case "batch/v1 Job":
		return new(batch.Job)
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return new(autoscaling.HorizontalPodAutoscaler)
	case "policy/v1 PodDisruptionBudget":
		return new(disruption.PodDisruptionBudget)
	case "networking.k8s.io/v1 NetworkPolicy":
		return new(network.NetworkPolicy)
	case "rbac.authorization.k8s.io/v1 Role":
		return new(rbac.Role)
	case "rbac.authorization.k8s.io/v1 RoleBinding":
		return new(rbac.RoleBinding)
	case "cert-manager.io/v1 Certificate":
		return new(certmanager.Certificate)
	case "monitoring.coreos.com/v1 PodMonitor":
		return new(monitoring.PodMonitor)
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return new(monitoring.ServiceMonitor)
	case "monitoring.coreos.com/v1 PrometheusRule":
		return new(monitoring.PrometheusRule)
	}
	return nil
}

// decode reads one YAML document; a duplicate or unknown field, also in another case, is an error.
func decode(document string) (object, error) {
	data, err := yaml.YAMLToJSONStrict([]byte(document))
	if err != nil {
		return object{}, err
	}
	o := object{json: data}
	if err := json.Unmarshal(data, &o); err != nil {
		return object{}, err
	}
	if o.typed = newTyped(o.APIVersion, o.Kind); o.typed == nil {
		return o, fmt.Errorf("no Go type for %s %s", o.APIVersion, o.Kind)
	}
	faults, err := strict.UnmarshalStrict(data, o.typed)
	return o, errors.Join(append(faults, err)...)
}

// foreign are kinds that templates of other pages make (integration); their own tests decode them.
var foreign = regexp.MustCompile(`(?m)^apiVersion: "?(gateway|security\.istio|networking\.istio|telemetry\.istio)`)

func decodeAll(t *testing.T, rendered string) (all []object) {
	t.Helper()
	for _, document := range regexp.MustCompile(`(?m)^---$`).Split(rendered, -1) {
		if strings.TrimSpace(regexp.MustCompile(`(?m)^\s*#.*$`).ReplaceAllString(document, "")) == "" || foreign.MatchString(document) {
			continue
		}
		o, err := decode(document)
		if err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		all = append(all, o)
	}
	return all
}

// of returns the objects of a Go type.
func of[T any](all []object) (out []T) {
	for _, o := range all {
		if typed, ok := o.typed.(T); ok {
			out = append(out, typed)
		}
	}
	return out
}

// named returns the object of a Go type with a name.
func named[T interface{ GetName() string }](t *testing.T, all []object, name string) T {
	t.Helper()
	for _, o := range of[T](all) {
		if o.GetName() == name {
			return o
		}
	}
	t.Fatalf("no %T %s", *new(T), name)
	return *new(T)
}

// pods returns what pods are made of, by the object that makes them.
func pods(all []object) map[string]core.PodTemplateSpec {
	out := map[string]core.PodTemplateSpec{}
	for _, o := range all {
		switch typed := o.typed.(type) {
		case *apps.Deployment:
			out[o.String()] = typed.Spec.Template
		case *apps.StatefulSet:
			out[o.String()] = typed.Spec.Template
		case *batch.Job:
			out[o.String()] = typed.Spec.Template
		case *core.Pod:
			out[o.String()] = core.PodTemplateSpec{ObjectMeta: typed.ObjectMeta, Spec: typed.Spec}
		}
	}
	return out
}

// matrix renders the chart for every file of ci and for single switches beside it.
func matrix(t *testing.T) map[string][]object {
	t.Helper()
	all := map[string][]object{}
	for name, v := range valuesFiles(t) {
		all[name] = objectsOf(t, v)
	}
	for _, changes := range [][]string{
		{"autoscaling.enabled=true"}, {"replicaCount=1"}, {"podDisruptionBudget.enabled=false"}, {"podDisruptionBudget.maxUnavailable=50%"},
		{"networkPolicy.enabled=false"}, {"networkPolicy.egress.enabled=false"}, {"networkPolicy.egress.https=false"}, {"networkPolicy.envoyNamespaces=null"},
		{"serviceAccount.create=false"}, {"tls.existingSecret=cert"}, {"tls.existingSecret=cert", "tls.client.enabled=true"},
		{"policy.check=false"}, {"metrics.podMonitor.enabled=true"}, {"metrics.serviceMonitor.enabled=true"}, {"metrics.prometheusRule.enabled=true"},
		{"metrics.dashboard.enabled=true"}, {"fullnameOverride=edge"}, {"nameOverride=gate"}, {"image.tag=null"}, {"resources.limits=null"},
		{"nodeSelector=null"}, {"commonLabels=null", "podAnnotations=null", "service.annotations=null"}, {"test.existingSecret=key"}, {"policy.existingConfigMap=more"},
	} {
		all[strings.Join(changes, ",")] = objectsOf(t, minimal(t, changes...))
	}
	return all
}

func TestObjectsAreDecodedStrictly(t *testing.T) {
	for name, all := range matrix(t) {
		seen := map[string]bool{}
		for _, o := range all {
			if seen[o.String()] || o.Metadata.Name == "" || o.Metadata.Namespace != "tollgate" {
				t.Errorf("%s: %s: twice, without a name, or in the namespace %q", name, o, o.Metadata.Namespace)
			}
			seen[o.String()] = true
			if o.Metadata.Labels["app.kubernetes.io/instance"] != "tollgate" && o.Metadata.Name != "tollgate-extra" {
				t.Errorf("%s: %s: labels %v", name, o, o.Metadata.Labels)
			}
		}
		if len(all) < 5 {
			t.Errorf("%s: only %d objects", name, len(all))
		}
	}
}

// Server-side apply refuses a list with a name or a port twice, which the older way swallowed.
func TestListsNameEachThingOnce(t *testing.T) {
	for name, all := range matrix(t) {
		for _, o := range of[*core.Service](all) {
			unique(t, name+": Service "+o.Name, o.Spec.Ports, func(p core.ServicePort) string { return p.Name })
		}
		for maker, p := range pods(all) {
			where := name + ": " + maker
			unique(t, where, p.Spec.Volumes, func(v core.Volume) string { return v.Name })
			for _, c := range p.Spec.Containers {
				unique(t, where, c.Env, func(e core.EnvVar) string { return e.Name })
				unique(t, where, c.Ports, func(p core.ContainerPort) string { return p.Name })
				unique(t, where, c.VolumeMounts, func(m core.VolumeMount) string { return m.MountPath })
				for _, m := range c.VolumeMounts {
					if !slices.ContainsFunc(append(p.Spec.Volumes, claims(all)...), func(v core.Volume) bool { return v.Name == m.Name }) {
						t.Errorf("%s: no volume %s", where, m.Name)
					}
					if m.SubPath != "" {
						t.Errorf("%s: %s is mounted by subPath: changes are never seen", where, m.Name)
					}
				}
			}
		}
	}
}

// claims are the volumes that StatefulSets make.
func claims(all []object) (out []core.Volume) {
	for _, s := range of[*apps.StatefulSet](all) {
		for _, c := range s.Spec.VolumeClaimTemplates {
			out = append(out, core.Volume{Name: c.Name})
		}
	}
	return out
}

func unique[T any](t *testing.T, where string, list []T, key func(T) string) {
	t.Helper()
	seen := map[string]bool{}
	for _, e := range list {
		if seen[key(e)] {
			t.Errorf("%s: %s is there twice", where, key(e))
		}
		seen[key(e)] = true
	}
}
