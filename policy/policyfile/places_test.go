package policyfile

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"tollgate/policy"
)

// Each rule is found on the line that states it.
func TestPlaces(t *testing.T) {
	places := map[string]*Places{}
	texts := map[string]string{}
	for api, path := range map[string]string{
		"jobs": "../../testdata/small.yaml", "pictify": "../../testdata/pictify/policy.yaml", "pixelmagic": "../../testdata/pixelmagic/policy.yaml",
	} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[api] = string(data)
		if _, places[api], err = CompilePlaced(File{Name: api + ".yaml", Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		api  string
		rule policy.Rule
		line string // what the line holds; "" if the file does not say it
	}{
		{"jobs", policy.Rule{Section: policy.APISection}, "api: jobs"},
		{"jobs", policy.Rule{Section: policy.HostsSection, Name: "jobs.example.com"}, "hosts: [jobs"},
		{"jobs", policy.Rule{Section: policy.CredentialsSection}, "credentials: ["},
		{"jobs", policy.Rule{Section: policy.CredentialsSection, Name: "authorization: Bearer"}, "credentials: [bearer"},
		{"jobs", policy.Rule{Section: policy.CredentialsSection, Name: "header: x-api-key"}, "{header: X-API-Key}"},
		{"jobs", policy.Rule{Section: policy.CredentialsSection, Name: "query: key"}, ""},
		{"jobs", policy.Rule{Section: policy.KeyFormatSection}, "key_format:"},
		{"jobs", policy.Rule{Section: policy.EmptyScopesSection}, ""},
		{"jobs", policy.Rule{Section: policy.ScopesSection, Name: "read"}, "{name: read}]"},
		{"jobs", policy.Rule{Section: policy.RoutesSection}, "{name: submit, match"},
		{"jobs", policy.Rule{Section: policy.RoutesSection, Name: "job"}, "{name: job, match"},
		{"jobs", policy.Rule{Section: policy.RoutesSection, Name: "gone"}, ""},
		{"jobs", policy.Rule{Section: policy.PlansSection, Name: "free"}, "- name: free"},
		{"jobs", policy.Rule{Section: policy.PlansSection, Name: "free", Limit: "month"}, "{name: month, requests"},
		{"jobs", policy.Rule{Section: policy.PlansSection, Name: "free", Limit: "gone"}, ""},
		{"jobs", policy.Rule{Section: policy.PlansSection, Name: "free", Limit: "concurrent"}, ""},
		{"jobs", policy.Rule{Section: policy.PlansSection, Name: "gone"}, ""},
		{"jobs", policy.Rule{Section: policy.AnswersSection, Name: "scope_denied"}, "on: [address_denied, scope_denied"},
		{"jobs", policy.Rule{Section: policy.AnswersSection, Name: "corrupt_key"}, "on: [undecided]"},
		{"jobs", policy.Rule{}, ""},
		{"gone", policy.Rule{Section: policy.APISection}, ""},
		{"pictify", policy.Rule{Section: policy.HostsSection, Name: "sandbox.pictify.io"}, "{name: test, prefix: pk_test_"},
		{"pictify", policy.Rule{Section: policy.EnvironmentsSection, Name: "live"}, "{name: live, prefix: pk_live_"},
		{"pictify", policy.Rule{Section: policy.AddressSection}, "client_address:"},
		{"pictify", policy.Rule{Section: policy.EmptyScopesSection}, "empty_scopes: all"},
		{"pixelmagic", policy.Rule{Section: policy.CredentialsSection, Name: "query: api_key"}, "query: api_key"},
		{"pixelmagic", policy.Rule{Section: policy.PlansSection, Name: "free", Limit: "concurrent"}, "concurrent: 2"},
	} {
		p := places[c.api]
		if p == nil {
			p = places["jobs"]
		}
		at, ok := p.Find(c.api, c.rule)
		if ok != (c.line != "") {
			t.Errorf("%s %+v: %s, found %v", c.api, c.rule, at, ok)
			continue
		}
		if !ok {
			continue
		}
		line := strings.Split(texts[c.api], "\n")[at.Line-1]
		if !strings.Contains(line, c.line) || at.String() != fmt.Sprintf("%s.yaml:%d", c.api, at.Line) {
			t.Errorf("%s %+v: %s is %q, want %q", c.api, c.rule, at, line, c.line)
		}
	}
	if _, p, err := CompilePlaced(File{Name: "bad.yaml", Data: []byte("api: x")}); err == nil || p != nil {
		t.Errorf("a bad file: %v, %v", p, err)
	}
}
