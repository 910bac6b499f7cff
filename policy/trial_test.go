package policy_test

import (
	"github.com/goccy/go-yaml"
	"os"
	"regexp"
	"strings"
	"testing"

	"tollgate/policy"
	"tollgate/policy/policyfile"
)

// Every route of the four APIs can be reached by a key that may use it, in each of the API's
// environments.
func TestTrialsOfTheFourAPIs(t *testing.T) {
	for _, name := range []string{"pixelbyte", "pixelmagic", "genapi", "pictify"} {
		path := "../testdata/" + name + "/policy.yaml"
		set, err := policyfile.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		api := set.APIs()[0]
		environments := append([]string{""}, api.Environments()...)
		for _, environment := range environments {
			for request, route := range examples(t, path) {
				method, path, _ := strings.Cut(request, " ")
				got, err := set.Try(policy.Trial{Method: method, Target: path, Environment: environment})
				if err != nil || got.Reason != policy.Allowed || got.Route != route {
					t.Errorf("%s %q: %s: %+v, %v, want route %s allowed", name, environment, request, got, err, route)
				}
			}
		}
		if _, err := set.Try(policy.Trial{Method: "GET", Target: "/", Environment: "nowhere"}); err == nil {
			t.Errorf("%s has an environment nowhere", name)
		}
	}
}

// examples returns a request of each route of a policy file, with the route's name.
func examples(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Routes []struct{ Name, Match string }
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.Routes) == 0 {
		t.Fatalf("%s: %d routes, %v", path, len(file.Routes), err)
	}
	requests := map[string]string{}
	for _, route := range file.Routes {
		request := strings.Replace(route.Match, "{$}", "", 1)
		request = regexp.MustCompile(`{\w+(\.\.\.)?}|/$`).ReplaceAllString(request, "one")
		if !strings.Contains(request, " ") {
			request = "PATCH " + request
		}
		requests[request] = route.Name
	}
	return requests
}

// A key in the query alone is a place as good as the others.
func TestTrialWithAKeyInTheQuery(t *testing.T) {
	set := compiled(t, `
api: shop
credentials: [{query: api_key}]
routes: [{name: item, match: "GET /items/{id}", scope: none}]
`+nestedErrors)
	for _, target := range []string{"/items/1", "/items/1?a=b"} {
		if got, err := set.Try(policy.Trial{Method: "GET", Target: target}); err != nil || got.Reason != policy.Allowed {
			t.Errorf("%s: %+v, %v", target, got, err)
		}
	}
	if got, err := set.Try(policy.Trial{Method: "GET", Target: "/items/1", Keyless: true}); err != nil || got.Reason != policy.MissingCredential {
		t.Errorf("%+v, %v", got, err)
	}
}
