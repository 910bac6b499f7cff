package policy_test

import (
	"fmt"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// What a key was granted counts until its end, and adds up with what stands in the plan or in the
// key's own limits.
func TestExtrasAddToLimits(t *testing.T) {
	set := fewSet(t, "")
	soon, over := clock().Add(time.Millisecond), clock() // at that instant it is over
	for what, c := range map[string]struct {
		plan   string
		limits []keys.Override
		extras []keys.Extra
		want   string
	}{
		"none":                             {"closed", nil, nil, "minute=10 month=100"},
		"one":                              {"closed", nil, []keys.Extra{{Name: "month", Requests: 50, Until: soon}}, "minute=10 month=150"},
		"over":                             {"closed", nil, []keys.Extra{{Name: "month", Requests: 50, Until: over}}, "minute=10 month=100"},
		"two":                              {"closed", nil, []keys.Extra{{Name: "month", Requests: 50, Until: soon}, {Name: "month", Requests: 7, Until: soon}, {Name: "month", Requests: 1, Until: over}}, "minute=10 month=157"},
		"both limits":                      {"closed", nil, []keys.Extra{{Name: "month", Requests: 50, Until: soon}, {Name: "minute", Requests: 1, Until: soon}}, "minute=11 month=150"},
		"of its own limit":                 {"closed", []keys.Override{{Name: "month", Requests: 20}}, []keys.Extra{{Name: "month", Requests: 50, Until: soon}}, "minute=10 month=70"},
		"of a limit that there is no more": {"closed", nil, []keys.Extra{{Name: "gone", Requests: 50, Until: soon}}, "minute=10 month=100"},
		"as large as can be":               {"closed", nil, []keys.Extra{{Name: "month", Requests: limits.MaxLimit, Until: soon}}, fmt.Sprintf("minute=10 month=%d", int64(limits.MaxLimit))},
		"an anniversary":                   {"own", nil, []keys.Extra{{Name: "month", Requests: 50, Until: soon}}, "month=150/20"},
		"under way":                        {"few", nil, []keys.Extra{{Name: "concurrent", Requests: 3, Until: soon}, {Name: "concurrent", Requests: 3, Until: over}}, "minute=10 places=5"},
		"its own number under way":         {"few", []keys.Override{{Name: "concurrent", Requests: 7}}, []keys.Extra{{Name: "concurrent", Requests: 3, Until: soon}}, "minute=10 places=10"},
		"as many as can be":                {"few", nil, []keys.Extra{{Name: "concurrent", Requests: 1 << 50, Until: soon}}, "minute=10 places=10000"},
		"of a plan without limits":         {"unlimited", nil, []keys.Extra{{Name: "month", Requests: 50, Until: soon}}, ""},
	} {
		w := slotWorld(c.plan)
		w.key.Limits, w.key.Extras = c.limits, c.extras
		d := w.decide(t, set)
		got := ""
		if w.spend != nil {
			got = shownLimits(w.spend.Windows, w.spend.Slot.Places)
		}
		if !d.Allow || got != c.want {
			t.Errorf("%s: %s, %q, want %q", what, d.Reason, got, c.want)
		}
		windows, concurrent, err := set.LimitsOf(&w.key, clock())
		if got := shownLimits(windows, concurrent); err != nil || got != c.want {
			t.Errorf("%s: LimitsOf says %q, %v, want %q", what, got, err, c.want)
		}
	}
}

func shownLimits(windows []limits.Window, places int64) (text string) {
	for i, w := range windows {
		if i > 0 {
			text += " "
		}
		text += fmt.Sprintf("%s=%d", w.Name, w.Limit)
		if w.Anchor > 1 {
			text += fmt.Sprintf("/%d", w.Anchor)
		}
	}
	if places > 0 {
		text += fmt.Sprintf(" places=%d", places)
	}
	return text
}

// The plan's own windows never change by what one key was granted.
func TestExtrasAreTheKeysAlone(t *testing.T) {
	set := shopSet(t)
	w := goodWorld()
	w.check = &policy.Check{}
	for range 2 {
		for _, c := range []struct {
			extras []keys.Extra
			want   int64
		}{{[]keys.Extra{{Name: "month", Requests: 5, Until: clock().Add(1)}}, 105}, {nil, 100}} {
			w.key.Extras, w.looked, w.spend = c.extras, 0, nil
			if w.decide(t, set); w.spend.Windows[1].Limit != c.want {
				t.Errorf("%+v, want %d", w.spend.Windows[1], c.want)
			}
		}
	}
}

func TestValidateExtra(t *testing.T) {
	set := fewSet(t, "")
	for _, c := range []struct{ plan, limit, want string }{
		{"closed", "month", ""}, {"few", "concurrent", ""},
		{"closed", "moth", `plan "closed" of api "shop" limits keys like this one by no "moth"; did you mean "month"?`},
		{"closed", "concurrent", `plan "closed" of api "shop" limits keys like this one by no "concurrent"; there is ["minute" "month"]`},
		{"unlimited", "month", `plan "unlimited" of api "shop" limits keys like this one by no "month"; there is none`},
		{"gone", "month", `unknown plan "gone" of api "shop"`},
	} {
		k := goodWorld().key
		k.Plan = c.plan
		got := ""
		if err := set.ValidateExtra(&k, keys.Extra{Name: c.limit, Requests: 1, Until: clock()}); err != nil {
			got = err.Error()
		}
		if got != c.want && (c.plan != "gone" || len(got) < len(c.want) || got[:len(c.want)] != c.want) {
			t.Errorf("%+v: %s", c, got)
		}
	}
	// A quota that keys of an environment do not spend is none of theirs.
	k := goodWorld().key
	k.Environment = "test"
	if err := set.ValidateExtra(&k, keys.Extra{Name: "month", Requests: 1, Until: clock()}); err == nil {
		t.Error("a test key is granted more of the quota that it does not spend")
	}
	k.API = "nobody's"
	if _, _, err := set.LimitsOf(&k, clock()); err == nil {
		t.Error("an API that there is not has limits")
	}
}
