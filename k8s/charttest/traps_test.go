package charttest

import (
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"

	chart "helm.sh/helm/v4/pkg/chart/v2"
)

// umbrella is a chart that has ours as a part, switched on by tollgate.enabled.
func umbrella(t *testing.T) *chart.Chart {
	t.Helper()
	parent := &chart.Chart{Metadata: &chart.Metadata{
		APIVersion: chart.APIVersionV2, Name: "platform", Version: "1.0.0",
		Dependencies: []*chart.Dependency{{Name: "tollgate", Version: ">=0.0.0-0", Condition: "tollgate.enabled"}},
	}}
	parent.AddDependency(loadChart(t))
	return parent
}

func TestAsPartOfAnUmbrellaChart(t *testing.T) {
	v := minimal(t)
	v["enabled"] = true
	r := release{name: "platform", namespace: "edge"}
	rendered, err := r.render(umbrella(t), values{"tollgate": v, "global": values{"imageRegistry": "registry.example.com", "anything": []any{1, "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	server := named[*apps.Deployment](t, decodeAll(t, text(rendered)), "platform-tollgate")
	if server.Namespace != "edge" || server.Labels["app.kubernetes.io/instance"] != "platform" {
		t.Errorf("%s, %v", server.Namespace, server.Labels)
	}
	v["enabled"] = false
	if rendered, err = r.render(umbrella(t), values{"tollgate": v}); err != nil || strings.Contains(text(rendered), "kind:") {
		t.Errorf("switched off: %v\n%s", err, text(rendered))
	}
	v["enabled"] = true
	v["replicaCount"] = "3"
	if _, err := r.render(umbrella(t), values{"tollgate": v}); err == nil || !strings.Contains(err.Error(), "/replicaCount") {
		t.Errorf("a fault in the part: %v", err)
	}
}

// helm --set-string, environment variables of Argo CD and templates of templates make texts of
// numbers. They are refused, and what must be a text may look like a number.
func TestNumbersAsStrings(t *testing.T) {
	for _, path := range []string{"replicaCount", "drain.delaySeconds", "minReadySeconds", "server.cacheKeys"} {
		v := minimal(t)
		at := v
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			if at[p] == nil {
				at[p] = values{}
			}
			at = at[p].(values)
		}
		at[parts[len(parts)-1]] = "3"
		if _, err := standard().render(loadChart(t), v); err == nil || !strings.Contains(err.Error(), "/"+strings.Join(parts, "/")) {
			t.Errorf("%s: %v", path, err)
		}
	}
	v := minimal(t)
	v["image"].(values)["tag"] = "1.10"
	v["podAnnotations"] = values{"a": "1", "b": "true"}
	server := named[*apps.Deployment](t, objectsOf(t, v), "tollgate")
	if image := server.Spec.Template.Spec.Containers[0].Image; image != "tollgate:1.10" || server.Spec.Template.Annotations["b"] != "true" {
		t.Errorf("%s, %v", image, server.Spec.Template.Annotations)
	}
	v["image"].(values)["tag"] = 1.1
	if _, err := standard().render(loadChart(t), v); err == nil || !strings.Contains(err.Error(), "/image/tag") {
		t.Errorf("a tag without quotes: %v", err)
	}
}

// A large whole number stays one: Helm's values are floating-point, which templates write as 1e+06.
func TestLargeNumbers(t *testing.T) {
	server := named[*apps.Deployment](t, objectsOf(t, minimal(t, "server.cacheKeys=2000000")), "tollgate")
	if got := flagsOf(server.Spec.Template.Spec.Containers[0].Args)["--cache-keys"]; got != "2000000" {
		t.Errorf("--cache-keys=%s", got)
	}
}

// null takes a default away.
func TestNullRemoves(t *testing.T) {
	server := named[*apps.Deployment](t, objectsOf(t, minimal(t, "resources.limits=null", "resources.requests.memory=null")), "tollgate")
	r := server.Spec.Template.Spec.Containers[0].Resources
	if len(r.Limits) > 0 || len(r.Requests) != 1 || r.Requests.Cpu().String() != "250m" {
		t.Errorf("%+v", r)
	}
	for _, section := range []string{
		"commonLabels", "commonAnnotations", "podLabels", "podAnnotations", "nodeSelector", "tolerations", "affinity", "extraEnv", "extraVolumes",
		"extraVolumeMounts", "extraObjects", "imagePullSecrets", "resources", "priorityClassName", "nameOverride", "fullnameOverride", "service.annotations",
		"serviceAccount.annotations", "serviceAccount.name", "networkPolicy.monitoringNamespaces", "networkPolicy.egress.redisTo", "networkPolicy.egress.extra", "networkPolicy.extraIngress",
		"server.extraArgs", "pepper.olderKeys", "policy.existingConfigMaps", "test.context", "image.tag", "image.registry", "image.digest", "jobs.resources", "autoscaling.behavior", "redis.tlsSecret", "keys.existingSecret",
	} {
		if objects := objectsOf(t, minimal(t, section+"=null")); len(objects) < 7 {
			t.Errorf("%s: %d objects", section, len(objects))
		}
	}
}

// A long name leaves room for what is appended: a label has 63 characters.
func TestLongNames(t *testing.T) {
	r := release{name: strings.Repeat("a-long-name-", 4) + "x", namespace: "edge"} // Helm's limit is 53
	v := valuesFiles(t)["trial"]
	rendered, err := r.render(loadChart(t), v)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range decodeAll(t, text(rendered)) {
		most := 63
		if o.Kind == "StatefulSet" { // whose pods have a label with the name and ten characters more
			most = 52
		}
		if len(o.Metadata.Name) > most || strings.HasSuffix(o.Metadata.Name, "-") {
			t.Errorf("%s: %d characters", o, len(o.Metadata.Name))
		}
	}
}

// Two releases in one namespace are kept apart.
func TestTwoReleases(t *testing.T) {
	names := map[string]bool{}
	for _, name := range []string{"blue", "green"} {
		rendered, err := release{name: name, namespace: "edge"}.render(loadChart(t), valuesFiles(t)["production"])
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range decodeAll(t, text(rendered)) {
			if names[o.String()] {
				t.Errorf("%s is of both", o)
			}
			names[o.String()] = true
			if s, ok := o.typed.(*core.Service); ok && s.Spec.Selector["app.kubernetes.io/instance"] != name {
				t.Errorf("%s selects %v", o, s.Spec.Selector)
			}
		}
	}
}
