package policy_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
)

// explained decides about a world, and says how.
func explained(t *testing.T, w *world, set *policy.Set) (*policy.Decision, *policy.Explanation) {
	t.Helper()
	w.check = &policy.Check{}
	d := w.decide(t, set)
	return d, w.check.Explain()
}

// stepNames lists the steps with their verdicts.
func stepNames(e *policy.Explanation) (all []string) {
	for _, s := range e.Steps {
		all = append(all, s.Name+" "+string(s.Verdict))
	}
	return all
}

// A refusal has exactly one step that refuses, after which no other decides; an allowed request has
// none. Each says something, and no secret.
func TestEachRefusalHasItsStep(t *testing.T) {
	set := shopSet(t)
	wants := map[string]string{
		"no HTTP": "api", "unknown host": "api", "no credential": "credential", "not a key": "form", "store away": "key",
		"too many unknown": "key", "unreadable record": "key", "unknown": "key", "of another API": "key", "deleted": "key", "revoked": "key",
		"unknown environment": "key", "wrong environment": "environment", "inactive": "state", "unknown status": "state", "expired": "state",
		"retired": "state", "unknown plan": "plan", "override of an unknown limit": "plan", "address": "address", "no route": "scope",
		"scope": "scope", "limits away": "limit", "quota": "limit", "rate": "limit",
	}
	for _, s := range steps() {
		t.Run(s.name, func(t *testing.T) {
			w := goodWorld()
			s.wrong(w)
			_, e := explained(t, w, set)
			refused := -1
			for i, step := range e.Steps {
				switch {
				case step.Text == "" || strings.Contains(step.Text, secret("sk_live_")):
					t.Errorf("step %s says %q", step.Name, step.Text)
				case step.Verdict == policy.StepRefused && refused < 0:
					refused = i
					if step.Name != wants[s.name] {
						t.Errorf("refused by %s, want %s", step.Name, wants[s.name])
					}
				case step.Verdict != policy.StepNoted && refused >= 0 && step.Name != "limit":
					t.Errorf("step %s after the refusal: %v", step.Name, stepNames(e))
				}
			}
			if refused < 0 {
				t.Errorf("no step refuses: %v", stepNames(e))
			}
			last := e.Steps[len(e.Steps)-1]
			if s.reason != policy.UnknownAPI && last.Rule != (policy.Rule{Section: policy.AnswersSection, Name: s.reason.String()}) {
				t.Errorf("the answer is %+v", last)
			}
			if counts := len(e.Limits) > 0; counts != s.headed {
				t.Errorf("counters %v", e.Limits)
			}
		})
	}
}

func TestExplainAllowed(t *testing.T) {
	w := goodWorld()
	w.spent = 3
	w.key.Limits = []keys.Override{{Name: "minute", Requests: 8}}
	w.key.IPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.key.Scopes = []string{"admin"}
	_, e := explained(t, w, shopSet(t))
	if got, want := stepNames(e), []string{
		"api ok", "route ok", "credential ok", "form ok", "key ok", "environment ok", "state ok", "plan ok", "address ok", "scope ok", "limit ok", "limit ok",
	}; !slices.Equal(got, want) {
		t.Errorf("steps %v\nwant %v", got, want)
	}
	minute := e.Limits[0]
	if minute.Before != 3 || minute.After != 4 || minute.Limit != 8 || !minute.Own || minute.Verdict != policy.StepPassed || e.Limits[1].Own {
		t.Errorf("limits %+v", e.Limits)
	}
	for text, rule := range map[string]policy.Rule{
		"shop, by host shop.example.com":                                          {Section: policy.HostsSection, Name: "shop.example.com"},
		"list, costs 1":                                                           {Section: policy.RoutesSection, Name: "list"},
		"one key, in authorization: Bearer":                                       {Section: policy.CredentialsSection, Name: "authorization: Bearer"},
		"a key of live, accepted here":                                            {Section: policy.EnvironmentsSection, Name: "live"},
		"the route needs read, the key has admin, which implies it":               {Section: policy.ScopesSection, Name: "read"},
		"minute, the key's own: 3 of 8 in this minute spent, the request costs 1": {Section: policy.PlansSection, Name: "closed", Limit: "minute"},
	} {
		if !slices.ContainsFunc(e.Steps, func(s policy.Step) bool { return s.Text == text && s.Rule == rule }) {
			t.Errorf("no step says %q by %+v: %+v", text, rule, e.Steps)
		}
	}
}

// What a step says where that is not plain.
func TestWhatStepsSay(t *testing.T) {
	set := shopSet(t)
	for _, c := range []struct {
		name  string
		wrong func(*world)
		want  string
	}{
		{"method", func(w *world) { w.request.Method = "DELETE" }, "no route matches DELETE /items; GET is list, POST is add"},
		{"odd path", func(w *world) { w.request.Target = "/a//b?secret" }, `"/a//b" is a path that servers read in different ways: it matches no route`},
		{"odd query", func(w *world) { w.request.Target = "/items?a=b#c" }, "the query is one that servers read in different ways: it matches no route"},
		{"odd method", func(w *world) { w.request.Method = "get" }, `method "get" matches no route`},
		{"named route", func(w *world) { w.request.Route = policy.Named{Value: "gone", Given: true} }, `the policy has no route "gone", which the proxy names`},
		{"public", func(w *world) { w.request.Target = "/health" }, "health, public: no key is needed"},
		{"two keys", func(w *world) {
			w.request.Headers = append(w.request.Headers, policy.Header{Name: "x-api-key", Value: secret("sk_test_")})
		}, "two different keys, or one of more than 512 bytes, or with bytes that no key has"},
		{"key in the query", func(w *world) {
			w.request.TargetImmutable, w.request.Target, w.request.Headers = true, "/items?api_key="+secret("sk_live_"), nil
		}, "a key in a query from which the proxy cannot remove it"},
		{"another API", func(w *world) { w.key.API = "other" }, "key_0001 is a key of api other"},
		{"revoked", func(w *world) { w.key.Status = keys.Revoked }, "key_0001 is revoked, for good"},
		{"no address", func(w *world) {
			w.request.Peer, w.key.IPs = netip.Addr{}, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}, "the client's address is not known, and the key has a list of addresses"},
		{"no scopes", func(w *world) { w.key.Scopes = nil }, "the route needs read, and a key without scopes has none"},
		{"environment of the proxy", func(w *world) { w.request.Environment = policy.Named{Value: "test", Given: true} }, `a key of live, and the proxy says "test"`},
		{"failure mode", func(w *world) { w.key.Plan, w.spendErr = "open", errors.New("away") }, "the counters could not be asked; failure_mode open"},
		{"exempt", func(w *world) {
			w.key.Environment, w.request.Host = "test", "sandbox.example.com"
			w.request.Headers = []policy.Header{{Name: "x-api-key", Value: secret("sk_test_")}}
		}, "month: a quota, which keys of test do not spend"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := goodWorld()
			c.wrong(w)
			_, e := explained(t, w, set)
			if !slices.ContainsFunc(e.Steps, func(s policy.Step) bool { return s.Text == c.want }) {
				t.Errorf("no step says %q: %+v", c.want, e.Steps)
			}
		})
	}
}

// What was granted for a time is the key's own, until it ends.
func TestExplainExtras(t *testing.T) {
	for until, want := range map[time.Duration]int64{time.Hour: 15, -time.Hour: 10} {
		w := goodWorld()
		w.key.Extras = []keys.Extra{{Name: "minute", Requests: 5, Until: clock().Add(until)}}
		_, e := explained(t, w, shopSet(t))
		if n := e.Limits[0]; n.Limit != want || n.Own != (want > 10) {
			t.Errorf("until %v: %+v", until, n)
		}
	}
}

// The place of a slot is counted as windows are.
func TestExplainSlots(t *testing.T) {
	set := compiled(t, strings.NewReplacer("name: closed,", "name: closed, concurrent: 5,").Replace(shop)+shopAnswers())
	w := goodWorld()
	w.inUse = 3
	_, e := explained(t, w, set)
	if n := e.Limits[len(e.Limits)-1]; n.Name != "concurrent" || n.Before != 2 || n.After != 3 || n.Limit != 5 || n.Verdict != policy.StepPassed {
		t.Errorf("allowed: %+v", n)
	}
	w = goodWorld()
	w.full = true
	_, e = explained(t, w, set)
	if n := e.Limits[len(e.Limits)-1]; n.Name != "concurrent" || n.Before != 5 || n.After != 5 || n.Verdict != policy.StepRefused {
		t.Errorf("refused: %+v", n)
	}
}

// A probe arrives as its proxy would tell of it, so that it is decided as through one.
func TestProbes(t *testing.T) {
	set := compiled(t, changed(t, "credentials:", "client_address: {from: xff, trusted_hops: 2, trusted_proxies: [10.0.0.0/8]}\ncredentials:"))
	client := netip.MustParseAddr("203.0.113.9")
	r, err := set.Request(policy.Probe{
		API: "jobs", Method: "GET", Target: "/v1/jobs/1", Address: client, Secret: "jb_x",
		Headers: []policy.Header{{Name: "x-forwarded-for", Value: "198.51.100.1"}, {Name: "accept", Value: "a"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := header(r.Headers, "x-forwarded-for"); got != "203.0.113.9, 10.0.0.0, 10.0.0.0" || header(r.Headers, "accept") != "" {
		t.Errorf("headers %v", r.Headers)
	}
	if policy.ClientAddress(set.API("jobs"), r) != client {
		t.Errorf("the client is %v", policy.ClientAddress(set.API("jobs"), r))
	}
	for name, p := range map[string]policy.Probe{
		"unknown api":   {API: "jbs"},
		"unknown route": {API: "jobs", Route: "jb"},
		"a key belongs": {API: "jobs", Headers: []policy.Header{{Name: "x-api-key", Value: "k"}}},
	} {
		if _, err := set.Request(p); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := shopSet(t).Request(policy.Probe{API: "shop", Target: "/items?a&api%5fkey=k"}); err == nil {
		t.Error("a key in the query is taken")
	}
	if r, err := set.Request(policy.Probe{Host: "nowhere.example.com"}); err != nil || r.API.Given {
		t.Errorf("a host of no API: %+v, %v", r, err)
	}
}

// Without a host, a key arrives where keys of its prefix are accepted.
func TestProbesOfEnvironments(t *testing.T) {
	set := shopSet(t)
	for _, c := range []struct {
		probe policy.Probe
		want  policy.Named
	}{
		{policy.Probe{API: "shop", Secret: secret("sk_test_")}, policy.Named{Value: "test", Given: true}},
		{policy.Probe{API: "shop", Secret: secret("sk_live_")}, policy.Named{Value: "live", Given: true}},
		{policy.Probe{API: "shop", Secret: secret("sk_live_"), Environment: "test"}, policy.Named{Value: "test", Given: true}},
		{policy.Probe{API: "shop", Secret: secret("sk_live_"), Host: "shop.example.com"}, policy.Named{}},
	} {
		r, err := set.Request(c.probe)
		if err != nil || r.Environment != c.want {
			t.Errorf("%+v arrives at %+v, %v", c.probe.Environment, r.Environment, err)
		}
	}
}
