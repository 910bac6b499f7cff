package charttest

import (
	"encoding/json"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// The monitors find the server's pods and their port of metrics; the label job is the release.
func TestMonitorsFindThePods(t *testing.T) {
	server := func(all []object) core.PodTemplateSpec { return pods(all)["Deployment tollgate"] }
	matches := func(s meta.LabelSelector, set map[string]string) bool {
		selector, err := meta.LabelSelectorAsSelector(&s)
		return err == nil && selector.Matches(labels.Set(set))
	}
	all := objectsOf(t, minimal(t, "metrics.podMonitor.enabled=true", "metrics.podMonitor.labels.release=prometheus"))
	pod := named[*monitoring.PodMonitor](t, all, "tollgate")
	if !matches(pod.Spec.Selector, server(all).Labels) || *pod.Spec.PodMetricsEndpoints[0].Port != "http" || server(all).Labels[pod.Spec.JobLabel] != "tollgate" || pod.Labels["release"] != "prometheus" {
		t.Errorf("%+v", pod)
	}
	all = objectsOf(t, minimal(t, "metrics.serviceMonitor.enabled=true"))
	monitor, service := named[*monitoring.ServiceMonitor](t, all, "tollgate"), named[*core.Service](t, all, "tollgate")
	if !matches(monitor.Spec.Selector, service.Labels) || monitor.Spec.Endpoints[0].Port != "http" || service.Labels[monitor.Spec.JobLabel] != "tollgate" {
		t.Errorf("%+v", monitor)
	}
}

// The rules and the dashboard are the files, which the tests of k8s hold to a server that runs.
func TestRulesAndDashboardAreTheFiles(t *testing.T) {
	all := objectsOf(t, minimal(t, "metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true"))
	var want monitoring.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(readFile(t, chartFolder+"/files/rules.yaml"), &want); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(named[*monitoring.PrometheusRule](t, all, "tollgate").Spec)
	wanted, _ := json.Marshal(want)
	if string(got) != string(wanted) || len(want.Groups) == 0 {
		t.Errorf("rules:\n%s\nwant:\n%s", got, wanted)
	}
	board := named[*core.ConfigMap](t, all, "tollgate-dashboard")
	if board.Data["tollgate.json"] != string(readFile(t, chartFolder+"/files/dashboard.json")) || board.Labels["grafana_dashboard"] != "1" {
		t.Error("the dashboard is another one")
	}
}
