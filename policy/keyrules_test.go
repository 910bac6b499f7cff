package policy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

func TestValidateKeySuggests(t *testing.T) {
	set, err := policyfile.Load(filepath.Join("..", "testdata", "pictify", "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	good := keys.Key{ID: "key_x", API: "pictify", Environment: "live", Plan: "free", Scopes: []string{"render"}}
	if err := set.ValidateKey(&good); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(*keys.Key){
		`unknown api "pictfy"; did you mean "pictify"?`:                                         func(k *keys.Key) { k.API = "pictfy" },
		`unknown api "other"; there is ["pictify"]`:                                             func(k *keys.Key) { k.API = "other" },
		`unknown environment "Live" of api "pictify"; did you mean "live"?`:                     func(k *keys.Key) { k.Environment = "Live" },
		`unknown environment "" of api "pictify"; there is ["live" "test"]`:                     func(k *keys.Key) { k.Environment = "" },
		`unknown scope "rander" of api "pictify"; did you mean "render"?`:                       func(k *keys.Key) { k.Scopes = []string{"rander"} },
		`unknown plan "fre" of api "pictify"; did you mean "free"?`:                             func(k *keys.Key) { k.Plan = "fre" },
		`unknown plan "gold" of api "pictify"; there is ["business" "enterprise" "free" "pro"]`: func(k *keys.Key) { k.Plan = "gold" },
		`does not have: "minut"; did you mean "minute"?`:                                        func(k *keys.Key) { k.Limits = []keys.Override{{Name: "day"}, {Name: "minut"}} },
		`limit "test_day" of plan "free" of api "pictify" is not for keys of environment "live"; there is ["day" "minute" "month"]`: func(k *keys.Key) {
			k.Limits = []keys.Override{{Name: "day"}, {Name: "test_day"}}
		},
		`limit "day" of plan "free" of api "pictify" is not for keys of environment "test"; there is ["minute" "test_day"]`: func(k *keys.Key) {
			k.Environment, k.Limits = "test", []keys.Override{{Name: "minute"}, {Name: "month"}, {Name: "day"}}
		},
	} {
		k := good
		edit(&k)
		if err := set.ValidateKey(&k); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestCapsAndPrefixes(t *testing.T) {
	set, err := policyfile.Load(filepath.Join("..", "testdata", "pictify", "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for plan, want := range map[string]string{
		"free": "2 5", "pro": "10 10", "business": "50 50", "enterprise": "- -", "gone": "- -",
	} {
		got := ""
		for _, environment := range []string{"live", "test"} {
			if most, capped := set.Cap("pictify", plan, environment); capped {
				got += fmt.Sprint(" ", most)
			} else {
				got += " -"
			}
		}
		if got[1:] != want {
			t.Errorf("%s: %s, want %s", plan, got, want)
		}
	}
	if _, capped := set.Cap("other", "free", "live"); capped {
		t.Error("an unknown API has a cap")
	}
	for _, test := range []struct{ api, environment, want, problem string }{
		{"pictify", "live", "pk_live_", ""},
		{"pictify", "test", "pk_test_", ""},
		{"pictify", "tast", "", `did you mean "test"?`},
		{"pictify", "", "", `unknown environment ""`},
		{"pictfy", "live", "", `did you mean "pictify"?`},
	} {
		got, err := set.Prefix(test.api, test.environment)
		if got != test.want || (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
			t.Errorf("%s %s: %q, %v", test.api, test.environment, got, err)
		}
	}
	plain := compiled(t, changed(t, "- name: free", "- name: free\n  key_caps: [{keys: 3}]"))
	if most, capped := plain.Cap("jobs", "free", ""); most != 3 || !capped {
		t.Errorf("without environments: %d, %t", most, capped)
	}
	if got, err := plain.Prefix("jobs", ""); got != "jb_" || err != nil {
		t.Errorf("the prefix of an API: %q, %v", got, err)
	}
	if _, err := plain.Prefix("jobs", "live"); err == nil {
		t.Error("an environment where there are none")
	}
	none := compiled(t, changed(t, "key_format: {prefixes: [jb_]}", "key_format: {checksum: optional}"))
	if got, err := none.Prefix("jobs", ""); got != "" || err != nil {
		t.Errorf("no prefix: %q, %v", got, err)
	}
}

func TestPlansLimitsAndSecretsInTexts(t *testing.T) {
	set, err := policyfile.Load(filepath.Join("..", "testdata", "pictify", "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		api, plan, name string
		want            int64
		known           bool
	}{
		{"pictify", "free", "minute", 60, true}, {"pictify", "pro", "month", 50_000, true}, {"pictify", "pro", "test_day", 100, true}, {"pictify", "free", "second", 0, false},
		{"pictify", "gold", "minute", 0, false}, {"other", "free", "minute", 0, false},
	} {
		if got, known := set.Limit(test.api, test.plan, test.name); got != test.want || known != test.known {
			t.Errorf("%+v: %d, %t", test, got, known)
		}
	}
	for want, err := range map[string]error{
		`unknown api "pictfy"; did you mean "pictify"?`:             set.KnowsPlan("pictfy", "free"),
		`unknown plan "fre" of api "pictify"; did you mean "free"?`: set.KnowsPlan("pictify", "fre"),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := set.KnowsPlan("pictify", "free"); err != nil {
		t.Error(err)
	}
	plain := compiled(t, changed(t, "- name: free", "- name: free"))
	none := compiled(t, changed(t, "key_format: {prefixes: [jb_]}", "key_format: {checksum: optional}"))
	for _, test := range []struct {
		set       *policy.Set
		api, text string
		want      bool
	}{
		{set, "pictify", "of " + keys.NewSecret("pk_test_"), true}, {set, "pictify", keys.NewSecret("jb_"), false},
		{plain, "jobs", keys.NewSecret("jb_"), true}, {plain, "jobs", keys.NewSecret(""), false},
		{none, "jobs", keys.NewSecret(""), true}, {none, "jobs", "a name", false}, {set, "other", keys.NewSecret("pk_test_"), false},
	} {
		if got := test.set.HoldsSecret(test.api, test.text); got != test.want {
			t.Errorf("%s: HoldsSecret is %t", test.api, got)
		}
	}
}
