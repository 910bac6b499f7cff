package policy

import (
	"iter"
	"strings"
	"testing"
)

// Every route of the four APIs can be reached by a key that may use it, in each of
// the API's environments.
func TestTrialsOfTheFourAPIs(t *testing.T) {
	for _, name := range []string{"pixelbyte", "pixelmagic", "genapi", "pictify"} {
		set, err := Load("../testdata/" + name + "/policy.yaml")
		if err != nil {
			t.Fatal(err)
		}
		api := set.APIs()[0]
		environments := append([]string{""}, api.Environments()...)
		for _, environment := range environments {
			for request, route := range api.routes.examples() {
				method, path, _ := strings.Cut(request, " ")
				got, err := set.Try(Trial{Method: method, Target: path, Environment: environment})
				if err != nil || got.Reason != Allowed || got.Route != route {
					t.Errorf("%s %q: %s: %+v, %v, want route %s allowed", name, environment, request, got, err, route)
				}
			}
		}
		if _, err := set.Try(Trial{Method: "GET", Target: "/", Environment: "nowhere"}); err == nil {
			t.Errorf("%s has an environment nowhere", name)
		}
	}
}

// examples yields a request of each route, and the route's name.
func (r *router) examples() iter.Seq2[string, string] {
	return func(yield func(request, route string) bool) {
		for method, tree := range r.methods {
			tree.examples(method+" ", yield)
		}
		r.any.examples("PATCH ", yield)
	}
}

func (n *node) examples(request string, yield func(request, route string) bool) {
	if n == nil {
		return
	}
	if n.route != nil {
		yield(request, n.route.name)
	}
	if n.multi != nil {
		yield(request+"/rest", n.multi.name)
	}
	for segment, child := range n.literal {
		child.examples(request+"/"+segment, yield)
	}
	n.single.examples(request+"/one", yield)
}

// A key in the query alone is a place as good as the others.
func TestTrialWithAKeyInTheQuery(t *testing.T) {
	set := compiled(t, `
api: shop
credentials: [{query: api_key}]
routes: [{name: item, match: "GET /items/{id}", scope: none}]
`+nestedErrors)
	for _, target := range []string{"/items/1", "/items/1?a=b"} {
		if got, err := set.Try(Trial{Method: "GET", Target: target}); err != nil || got.Reason != Allowed {
			t.Errorf("%s: %+v, %v", target, got, err)
		}
	}
	if got, err := set.Try(Trial{Method: "GET", Target: "/items/1", Keyless: true}); err != nil || got.Reason != MissingCredential {
		t.Errorf("%+v, %v", got, err)
	}
}
