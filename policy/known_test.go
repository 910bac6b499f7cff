package policy_test

import (
	"fmt"
	"testing"
)

func TestKnowsNames(t *testing.T) {
	set := shopSet(t)
	api := set.APIs()[0].Name()
	plans, environments := set.Choices(api)
	if len(plans) == 0 || len(environments) == 0 {
		t.Fatalf("choices %v, %v", plans, environments)
	}
	if plans, environments := set.Choices("none"); plans != nil || environments != nil {
		t.Error("choices of no API")
	}
	for _, c := range []struct{ api, plan, environment, want string }{
		{"", "", "", ""},
		{api, plans[0], environments[0], ""},
		{"", plans[0], environments[0], ""},
		{api + "x", "", "", fmt.Sprintf("unknown api %q; did you mean %q?", api+"x", api)},
		{api, plans[0] + "x", "", fmt.Sprintf("unknown plan %q of api %q; did you mean %q?", plans[0]+"x", api, plans[0])},
		{"", plans[0] + "x", "", fmt.Sprintf("unknown plan %q; did you mean %q?", plans[0]+"x", plans[0])},
		{"", "", environments[0] + "x", fmt.Sprintf("unknown environment %q; did you mean %q?", environments[0]+"x", environments[0])},
	} {
		got := ""
		if err := set.KnowsNames(c.api, c.plan, c.environment); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q %q %q: %s, want %s", c.api, c.plan, c.environment, got, c.want)
		}
	}
}
