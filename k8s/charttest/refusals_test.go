package charttest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A wrong value is refused with the path at which it stands.
func TestRefusals(t *testing.T) {
	for _, c := range []struct{ change, path, says string }{
		{"replicaCount=0", "/replicaCount", "minimum"},
		{"replicaCount=two", "/replicaCount", "want integer"},
		{"replicas=3", "", "'replicas' not allowed"},
		{"server.deadlin=1s", "/server", "'deadlin' not allowed"},
		{"server.deadline=soon", "/server/deadline", "pattern"},
		{"server.limits=none", "/server/limits", "'auto', 'exact'"},
		{"server.extraArgs[0]=--replicas=9", "/server/extraArgs/0", "not"},
		{"server.extraArgs[0]=--tls-cert=x", "/server/extraArgs/0", "not"},
		{"server.extraArgs[0]=reflection", "/server/extraArgs/0", "pattern"},
		{"image.repository=example.com/tollgate:1.0", "/image/repository", "pattern"},
		{"image.digest=sha256:12", "/image/digest", "pattern"},
		{"image.pullPolicy=always", "/image/pullPolicy", "'Always'"},
		{"podDisruptionBudget.maxUnavailable=0", "/podDisruptionBudget/maxUnavailable", "minimum"},
		{"podDisruptionBudget.minAvailable=1", "/podDisruptionBudget", "'minAvailable' not allowed"},
		{"podDisruptionBudget.unhealthyPodEvictionPolicy=Never", "/podDisruptionBudget/unhealthyPodEvictionPolicy", "'AlwaysAllow'"},
		{`policy.files.orders\.json=x`, "/policy/files", "'orders.json' not allowed"},
		{"autoscaling.targetCPUUtilizationPercentage=0", "/autoscaling/targetCPUUtilizationPercentage", "minimum"},
		{"redis.ports[0]=70000", "/redis/ports/0", "maximum"},
		{"networkPolicy.envoyNamespaces=istio-system", "/networkPolicy/envoyNamespaces", "want array"},
		{"networkPolicy.enabled=maybe", "/networkPolicy/enabled", "want boolean"},
		{"extraEnv[0].name=TOLLGATE_STORE", "/extraEnv/0/name", "not"},
		{"extraVolumes[0].name=pepper", "/extraVolumes/0/name", "not"},
		{"keys.apply.extraArgs[0]=--store=redis://:password@redis:6379", "/keys/apply/extraArgs/0", "not"},
		{"test.host=null", "/test", "missing property 'host'"},
		{"topologySpread.whenUnsatisfiable=Always", "/topologySpread/whenUnsatisfiable", "'DoNotSchedule'"},
		{"image=null", "", "missing property 'image'"},
		{"tls.certManager=null", "/tls", "missing property 'certManager'"},

		{"image.repository=", "image.repository: ", "make image"},
		{"redis.existingSecret=", "redis.existingSecret: ", "redis.bundled.enabled"},
		{"redis.bundled.enabled=true", "redis.existingSecret: ", "not together"},
		{"pepper.existingSecret=", "pepper.existingSecret: ", "name the Secret"},
		{"policy.files=null", "policy: ", "policy.existingConfigMap"},
		{"tls.client.enabled=true", "tls.client.enabled: ", "needs"},
		{"tls.certManager.enabled=true", "tls.certManager.issuerRef.name: ", "Issuer"},
		{"autoscaling.enabled=true,autoscaling.minReplicas=20", "autoscaling.minReplicas: ", "more than"},
		{"autoscaling.enabled=true,resources.requests=null", "resources.requests.cpu: ", "needed"},
		{"drain.terminationGracePeriodSeconds=20", "drain.terminationGracePeriodSeconds: ", "25"},
		{"metrics.podMonitor.enabled=true,metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.enabled: ", "twice"},
		{"extraEnv[0].name=A,extraEnv[1].name=A", "extraEnv[1].name: ", "twice"},
		{"admin.enabled=true", "keys.existingSecret: ", "command line"},
		{"manage.enabled=true", "manage.existingSecret: ", "store acl manage"},
		{"manage.enabled=true,manage.existingSecret=m", "manage.tlsSecret: ", "tls.crt"},
		{"manage.trustedProxies={a b}", "/manage/trustedProxies/0", "pattern"},
		{"bootstrap.enabled=true,keys.existingSecret=cli", "bootstrap.api: ", "name the API"},
		{"bootstrap.enabled=true,bootstrap.api=orders,keys.existingSecret=cli,bootstrap.secretName=tollgate", "bootstrap.secretName: ", "something else"},
		{"bootstrap.enabled=true,bootstrap.api=orders,keys.existingSecret=tollgate-bootstrap", "bootstrap.secretName: ", "something else"},
		{"keys.apply.enabled=true,keys.existingSecret=cli", "keys.apply.existingSecret: ", "file of keys"},
	} {
		t.Run(c.change, func(t *testing.T) {
			_, err := standard().render(loadChart(t), minimal(t, c.change))
			if err == nil {
				t.Fatal("accepted")
			}
			if c.path != "" && !strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want %q and %q in: %v", c.path, c.says, err)
			}
		})
	}
}

// Helm keeps the values of each release in a Secret of 1 MB, so there is a bound.
func TestPoliciesInValuesAreBounded(t *testing.T) {
	v := minimal(t)
	files := v["policy"].(values)["files"].(values)
	files["large.yaml"] = strings.Repeat("#", 256<<10-len(files["orders.yaml"].(string)))
	if _, err := standard().render(loadChart(t), v); err != nil {
		t.Fatal(err)
	}
	files["large.yaml"] = files["large.yaml"].(string) + "#"
	if _, err := standard().render(loadChart(t), v); err == nil || !strings.Contains(err.Error(), "policy.files: 262145 bytes") {
		t.Errorf("got %v", err)
	}
}

// The schema is read by Helm 3 and 4, Argo CD, Terraform and editors: draft-07, and it refers to
// nothing outside. Every object but those of Kubernetes is closed.
func TestSchemaStandsAlone(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(readFile(t, chartFolder+"/values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	if schema["$schema"] != "http://json-schema.org/draft-07/schema#" {
		t.Errorf("$schema %v", schema["$schema"])
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if _, ok := v["$ref"]; ok {
				t.Errorf("%s: a $ref", path)
			}
			_, named := v["properties"].(map[string]any)
			if named && v["additionalProperties"] != false && path != "/extraEnv/items" && path != "/extraVolumes/items" {
				t.Errorf("%s: takes any property", path)
			}
			for key, sub := range v {
				if key == "properties" {
					for name, property := range sub.(map[string]any) {
						walk(path+"/"+name, property)
					}
				} else {
					walk(path+"/"+key, sub)
				}
			}
		case []any:
			for i, sub := range v {
				walk(fmt.Sprint(path, "/", i), sub)
			}
		}
	}
	walk("", schema)
	properties := schema["properties"].(map[string]any)
	for _, name := range []string{"global", "enabled"} {
		if _, ok := properties[name]; !ok {
			t.Errorf("an umbrella chart's %q is refused", name)
		}
	}
	// What values.yaml has, and only that, is in the schema.
	var names []string
	for name := range readValues(t, chartFolder+"/values.yaml") {
		names = append(names, name)
	}
	names = append(names, "enabled", "global")
	for name := range properties {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not in values.yaml", name)
		}
	}
}
