package policy_test

import (
	"path/filepath"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/policyfile"
)

// With some overrides a request could never be allowed, whenever it is tried.
func TestOverridesThatNoRequestPasses(t *testing.T) {
	set, err := policyfile.Load(filepath.Join("..", "testdata", "small.yaml")) // submit costs 5 and needs a scope
	if err != nil {
		t.Fatal(err)
	}
	override := func(n int64) []keys.Override { return []keys.Override{{Name: "minute", Requests: n}} }
	for _, c := range []struct {
		scopes []string
		limits []keys.Override
		want   string
	}{
		{[]string{"submit"}, nil, ""},
		{[]string{"submit"}, override(5), ""},
		{[]string{"submit"}, override(4), `limit "minute" of 4 is under the cost of route "submit", which is 5: no request of it could ever be allowed`},
		{[]string{"read"}, override(4), ""}, // which may not use that route
		{[]string{"read"}, override(0), `limit "minute" of 0 would refuse every request, whenever it is tried; deactivate the key instead`},
		{nil, override(0), ""}, // may use no route
		{[]string{"read"}, override(60), ""},
	} {
		got := ""
		if err := set.ValidateLimits(&keys.Key{API: "jobs", Plan: "free", Scopes: c.scopes, Limits: c.limits}); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v %v: %s, want %s", c.scopes, c.limits, got, c.want)
		}
	}
	// What the plan says itself is meant.
	closed, err := policyfile.Compile(policyfile.File{Name: "f", Data: []byte(strings.Replace(changed(t), "requests: 60", "requests: 0", 1))})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.ValidateLimits(&keys.Key{API: "jobs", Plan: "free", Scopes: []string{"read"}, Limits: override(0)}); err != nil {
		t.Error(err)
	}
}

// A secret that could never be accepted is refused with the place of the policy that says so.
func TestSecretsOfAnotherForm(t *testing.T) {
	set, err := policyfile.Compile(policyfile.File{Name: "f.yaml", Data: []byte(changed(t))})
	if err != nil {
		t.Fatal(err)
	}
	good := keys.Seal("jb_", "Ea1bB2cC3dD4eE5fF6gG7hH8iI9")
	for secret, want := range map[string]string{
		good: "",
		"xx" + good: `the secret has not the form of the keys of api "jobs", which begin with jb_, so every request with it would be refused: ` +
			"key_format.prefixes (f.yaml:4:24) must have its prefix too",
		good[:len(good)-1] + "!": `the secret has not the form of the keys of api "jobs", which end in a checksum, so every request with it would be refused: ` +
			"key_format (f.yaml:4:13) must say checksum: optional",
	} {
		got := ""
		if err := set.ValidateSecret(&keys.Key{API: "jobs"}, secret); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	shop := shopSet(t)
	if err := shop.ValidateSecret(&keys.Key{API: "shop", Environment: "live"}, secret("sk_test_")); err == nil || !strings.Contains(err.Error(), `has not the prefix "sk_live_" of environment "live"`) {
		t.Error(err)
	}
	if n := set.MaxAddresses("jobs"); n != keys.MaxAddresses {
		t.Error(n)
	}
	more, err := policyfile.Compile(policyfile.File{Name: "f", Data: []byte(strings.Replace(changed(t), "api: jobs", "api: jobs\nclient_address: {max_addresses: 3000}", 1))})
	if err != nil || more.MaxAddresses("jobs") != 3000 || more.MaxAddresses("other") != keys.MaxAddresses {
		t.Errorf("%v, %v", more, err)
	}
}
