package policy_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/policyfile"
)

// fewSet is the shop with a plan that limits requests under way.
func fewSet(t testing.TB, concurrency string, oldNew ...string) *policy.Set {
	t.Helper()
	text := strings.Replace(shop, "- {name: open,", "- {name: few, concurrent: 2, limits: [{name: minute, requests: 10, per: minute}]}\n"+
		"- {name: only, concurrent: 2, limits: []}\n- {name: few_open, failure_mode: open, concurrent: 2, limits: []}\n"+
		"- {name: few_local, failure_mode: local, concurrent: 2, limits: []}\n- {name: open,", 1)
	text = strings.NewReplacer(oldNew...).Replace(text)
	return compiled(t, text+concurrency+"\n"+shopAnswers())
}

func slotWorld(plan string) *world {
	w := goodWorld()
	w.key.Plan = plan
	return w
}

// A plan with a limit of requests under way asks for a slot with its spend, and says in the
// metadata which one the request has.
func TestSlotIsAskedFor(t *testing.T) {
	set := fewSet(t, "concurrency: {max_duration: 90s}")
	w := slotWorld("few")
	d := w.decide(t, set)
	s := w.spend.Slot
	if !d.Allow || s.Places != 2 || s.Hold != 90*time.Second || !w.spend.Exact || w.spend.ReadOnly {
		t.Fatalf("%+v, %+v", d, s)
	}
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(s.ID) {
		t.Errorf("slot %q", s.ID)
	}
	if d.Meta("slot_id") != s.ID || d.Meta("limit_id") != "lim_1" {
		t.Errorf("%v", d.Metadata)
	}
	other := slotWorld("few")
	other.key.LimitID = other.key.ID
	d = other.decide(t, set)
	if other.spend.Slot.ID == s.ID || d.Meta("limit_id") != "" || d.Meta("slot_id") == "" {
		t.Errorf("%+v, %v", other.spend.Slot, d.Metadata)
	}
	only := slotWorld("only")
	if d := only.decide(t, set); !d.Allow || only.spend == nil || only.spend.Slot.Places != 2 || header(d.Response, "x-ratelimit-limit") != "" {
		t.Errorf("a plan without windows: %+v", d)
	}
}

// The id of a request that the proxy names stands before the slot's; what a client may have chosen
// does not.
func TestSlotNamesItsRequest(t *testing.T) {
	trusted := fewSet(t, "concurrency: {request_id: trusted}")
	names := map[string]bool{}
	for _, id := range []string{"r-1", "r-1", "r-2"} {
		w := slotWorld("few")
		w.request.Headers[1].Value = id
		w.decide(t, trusted)
		name, rest, ok := strings.Cut(w.spend.Slot.ID, ":")
		if !ok || len(name) != 16 || len(rest) != 32 {
			t.Fatalf("slot %q", w.spend.Slot.ID)
		}
		names[name] = true
	}
	if len(names) != 2 {
		t.Errorf("%v name two requests", names)
	}
	w := slotWorld("few")
	w.request.Headers = w.request.Headers[:1]
	if w.decide(t, trusted); strings.Contains(w.spend.Slot.ID, ":") {
		t.Errorf("no request id, and slot %q", w.spend.Slot.ID)
	}
	w = slotWorld("few")
	if w.decide(t, fewSet(t, "")); strings.Contains(w.spend.Slot.ID, ":") {
		t.Errorf("a request id that a client may have chosen, and slot %q", w.spend.Slot.ID)
	}
}

// No slot: other plans, public routes, routes that say so, refused requests.
func TestNoSlot(t *testing.T) {
	set := fewSet(t, "", "- {name: me, match: \"GET /me\", scope: none, cost: 0}", "- {name: me, match: \"GET /me\", scope: none, concurrent: none}")
	for name, change := range map[string]func(*world){
		"another plan":     func(w *world) { w.key.Plan = "closed" },
		"concurrent: none": func(w *world) { w.request.Target = "/me" },
		"refused":          func(w *world) { w.key.Scopes = []string{} },
		"expired":          func(w *world) { w.key.ExpiresAt = clock().Add(-time.Second) },
	} {
		w := slotWorld("few")
		change(w)
		d := w.decide(t, set)
		if w.spend == nil || w.spend.Slot.ID != "" || d.Meta("slot_id") != "" {
			t.Errorf("%s: %+v, %v", name, w.spend, d.Metadata)
		}
	}
	w := slotWorld("few")
	w.request.Target = "/health"
	if d := w.decide(t, set); !d.Allow || w.spend != nil {
		t.Errorf("public: %+v", w.spend)
	}
}

// A request beyond the limit gets the API's own 429, may be retried in a second, and sees its
// windows as they are.
func TestConcurrencyExceeded(t *testing.T) {
	set := fewSet(t, "")
	w := slotWorld("few")
	w.spent, w.full = 3, true
	d := w.decide(t, set)
	if d.Allow || d.Reason != policy.ConcurrencyExceeded || d.Status != 429 || !strings.Contains(string(d.Body), "is concurrency_exceeded") {
		t.Fatalf("%+v %s", d, d.Body)
	}
	for name, want := range map[string]string{
		"retry-after": "1", "x-ratelimit-limit": "10", "x-ratelimit-remaining": "7",
		"ratelimit-policy": `"minute";q=10;w=60, "concurrent";q=2;qu="concurrent-requests"`,
		"ratelimit":        `"minute";r=7;t=30, "concurrent";r=0`,
	} {
		if got := header(d.Response, name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if d.Meta("slot_id") != "" || d.Meta("reason") != "concurrency_exceeded" {
		t.Errorf("%v", d.Metadata)
	}
	w = slotWorld("only")
	w.full = true
	d = w.decide(t, set)
	if d.Status != 429 || header(d.Response, "ratelimit") != `"concurrent";r=0` || header(d.Response, "x-ratelimit-limit") != "" {
		t.Errorf("%+v", d)
	}
	w = slotWorld("few")
	w.spent = 9
	w.inUse = 1
	d = w.decide(t, set)
	if got := header(d.Response, "ratelimit"); !d.Allow || got != `"minute";r=0;t=30, "concurrent";r=1` {
		t.Errorf("%+v: %s", d, got)
	}
}

// While the store is away a slot is what the plan's failure_mode makes of it.
func TestSlotsWithoutStore(t *testing.T) {
	set := fewSet(t, "")
	down := func(plan string, local *limits.Local) *policy.Decision {
		w := slotWorld(plan)
		w.spendErr, w.local = limitsDown{}, local
		return w.decide(t, set)
	}
	local := limits.NewLocal(2, clock, 10)
	if d := down("few", local); d.Reason != policy.Undecided {
		t.Errorf("closed: %v", d.Reason)
	}
	if d := down("few_open", local); !d.Allow || d.Meta("slot_id") != "" || d.Meta("failure_mode") != "open" {
		t.Errorf("open: %+v", d)
	}
	first := down("few_local", local)
	if !first.Allow || first.Meta("slot_id") == "" {
		t.Fatalf("local: %+v", first)
	}
	if d := down("few_local", local); d.Reason != policy.ConcurrencyExceeded {
		t.Errorf("local, beyond its share: %v", d.Reason)
	}
	local.Hold("lim_1", first.Meta("slot_id"), 0)
	if d := down("few_local", local); !d.Allow {
		t.Errorf("local, after the release: %v", d.Reason)
	}
}

type limitsDown struct{}

func (limitsDown) Error() string { return "down" }

// Keys override the limit by its name.
func TestConcurrentOverride(t *testing.T) {
	set := fewSet(t, "")
	w := slotWorld("few")
	w.key.Limits = []keys.Override{{Name: "concurrent", Requests: 7}}
	if w.decide(t, set); w.spend.Slot.Places != 7 {
		t.Errorf("%+v", w.spend.Slot)
	}
	for _, c := range []struct {
		plan     string
		override keys.Override
		want     string
	}{
		{"few", keys.Override{Name: "concurrent", Requests: 5}, ""},
		{"few", keys.Override{Name: "concurrent", Requests: 0}, `limit "concurrent" of 0 would refuse every request, whenever it is tried; deactivate the key instead`},
		{"few", keys.Override{Name: "concurrent", Requests: 10_001}, `limit "concurrent" of 10001: want 1 to 10000`},
		{"few", keys.Override{Name: "concurent", Requests: 5}, `limits name one that plan "few" of api "shop" does not have: "concurent"; did you mean "concurrent"?`},
		{"closed", keys.Override{Name: "concurrent", Requests: 5}, `limits name one that plan "closed" of api "shop" does not have: "concurrent"; there is ["minute" "month"]`},
	} {
		k := goodWorld().key
		k.Plan, k.Limits = c.plan, []keys.Override{c.override}
		err := set.ValidateKey(&k)
		if err == nil {
			err = set.ValidateLimits(&k)
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %+v: %s, want %s", c.plan, c.override, got, c.want)
		}
	}
	if n, known := set.Limit("shop", "few", "concurrent"); n != 2 || !known {
		t.Errorf("%d, %v", n, known)
	}
	if _, known := set.Limit("shop", "closed", "concurrent"); known {
		t.Error("a plan without the limit has it")
	}
}

// The answer of the new reason is asked for only where it can be given.
func TestAnswerOfConcurrency(t *testing.T) {
	for _, c := range []struct {
		plan string
		want string
	}{
		{"", ""},
		{"- {name: few, concurrent: 2, limits: []}\n", `no answer for reason "concurrency_exceeded"`},
	} {
		text := strings.Replace(shop, "- {name: open,", c.plan+"- {name: open,", 1)
		answers := regexp.MustCompile(`.*concurrency_exceeded.*\n`).ReplaceAllString(shopAnswers(), "")
		_, err := policyfile.Compile(policyfile.File{Name: "f.yaml", Data: []byte(text + answers)})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: %v", c.plan, err)
		}
	}
}
