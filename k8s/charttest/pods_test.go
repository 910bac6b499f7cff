package charttest

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	disruption "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// Every pod passes the profile that namespaces enforce, as the API server judges it.
func TestPodsAreRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	judge := func(p core.PodTemplateSpec) policy.AggregateCheckResult {
		return policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &p.ObjectMeta, &p.Spec))
	}
	for name, all := range matrix(t) {
		for maker, p := range pods(all) {
			if r := judge(p); !r.Allowed {
				t.Errorf("%s: %s: %s", name, maker, r.ForbiddenDetail())
			}
			for _, c := range p.Spec.Containers {
				if c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
					t.Errorf("%s: %s may write into its image", name, maker)
				}
			}
			if token := p.Spec.AutomountServiceAccountToken; token == nil || *token != strings.HasSuffix(maker, "-bootstrap") {
				t.Errorf("%s: %s: a token of the Kubernetes API: %v", name, maker, token)
			}
		}
	}
	// It can refuse.
	if judge(core.PodTemplateSpec{Spec: core.PodSpec{Containers: []core.Container{{Name: "a"}}}}).Allowed {
		t.Error("a pod that says nothing passes")
	}
}

// A node can be drained: of the pods that there are at least, the budget lets one go, whether they
// are ready or not.
func TestDrainsArePossible(t *testing.T) {
	for name, all := range matrix(t) {
		server := named[*apps.Deployment](t, all, serverName(all))
		least := 1
		if server.Spec.Replicas != nil {
			least = int(*server.Spec.Replicas)
		}
		for _, h := range of[*autoscaling.HorizontalPodAutoscaler](all) {
			if server.Spec.Replicas != nil {
				t.Errorf("%s: replicas and a HorizontalPodAutoscaler", name)
			}
			least = int(*h.Spec.MinReplicas)
		}
		budgets := of[*disruption.PodDisruptionBudget](all)
		if least == 1 && len(budgets) > 0 {
			t.Errorf("%s: a budget for a single pod", name)
		}
		for _, b := range budgets {
			allowed, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, least, true)
			if err != nil || allowed < 1 || b.Spec.MinAvailable != nil {
				t.Errorf("%s: of %d pods %d may go: %v", name, least, allowed, err)
			}
			if p := b.Spec.UnhealthyPodEvictionPolicy; p == nil || *p != disruption.AlwaysAllow {
				t.Errorf("%s: pods that are not ready block a drain", name)
			}
		}
	}
}

// serverName is the name of the server's Deployment.
func serverName(all []object) string {
	for _, d := range of[*apps.Deployment](all) {
		if d.Labels["app.kubernetes.io/component"] == "server" {
			return d.Name
		}
	}
	return ""
}

// flagsOf maps the flags of a container's arguments to their values.
func flagsOf(args []string) map[string]string {
	out := map[string]string{}
	for _, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok {
			out[name] = value
		}
	}
	return out
}

func TestReplicasAreWhatTheServerIsTold(t *testing.T) {
	for _, c := range []struct {
		changes        []string
		replicas, told string
		budget         bool
	}{
		{nil, "2", "2", true},
		{[]string{"replicaCount=5"}, "5", "5", true},
		{[]string{"replicaCount=1"}, "1", "1", false},
		{[]string{"autoscaling.enabled=true", "autoscaling.maxReplicas=7"}, "", "7", true},
		{[]string{"autoscaling.enabled=true", "autoscaling.minReplicas=1"}, "", "10", false},
	} {
		all := objectsOf(t, minimal(t, c.changes...))
		server := named[*apps.Deployment](t, all, "tollgate")
		replicas := ""
		if server.Spec.Replicas != nil {
			replicas = fmt.Sprint(*server.Spec.Replicas)
		}
		told := flagsOf(server.Spec.Template.Spec.Containers[0].Args)["--replicas"]
		if budget := len(of[*disruption.PodDisruptionBudget](all)) > 0; replicas != c.replicas || told != c.told || budget != c.budget {
			t.Errorf("%v: replicas %q, --replicas=%s, a budget: %v", c.changes, replicas, told, budget)
		}
	}
}

func TestPodsHaveTimeToDrain(t *testing.T) {
	for name, all := range matrix(t) {
		server := named[*apps.Deployment](t, all, serverName(all))
		p := server.Spec.Template.Spec
		if p.Containers[0].Lifecycle != nil {
			t.Errorf("%s: a hook before SIGTERM, in which the pod says that it is well", name)
		}
		var needed time.Duration
		for _, flag := range []string{"--drain-delay", "--drain-timeout"} {
			d, err := time.ParseDuration(flagsOf(p.Containers[0].Args)[flag])
			if err != nil {
				t.Fatal(err)
			}
			needed += d
		}
		if has := time.Duration(*p.TerminationGracePeriodSeconds) * time.Second; has < needed+10*time.Second {
			t.Errorf("%s: %s to end, which takes %s", name, has, needed)
		}
		if u := server.Spec.Strategy.RollingUpdate; u.MaxUnavailable.IntValue() != 0 || server.Spec.MinReadySeconds < 35 {
			t.Errorf("%s: %+v, ready for %d s", name, u, server.Spec.MinReadySeconds)
		}
	}
	if got := *named[*apps.Deployment](t, objectsOf(t, minimal(t, "drain.delaySeconds=30", "drain.timeoutSeconds=60")), "tollgate").Spec.Template.Spec.TerminationGracePeriodSeconds; got != 100 {
		t.Errorf("%d s for 30 and 60", got)
	}
}

// A change of the policy reaches pods that run: nothing in the pods' template follows from it.
func TestPolicyChangesRestartNothing(t *testing.T) {
	before, after := minimal(t), minimal(t)
	after["policy"].(values)["files"].(values)["orders.yaml"] = string(readFile(t, "../policies/orders.yaml")) + "# changed\n"
	b, a := named[*apps.Deployment](t, objectsOf(t, before), "tollgate"), named[*apps.Deployment](t, objectsOf(t, after), "tollgate")
	if !reflect.DeepEqual(a.Spec.Template, b.Spec.Template) {
		t.Error("the pods' template changes with the policy")
	}
	if named[*core.ConfigMap](t, objectsOf(t, after), "tollgate-policies").Data["orders.yaml"] == named[*core.ConfigMap](t, objectsOf(t, before), "tollgate-policies").Data["orders.yaml"] {
		t.Error("the ConfigMap does not change")
	}
}

// The check runs before anything is changed, on a copy that is there by then.
func TestThePolicyIsCheckedBeforehand(t *testing.T) {
	all := objectsOf(t, minimal(t))
	job, copied := named[*batch.Job](t, all, "tollgate-policy-check"), named[*core.ConfigMap](t, all, "tollgate-policy-check")
	for _, o := range []map[string]string{job.Annotations, copied.Annotations} {
		if o["helm.sh/hook"] != "pre-install,pre-upgrade" || !strings.Contains(o["helm.sh/hook-delete-policy"], "before-hook-creation") {
			t.Errorf("annotations %v", o)
		}
	}
	if copied.Annotations["helm.sh/hook-weight"] != "-10" || job.Annotations["helm.sh/hook-weight"] != "-5" {
		t.Error("the copy must be there first")
	}
	if *job.Spec.BackoffLimit != 0 {
		t.Error("a broken policy is tried again")
	}
	sources := job.Spec.Template.Spec.Volumes[0].Projected.Sources
	if len(sources) != 1 || sources[0].ConfigMap.Name != copied.Name {
		t.Errorf("it checks %+v", sources)
	}
	found := named[*batch.Job](t, objectsOf(t, minimal(t, "policy.files=null", "policy.existingConfigMap=mine")), "tollgate-policy-check")
	if s := found.Spec.Template.Spec.Volumes[0].Projected.Sources; len(s) != 1 || s[0].ConfigMap.Name != "mine" {
		t.Errorf("existingConfigMap: it checks %+v", s)
	}
}

// What Helm leaves of hooks when they fail is in the way of nothing and stays nowhere.
func TestHooksLeaveNothing(t *testing.T) {
	n := 0
	for name, all := range matrix(t) {
		for _, o := range all {
			if !o.hook() {
				continue
			}
			n++
			for _, policy := range []string{"before-hook-creation", "hook-succeeded", "hook-failed"} {
				if !slices.Contains(strings.Split(o.Metadata.Annotations["helm.sh/hook-delete-policy"], ","), policy) {
					t.Errorf("%s: %s stays after %s", name, o, policy)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no hooks")
	}
}

// Secrets are named, never made, and no value of one is in an argument or a variable.
func TestSecretsAreOnlyNamed(t *testing.T) {
	for name, all := range matrix(t) {
		for _, o := range all {
			if o.Kind == "Secret" {
				t.Errorf("%s: %s", name, o)
			}
		}
		for maker, p := range pods(all) {
			for _, e := range p.Spec.Containers[0].Env {
				if regexp.MustCompile(`(?i)password|secret|token|webhook`).MatchString(e.Name) && e.ValueFrom == nil {
					t.Errorf("%s: %s: %s is written out", name, maker, e.Name)
				}
			}
			// Hooks of chats are secrets by their URL.
			for _, a := range p.Spec.Containers[0].Args {
				if strings.Contains(a, "https://") {
					t.Errorf("%s: %s: %s is written out", name, maker, a)
				}
			}
		}
	}
}

// kubectl exec in the admin's pod needs no flags: the store, the policy and the pepper are in its
// environment.
func TestCommandsFindWhatTheyNeed(t *testing.T) {
	all := objectsOf(t, valuesFiles(t)["production"])
	admin := named[*apps.Deployment](t, all, "tollgate-admin").Spec.Template.Spec.Containers[0]
	env := map[string]core.EnvVar{}
	for _, e := range admin.Env {
		env[e.Name] = e
	}
	if s := env["TOLLGATE_STORE"].ValueFrom; s == nil || s.SecretKeyRef.Name != "redis-cli" || s.SecretKeyRef.Key != "url" {
		t.Errorf("store: %+v", s)
	}
	for name, want := range map[string]string{
		"TOLLGATE_POLICY": "/etc/tollgate/policies", "TOLLGATE_PEPPER_FILE": "/etc/tollgate/pepper/pepper", "TOLLGATE_OLDER_PEPPERS": "/etc/tollgate/pepper/older-0",
	} {
		if env[name].Value != want {
			t.Errorf("%s=%s", name, env[name].Value)
		}
	}
	server := named[*apps.Deployment](t, all, "tollgate").Spec.Template.Spec.Containers[0]
	if s := server.Env[0].ValueFrom.SecretKeyRef; s.Name != "tollgate" {
		t.Errorf("the server uses %s", s.Name)
	}
}

// A Secret whose password is empty (openssl was not there) must not open the Redis to all pods that
// reach it: Docker's Redis has its protected mode off.
func TestRedisOfItsOwnIsClosedWithoutAPassword(t *testing.T) {
	redis := named[*apps.StatefulSet](t, objectsOf(t, valuesFiles(t)["trial"]), "tollgate-redis").Spec.Template.Spec.Containers[0]
	if i := slices.Index(redis.Args, "--protected-mode"); i < 0 || redis.Args[i+1] != "yes" {
		t.Errorf("%q", redis.Args)
	}
}
