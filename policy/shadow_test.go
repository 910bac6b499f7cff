package policy_test

import (
	"slices"
	"strings"
	"testing"

	"tollgate/policy"
)

// shadowShop is the shop with a plan, a limit or all of it in shadow mode.
func shadowShop(t *testing.T, oldNew ...string) *policy.Set {
	t.Helper()
	text := shop
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("the shop does not hold %q", oldNew[i])
		}
		text = strings.Replace(text, oldNew[i], oldNew[i+1], 1)
	}
	return compiled(t, text+shopAnswers())
}

// What the limits of a shadowed plan would refuse passes, as a request of its key, is charged, and
// is told in the metadata; the client is told of no limit.
func TestShadowedPlan(t *testing.T) {
	set := shadowShop(t, "{name: closed,", "{name: closed, shadow_mode: true,")
	for spent, want := range map[int64][2]string{9: {"allowed", ""}, 10: {"rate_limited", "minute"}, 99: {"rate_limited", "minute"}, 100: {"quota_exceeded", "month"}} {
		w := goodWorld()
		w.spent = spent
		d := w.decide(t, set)
		if !d.Allow || d.Reason != policy.Allowed || d.Judged().String() != want[0] || d.Meta("reason") != "allowed" || d.Meta("shadow_limit") != want[1] {
			t.Errorf("%d spent: %+v", spent, d)
		}
		if shadow := d.Meta("shadow"); (shadow != "") != (want[1] != "") || shadow != "" && shadow != want[0] {
			t.Errorf("%d spent: metadata %v", spent, d.Metadata)
		}
		if header(d.Request, "x-consumer-id") != "team_a" || len(d.Response) != 0 || !w.spend.Exact {
			t.Errorf("%d spent: request %v, response %v, spend %+v", spent, d.Request, d.Response, w.spend)
		}
	}
}

// A limit in shadow mode refuses nothing; the others go on as ever, and are all that clients see.
func TestShadowedLimit(t *testing.T) {
	set := shadowShop(t, "{name: minute, requests: 10, per: minute}, {name: month,", "{name: minute, requests: 10, per: minute, shadow_mode: true}, {name: month,")
	w := goodWorld()
	w.spent = 10
	d := w.decide(t, set)
	if !d.Allow || d.Shadow != policy.RateLimited || header(d.Response, "x-ratelimit-limit") != "100" || header(d.Response, "ratelimit-policy") != `"month";q=100;w=2678400` {
		t.Errorf("beyond the shadow: %+v", d)
	}
	w = goodWorld()
	w.spent = 100
	if d = w.decide(t, set); d.Allow || d.Reason != policy.QuotaExceeded || d.Shadow != policy.Allowed || d.Meta("shadow") != "" {
		t.Errorf("beyond both: %+v", d)
	}
}

// The places of a shadowed plan are counted beyond their number, and however full the store is.
func TestShadowedPlaces(t *testing.T) {
	set := shadowShop(t, "{name: closed,", "{name: closed, shadow_mode: true, concurrent: 2,")
	for inUse, want := range map[int64]policy.Reason{2: policy.Allowed, 3: policy.ConcurrencyExceeded} {
		w := goodWorld()
		w.inUse = inUse
		d := w.decide(t, set)
		if !d.Allow || d.Shadow != want || d.Meta("slot_id") == "" || len(d.Response) != 0 {
			t.Errorf("%d under way: %+v", inUse, d)
		}
	}
	w := goodWorld()
	w.full = true
	if d := w.decide(t, set); !d.Allow || d.Shadow != policy.ConcurrencyExceeded || d.Meta("slot_id") != "" {
		t.Errorf("full: %+v", d)
	}
}

// A shadowed plan is about its limits: no key passes that would not, nor any key elsewhere.
func TestShadowedPlanLetsNoOtherRefusalPass(t *testing.T) {
	set := shadowShop(t, "{name: closed,", "{name: closed, shadow_mode: true,")
	for _, s := range steps() {
		w := goodWorld()
		s.wrong(w)
		d := w.decide(t, set)
		limits := s.reason.Limited() || s.name == "limits away"
		if d.Allow != limits || d.Judged() != s.reason || !limits && d.Shadow != policy.Allowed {
			t.Errorf("%s: allow %v, reason %s, shadow %s", s.name, d.Allow, d.Reason, d.Shadow)
		}
	}
}

// A shadowed API lets everything pass. Without a key that may make the request the application is
// told of none, whatever the client says; and the credential never gets there.
func TestShadowedAPI(t *testing.T) {
	set := shadowShop(t, "api: shop\n", "api: shop\nshadow_mode: true\n")
	identity := []string{"x-consumer-id", "x-consumer-username", "x-credential-identifier", "x-consumer-plan", "x-authenticated-scope"}
	for _, s := range steps() {
		t.Run(s.name, func(t *testing.T) {
			w := goodWorld()
			for _, name := range identity {
				w.request.Headers = append(w.request.Headers, policy.Header{Name: name, Value: "forged"}, policy.Header{Name: strings.ReplaceAll(name, "-", "_"), Value: "forged"})
			}
			s.wrong(w)
			_, e := explained(t, w, set)
			d := w.check.Decision()
			if s.reason == policy.UnknownAPI {
				if d.Allow {
					t.Errorf("no API, and allowed")
				}
				return
			}
			if !d.Allow || d.Reason != policy.Allowed || d.Shadow != s.reason || d.Meta("shadow") != s.reason.String() || d.Status != 0 || d.FailRPC {
				t.Fatalf("%+v", d)
			}
			if !slices.ContainsFunc(e.Steps, func(step policy.Step) bool { return step.Verdict == policy.StepShadow }) {
				t.Errorf("steps %v", stepNames(e))
			}
			known := s.reason.Limited() || s.name == "limits away"
			for _, name := range identity {
				if got := header(d.Request, name) != ""; got != known || !known && !slices.Contains(d.Remove, name) {
					t.Errorf("%s: set %v, removed %v", name, got, d.Remove)
				}
			}
			for _, h := range w.request.Headers {
				if strings.Contains(h.Name, "_") && !slices.Contains(d.Remove, h.Name) || h.Name == "authorization" && !slices.Contains(d.Remove, h.Name) {
					t.Errorf("%s is not removed", h.Name)
				}
			}
			if w.check.Identified() != known || known && d.Meta("key_id") != "key_0001" {
				t.Errorf("identified %v, metadata %v", w.check.Identified(), d.Metadata)
			}
		})
	}
	if d := goodWorld().decide(t, set); !d.Allow || d.Shadow != policy.Allowed || header(d.Request, "x-consumer-id") != "team_a" || d.Meta("shadow") != "" {
		t.Errorf("a good request: %+v", d)
	}
}

// A target that cannot be changed on its way, or is not known byte for byte, is left alone.
func TestShadowLeavesTargetsThatCannotBeChanged(t *testing.T) {
	set := shadowShop(t, "api: shop\n", "api: shop\nshadow_mode: true\n")
	w := goodWorld()
	w.request.Target, w.request.Headers = "/items?api_key="+secret("sk_live_"), nil
	if d := w.decide(t, set); d.Target != "/items" || d.Shadow != policy.Allowed {
		t.Errorf("a good one: %q, %s", d.Target, d.Shadow)
	}
	w = goodWorld()
	w.request.Target, w.request.Headers, w.request.TargetImmutable = "/items?api_key="+secret("sk_live_"), nil, true
	if d := w.decide(t, set); d.Target != "" || d.Shadow != policy.MalformedCredential {
		t.Errorf("one that cannot be changed: %q, %s", d.Target, d.Shadow)
	}
	w.request.TargetImmutable, w.request.Target = false, "/it!ms?api_key="+secret("sk_live_")
	w.looked, w.spend = 0, nil
	if d := w.decide(t, set); d.Target != "" || d.Shadow != policy.RouteDenied {
		t.Errorf("one that is not known: %q, %s", d.Target, d.Shadow)
	}
}

// A plan in shadow mode answers while nothing can be counted.
func TestShadowedPlanAnswersUncounted(t *testing.T) {
	if compiled(t, changed(t)).AnswersUncounted() || !compiled(t, changed(t, "- name: free\n", "- name: free\n  shadow_mode: true\n")).AnswersUncounted() {
		t.Error("a shadowed plan counts as one that refuses")
	}
}

// What a policy would do is tried without regard to its shadows.
func TestTrialsSeeThroughShadows(t *testing.T) {
	set := shadowShop(t, "api: shop\n", "api: shop\nshadow_mode: true\n")
	for target, want := range map[string]policy.Reason{"/items": policy.Allowed, "/nothing": policy.RouteDenied} {
		out, err := set.Try(policy.Trial{Method: "GET", Target: target, Environment: "live"})
		if err != nil || out.Reason != want {
			t.Errorf("%s: %+v, %v", target, out, err)
		}
	}
	if out, err := set.Try(policy.Trial{Method: "POST", Target: "/items", Environment: "live", Scopes: []string{"read"}}); err != nil || out.Reason != policy.ScopeDenied {
		t.Errorf("%+v, %v", out, err)
	}
}
