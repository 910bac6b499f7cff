package envoy_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"tollgate/envoy"
	"tollgate/policy/policyfile"
	"tollgate/testdata"
)

// decode returns the shipped bootstrap and, taken out of it, its virtual hosts by name.
func decode(t *testing.T) (rest map[string]any, hosts map[string]any) {
	t.Helper()
	shipped, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	rest = decodeFile(t, shipped)
	route := dig(rest, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config", "route_config").(map[string]any)
	hosts = map[string]any{}
	for _, h := range route["virtual_hosts"].([]any) {
		hosts[dig(h, "name").(string)] = h
	}
	route["virtual_hosts"] = nil
	return rest, hosts
}

// decodeFile reads YAML strictly.
func decodeFile(t *testing.T, data []byte) (root map[string]any) {
	t.Helper()
	if err := yaml.UnmarshalWithOptions(data, &root, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return root
}

// dig walks down a decoded document by keys and indexes.
func dig(v any, steps ...any) any {
	for _, s := range steps {
		switch s := s.(type) {
		case string:
			v = v.(map[string]any)[s]
		case int:
			v = v.([]any)[s]
		}
	}
	return v
}

// httpFilters returns the filters of a decoded bootstrap.
func httpFilters(root map[string]any) []any {
	return dig(root, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config", "http_filters").([]any)
}

// extAuthz returns the settings of the filter that asks Tollgate.
func extAuthz(t *testing.T, root map[string]any) map[string]any {
	t.Helper()
	for _, f := range httpFilters(root) {
		if dig(f, "name") == "envoy.filters.http.ext_authz" {
			return dig(f, "typed_config").(map[string]any)
		}
	}
	t.Fatal("no ext_authz filter")
	return nil
}

// takeAllowedHeaders takes the list of allowed headers out of a decoded bootstrap and returns it
// sorted.
func takeAllowedHeaders(t *testing.T, root map[string]any) (names []string) {
	t.Helper()
	filter := extAuthz(t, root)
	for _, p := range dig(filter, "allowed_headers", "patterns").([]any) {
		name, exact := p.(map[string]any)["exact"].(string)
		if !exact {
			t.Errorf("allowed_headers: %v is no exact name", p)
		}
		names = append(names, name)
	}
	delete(filter, "allowed_headers")
	slices.Sort(names)
	return names
}

// reads returns the headers that the policies of APIs read, and some more, sorted.
func reads(t *testing.T, apis []string, more ...string) []string {
	t.Helper()
	var files []policyfile.File
	for _, api := range apis {
		data, err := testdata.File(api, "policy.yaml")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, policyfile.File{Name: api, Data: data})
	}
	set, err := policyfile.Compile(files...)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(slices.Values(append(set.Headers(), more...)))
}

// forwarded is sent for policies behind a load balancer (client_address: {from: xff}), so that
// nobody who has one needs another setting of Envoy, which would believe too much.
const forwarded = "x-forwarded-for"

// ownHeader is a header that not every API reads, as the bootstraps mark it.
var ownHeader = regexp.MustCompile(`(?m)^ *- exact: (\S+) # (.+)\n`)

// A header too many takes to Tollgate what is none of its business; one too few is a key or an
// address that nobody sees.
func TestAllowedHeadersAreThoseThatThePoliciesRead(t *testing.T) {
	for _, door := range []struct {
		name string
		file func() ([]byte, error)
		more string
	}{{"envoy.yaml", envoy.Bootstrap, ":path"}, {"http/envoy.yaml", envoy.HTTPBootstrap, "x-tollgate-place"}} {
		shipped, err := door.file()
		if err != nil {
			t.Fatal(err)
		}
		root := decodeFile(t, shipped)
		if got, want := takeAllowedHeaders(t, root), reads(t, testdata.APIs(), door.more, forwarded); !slices.Equal(got, want) {
			t.Errorf("%s: allowed_headers are %q, its policies read %q", door.name, got, want)
		}
		for _, api := range testdata.APIs() {
			alone := ownHeader.ReplaceAllFunc(shipped, func(line []byte) []byte {
				if slices.Contains(strings.Split(string(ownHeader.FindSubmatch(line)[2]), ", "), api) {
					return line
				}
				return nil
			})
			got, want := takeAllowedHeaders(t, decodeFile(t, alone)), reads(t, []string{api}, door.more, forwarded)
			if !slices.Equal(got, want) {
				t.Errorf("%s: allowed_headers for %s are %q, its policy reads %q", door.name, api, got, want)
			}
		}
	}
}

// What differs from one API to the next, beside the headers that it reads.
func TestEachAPIHasItsHosts(t *testing.T) {
	_, hosts := decode(t)
	got := map[string]string{}
	for name, host := range hosts {
		context := any("none")
		if per, ok := host.(map[string]any)["typed_per_filter_config"]; ok {
			context = dig(per, "envoy.filters.http.ext_authz", "check_settings", "context_extensions")
			if dig(per, "envoy.filters.http.cors", "max_age") != "600" {
				t.Errorf("virtual host %s has no CORS policy: %v", name, per)
			}
		}
		got[name] = fmt.Sprintf("%v %v", dig(host, "domains"), context)
	}
	want := map[string]string{
		"genapi":       "[api.example.com] map[api:genapi]",
		"pictify-live": "[api.pictify.io] map[api:pictify environment:live]",
		"pictify-test": "[sandbox.pictify.io] map[api:pictify environment:test]",
		"pixelbyte":    "[api.pixelbyte.io] map[api:pixelbyte]",
		"pixelmagic":   "[api.pixelmagicai.com] map[api:pixelmagic]",
		"other":        "[*] none",
	}
	if !maps.Equal(got, want) {
		t.Errorf("virtual hosts:\n%v\nwant\n%v", got, want)
	}
}

// compose is what docker-compose.yaml may hold: a word that is not here is a misspelling or needs a
// thought.
type compose struct {
	Name     string
	Services map[string]struct {
		Image string
		Build struct {
			Context    string
			Dockerfile string
		}
		Command     []string
		Volumes     []string
		Ports       []string
		NetworkMode string `yaml:"network_mode"`
		Profiles    []string
		Tmpfs       []string
		CapDrop     []string `yaml:"cap_drop"`
		ReadOnly    bool     `yaml:"read_only"`
	}
	Volumes map[string]struct{}
}

func readCompose(t *testing.T) compose {
	t.Helper()
	data, err := os.ReadFile("docker-compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := yaml.UnmarshalWithOptions(data, &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestComposeRunsThePinnedEnvoy(t *testing.T) {
	if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(envoy.Version()) {
		t.Errorf("Version() = %q", envoy.Version())
	}
	c := readCompose(t)
	if got, want := c.Services["envoy"].Image, "envoyproxy/envoy:v"+envoy.Version(); got != want {
		t.Errorf("docker-compose.yaml runs %s, want %s", got, want)
	}
}

func TestComposeNamesFilesThatExist(t *testing.T) {
	c := readCompose(t)
	var checked int
	exists := func(path string) {
		checked++
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	mounted := map[string]bool{}
	for _, service := range c.Services {
		for _, v := range service.Volumes {
			parts := strings.Split(v, ":")
			mounted[parts[1]] = true
			if _, named := c.Volumes[parts[0]]; !named {
				exists(parts[0])
			}
		}
	}
	build := c.Services["tollgate"].Build
	dockerfile, err := os.ReadFile(filepath.Join(build.Context, build.Dockerfile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(dockerfile)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "COPY" && !strings.HasPrefix(fields[1], "--") {
			for _, source := range fields[1 : len(fields)-1] {
				exists(filepath.Join(build.Context, source))
			}
		}
	}
	if checked != 9+7 {
		t.Errorf("%d files checked, want 16", checked)
	}
	for _, arg := range c.Services["tollgate"].Command {
		folder, ok := strings.CutPrefix(arg, "--keys=")
		if within := func(path string) bool { return filepath.Dir(path) == folder }; ok && !slices.ContainsFunc(slices.Collect(maps.Keys(mounted)), within) {
			t.Errorf("%s: nothing is mounted there", arg)
		}
	}
}

func TestComposeFitsTheBootstrap(t *testing.T) {
	c := readCompose(t)
	rest, _ := decode(t)
	for i, want := range []struct{ service, flag string }{
		{"tollgate", "--grpc-address=127.0.0.1:"}, {"upstream", "--port="},
	} {
		address := dig(rest, "static_resources", "clusters", i, "load_assignment", "endpoints", 0, "lb_endpoints", 0,
			"endpoint", "address", "socket_address").(map[string]any)
		port, _ := yaml.Marshal(address["port_value"])
		flag := want.flag + strings.TrimSpace(string(port))
		if service := c.Services[want.service]; !slices.Contains(service.Command, flag) || service.NetworkMode != "service:envoy" {
			t.Errorf("%s: Envoy's loopback address is not served: %q, network_mode %q; want %s", want.service,
				service.Command, service.NetworkMode, flag)
		}
	}
}

// retryPolicy returns how the filter of a decoded bootstrap tries again, and the timeout of a
// check.
func retryPolicy(t *testing.T, root map[string]any) (policy map[string]any, timeout any) {
	t.Helper()
	filter := extAuthz(t, root)
	if service, ok := filter["grpc_service"].(map[string]any); ok {
		return service["retry_policy"].(map[string]any), service["timeout"]
	}
	return dig(filter, "http_service", "retry_policy").(map[string]any), dig(filter, "http_service", "server_uri", "timeout")
}

// Over HTTP no stream can be refused; else both doors try again in the same way.
func TestBothDoorsTryAgainAlike(t *testing.T) {
	grpc, _ := decode(t)
	var http map[string]any
	data, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalWithOptions(data, &http, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	overGRPC, limit := retryPolicy(t, grpc)
	overHTTP, limitHTTP := retryPolicy(t, http)
	if overGRPC["retry_on"] != "connect-failure,refused-stream" || overHTTP["retry_on"] != "connect-failure" {
		t.Errorf("tried again on %v, over HTTP on %v", overGRPC["retry_on"], overHTTP["retry_on"])
	}
	delete(overGRPC, "retry_on")
	delete(overHTTP, "retry_on")
	if !reflect.DeepEqual(overGRPC, overHTTP) || limit != limitHTTP {
		t.Errorf("over gRPC within %v: %v\nover HTTP within %v: %v", limit, overGRPC, limitHTTP, overHTTP)
	}
}

// Envoy takes max_interval of the back-off, or ten times base_interval without one, as the time
// limit of each try (Http::Utility::convertCoreToRouteRetryPolicy): a smaller one would end slow
// checks long before the timeout.
func TestNoTryEndsBeforeTheTimeout(t *testing.T) {
	rest, _ := decode(t)
	policy, limit := retryPolicy(t, rest)
	if try := dig(policy, "retry_back_off", "max_interval"); limit != try {
		t.Errorf("timeout %v, but each try ends after %v", limit, try)
	}
}

// Bytes stay bytes: over HTTP Tollgate believes that only where the words of a place say it, and
// they say it everywhere.
func TestBytesStayBytes(t *testing.T) {
	shipped, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	overGRPC, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string][]byte{"http/envoy.yaml": shipped, "envoy.yaml": overGRPC} {
		var root map[string]any
		if err := yaml.UnmarshalWithOptions(config, &root, yaml.Strict()); err != nil {
			t.Fatal(err)
		}
		filter := extAuthz(t, root)
		if filter["encode_raw_headers"] != true {
			t.Errorf("%s: encode_raw_headers is %v", name, filter["encode_raw_headers"])
		}
		if body, ok := filter["with_request_body"]; ok {
			t.Errorf("%s: request bodies are sent: %v", name, body)
		}
	}
	places := regexp.MustCompile(`key: x-tollgate-place, value: "([^"]*)"`).FindAllStringSubmatch(string(shipped), -1)
	if len(places) < 6 {
		t.Errorf("%d places in http/envoy.yaml", len(places))
	}
	for _, place := range places {
		if !strings.HasSuffix(place[1], ",encoding=raw") {
			t.Errorf("http/envoy.yaml: place %q does not say encoding=raw", place[1])
		}
	}
}

// What gRPC's bootstrap protects, the one over HTTP protects too: they differ in the filter, in how
// a virtual host names its API, and in what HTTP needs around that.
func TestHTTPBootstrapDiffersOnlyWhereItMust(t *testing.T) {
	grpc, hosts := decode(t)
	var http map[string]any
	data, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalWithOptions(data, &http, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	managerOf := func(root map[string]any) map[string]any {
		return dig(root, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config").(map[string]any)
	}
	filters := func(root map[string]any) (kept []any) {
		for _, f := range managerOf(root)["http_filters"].([]any) {
			switch dig(f, "name") {
			case "envoy.filters.http.ext_authz", "envoy.filters.http.lua":
			case "envoy.filters.http.header_mutation":
				config := dig(f, "typed_config", "mutations").(map[string]any)
				config["request_mutations"] = slices.DeleteFunc(config["request_mutations"].([]any), func(m any) bool {
					mutation := m.(map[string]any)
					name, _ := mutation["remove"].(string)
					if set, ok := mutation["append"]; ok {
						name = dig(set, "header", "key").(string)
					}
					return strings.HasPrefix(name, "x-tollgate-")
				})
				kept = append(kept, f)
			default:
				kept = append(kept, f)
			}
		}
		return kept
	}
	routes := managerOf(http)["route_config"].(map[string]any)
	for _, h := range routes["virtual_hosts"].([]any) {
		host := h.(map[string]any)
		want := hosts[host["name"].(string)].(map[string]any)
		for _, side := range []map[string]any{host, want} {
			if per, ok := side["typed_per_filter_config"].(map[string]any); ok {
				for _, own := range []string{"ext_authz", "header_mutation", "lua"} {
					delete(per, "envoy.filters.http."+own)
				}
			}
		}
		if !reflect.DeepEqual(host, want) {
			t.Errorf("virtual host %s:\n%v\n%v", host["name"], host, want)
		}
		delete(hosts, host["name"].(string))
	}
	if len(hosts) > 0 {
		t.Errorf("virtual hosts are missing: %v", hosts)
	}
	for _, root := range []map[string]any{grpc, http} {
		m := managerOf(root)
		m["http_filters"] = filters(root)
		// Tollgate's HTTP port receives no access logs.
		m["access_log"] = slices.DeleteFunc(m["access_log"].([]any), func(l any) bool { return dig(l, "name") == "envoy.access_loggers.http_grpc" })
		delete(m, "access_log_options")
		delete(m, "local_reply_config")
		route := m["route_config"].(map[string]any)
		delete(route, "request_headers_to_remove")
		delete(route, "response_headers_to_remove")
		route["virtual_hosts"] = nil
		tollgate := dig(root, "static_resources", "clusters", 0).(map[string]any)
		delete(tollgate, "typed_extension_protocol_options")
		delete(tollgate, "load_assignment")
		health := dig(tollgate, "health_checks", 0).(map[string]any)
		if health["http_health_check"] == nil && health["grpc_health_check"] == nil {
			t.Errorf("the health check is neither over gRPC nor over HTTP: %v", health)
		}
		delete(health, "http_health_check")
		delete(health, "grpc_health_check")
	}
	if !reflect.DeepEqual(grpc, http) {
		t.Errorf("http/envoy.yaml:\n%v\nenvoy.yaml:\n%v", http, grpc)
	}
}
