package extauthz_test

import (
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz/extauthztest"
)

// An API whose environments nobody names refuses every key as if each client were
// wrong: that is said once, with what was asked and what there is.
func TestUnplacedRequestsAreToldOnce(t *testing.T) {
	environments := "environments: [{name: live, prefix: sm_, context: live}, {name: test, prefix: st_, context: test}]"
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile("key_format: {prefixes: [sm_], checksum: required}", environments))
	secret, entries := extauthztest.SmallKey()
	entries[0].Key.Environment = "live"
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	client := authv3.NewAuthorizationClient(s.Dial(t))
	ask := func(extensions map[string]string) string {
		t.Helper()
		req := extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret})
		req.Attributes.ContextExtensions = extensions
		resp, err := client.Check(extauthztest.Within(t), req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetDynamicMetadata().GetFields()["reason"].GetStringValue()
	}
	const warning = "every key is refused as wrong_environment"
	if got := ask(map[string]string{"api": "small", "environment": "live"}); got != "allowed" || strings.Contains(s.Log.String(), warning) {
		t.Fatalf("%s\n%s", got, s.Log)
	}
	if got := ask(map[string]string{"api": "small", "environment": "test"}); got != "wrong_environment" || strings.Contains(s.Log.String(), warning) {
		t.Fatalf("a live key under test: %s\n%s", got, s.Log)
	}
	for range 3 {
		if got := ask(map[string]string{"api": "small"}); got != "wrong_environment" {
			t.Fatal(got)
		}
	}
	if got := ask(map[string]string{"api": "smal"}); got != "unknown_api" {
		t.Fatal(got)
	}
	for text, want := range map[string]int{
		warning: 1, `"api":"small","environments":"live,test","asked_environment":"","host":"small.test"`: 1,
		`"asked_environment":"test","key_environment":"live"`: 1, `"host":"small.test","key_environment":"live"`: 3,
		`"reason":"unknown_api","host":"small.test","asked_api":"smal"`: 1,
	} {
		if n := strings.Count(s.Log.String(), text); n != want {
			t.Errorf("%d times %s, want %d:\n%s", n, text, want, s.Log)
		}
	}
}
