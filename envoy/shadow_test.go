package envoy_test

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/httpserver"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/policyfile"
)

// The hosts of three APIs of the shipped bootstrap: of the first a plan is shadowed, of the second
// all, of the third one of two limits.
const (
	shadowedPlan  = "api.pixelbyte.io"
	shadowedAPI   = "api.pixelmagicai.com"
	shadowedLimit = "api.example.com"
)

func shadowPolicies() []policyfile.File {
	const minute, few = "{name: minute, requests: 5, per: minute}", "{name: few, requests: 5, per: day}"
	files := []policyfile.File{
		extauthztest.SmallFile("api: small", "api: pixelbyte", "[small.test]", "["+shadowedPlan+"]", minute, few, "name: basic,", "name: basic, shadow_mode: true,"),
		extauthztest.SmallFile("api: small", "api: pixelmagic\nshadow_mode: true", "[small.test]", "["+shadowedAPI+"]", minute, few),
		extauthztest.SmallFile("api: small", "api: genapi", "[small.test]", "["+shadowedLimit+"]", minute,
			"{name: few, requests: 5, per: day, shadow_mode: true}, {name: day, requests: 7, per: day}"),
	}
	for i := range files {
		files[i].Name = strings.Repeat("x", i+1) + ".yaml"
	}
	return files
}

// shadowKeys has keys of each host that are good, revoked, expired, switched off, and bound to an
// address that nobody has.
func shadowKeys() (entries []keyfile.Entry, secrets map[string]string) {
	secrets = map[string]string{}
	for host, api := range map[string]string{shadowedPlan: "pixelbyte", shadowedAPI: "pixelmagic", shadowedLimit: "genapi"} {
		for _, kind := range []string{"good", "revoked", "expired", "inactive", "bound"} {
			k := keys.Key{
				ID: "key_" + api + "_" + kind, API: api, Team: "team_s", Name: kind, Plan: "basic", LimitID: "key_" + api + "_" + kind,
				Status: keys.Active, Version: 1, AnchorDay: 1, CreatedAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
			}
			switch kind {
			case "revoked":
				k.Status = keys.Revoked
			case "inactive":
				k.Status = keys.Inactive
			case "expired":
				k.ExpiresAt = time.Date(2025, 2, 1, 0, 0, 0, 0, time.UTC)
			case "bound":
				k.IPs = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
			}
			secret := keys.Seal("sm_", (api + kind + strings.Repeat("0", 27))[:27])
			secrets[host+" "+kind] = secret
			entries = append(entries, keyfile.Entry{Key: k, Secret: secret})
		}
		secrets[host+" unknown"] = keys.Seal("sm_", "ASecretThatIsNobodysAtAll00")
		secrets[host+" malformed"] = "sm_short"
		secrets[host+" missing"] = ""
	}
	return entries, secrets
}

// Through real Envoys that ask over gRPC and over HTTP.
func TestShadowModeThroughEnvoy(t *testing.T) {
	overHTTP, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	version := envoyVersions()[0]
	for _, door := range []string{"grpc", "http"} {
		t.Run(door, func(t *testing.T) {
			s := extauthztest.NewStack(t, nil, shadowPolicies()...)
			entries, secrets := shadowKeys()
			s.Use(t, extauthztest.NewRedis(t, "redis"), entries)
			s.Clock.Set(time.Now().Truncate(24 * time.Hour).Add(25 * time.Hour)) // no day ends meanwhile
			config, address := bootstrap(t), s.Addr
			if door == "http" {
				if version < oldestOverHTTP {
					t.Skip("no Envoy that is supported over HTTP")
				}
				config, address = overHTTP, extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
			}
			a := &attack{t: t, s: s, e: startEnvoy(t, version, config, address, s), secrets: secrets}
			t.Run("plan", a.plan)
			t.Run("api", a.api)
			t.Run("limit", a.limit)
			a.told()
		})
	}
}

// attack sends requests with forged identity headers.
type attack struct {
	t       *testing.T
	s       *extauthztest.Stack
	e       *edge
	secrets map[string]string
}

// ask sends one, and returns what came back, what the application got, if anything, and the
// decision's metadata.
func (a *attack) ask(t *testing.T, host, kind, target string) (*envoytest.Response, *envoytest.Received, map[string]string) {
	t.Helper()
	r := &envoytest.Request{Method: "GET", Target: target, Host: host, Source: netip.MustParseAddr("192.0.2.1")}
	for _, name := range identityHeaders() {
		r.Headers = append(r.Headers, [2]string{name, "forged"}, [2]string{strings.ReplaceAll(name, "-", "."), "forged"})
	}
	if secret := a.secrets[host+" "+kind]; secret != "" {
		r.Headers = append(r.Headers, [2]string{"authorization", "Bearer " + secret})
	}
	response := a.e.send(t, r, "h1")
	id, _ := response.Value("x-request-id")
	return response, received(response), a.e.metadata(t, id)
}

// passes wants a request to pass in spite of a reason, "" for none, and the application to know its
// key or nobody, and nothing that the client made up.
func (a *attack) passes(t *testing.T, host, kind, target, reason string, known bool) *envoytest.Response {
	t.Helper()
	response, echo, meta := a.ask(t, host, kind, target)
	if response.Status != 200 || echo == nil || meta["reason"] != "allowed" || meta["shadow"] != reason {
		t.Fatalf("%s %s %s: %d, %v", host, kind, target, response.Status, meta)
	}
	for _, h := range echo.Headers {
		if h[1] == "forged" || h[0] == "authorization" {
			t.Errorf("%s %s: %s reached the application", host, kind, h[0])
		}
	}
	if id, _ := echo.Value("x-credential-identifier"); (id != "") != known {
		t.Errorf("%s %s: the application knows %q", host, kind, id)
	}
	return response
}

// refused wants a request to be refused as ever.
func (a *attack) refused(t *testing.T, host, kind, target, reason string, status int) {
	t.Helper()
	response, echo, meta := a.ask(t, host, kind, target)
	if response.Status != status || echo != nil || meta["reason"] != reason || meta["shadow"] != "" {
		t.Errorf("%s %s %s: %d, %v, want %d %s", host, kind, target, response.Status, meta, status, reason)
	}
}

// A shadowed plan lets pass what its limits would refuse, and no key that is not good, not even
// beyond them.
func (a *attack) plan(t *testing.T) {
	for n := range 8 {
		reason := ""
		if n >= 5 {
			reason = "rate_limited"
		}
		response := a.passes(t, shadowedPlan, "good", "/items/1", reason, true)
		if _, told := response.Value("retry-after"); told {
			t.Error("a client is told to come again")
		}
	}
	for kind, reason := range badKeys() {
		a.refused(t, shadowedPlan, kind, "/items/1", reason, 401)
	}
	a.refused(t, shadowedPlan, "bound", "/items/1", "address_denied", 403)
	a.refused(t, shadowedPlan, "good", "/nothing", "route_denied", 403)
}

func badKeys() map[string]string {
	return map[string]string{
		"missing": "missing_credential", "malformed": "malformed_credential", "unknown": "unknown_key", "revoked": "revoked_key",
		"expired": "expired_key", "inactive": "inactive_key",
	}
}

// A shadowed API lets everything pass, and tells the application of no key but a good one.
func (a *attack) api(t *testing.T) {
	for kind, reason := range badKeys() {
		a.passes(t, shadowedAPI, kind, "/items/1", reason, false)
	}
	a.passes(t, shadowedAPI, "bound", "/items/1", "address_denied", false)
	a.passes(t, shadowedAPI, "good", "/nothing", "route_denied", false)
	for n := range 7 {
		reason := ""
		if n >= 5 {
			reason = "rate_limited"
		}
		a.passes(t, shadowedAPI, "good", "/items/1", reason, true)
	}
}

// Of two limits the one in shadow mode lets pass, and the other one refuses.
func (a *attack) limit(t *testing.T) {
	for n := range 7 {
		reason := ""
		if n >= 5 {
			reason = "rate_limited"
		}
		a.passes(t, shadowedLimit, "good", "/items/1", reason, true)
	}
	a.refused(t, shadowedLimit, "good", "/items/1", "rate_limited", 429)
}

// decisions sums those of an API and a reason, over routes and plans.
func decisions(t *testing.T, metrics, api, reason string) (n int) {
	t.Helper()
	series := regexp.MustCompile(`(?m)^tollgate_decisions_total\{api="` + api + `",plan="[^"]*",reason="` + reason + `",route="[^"]*"\} (\d+)$`)
	for _, m := range series.FindAllStringSubmatch(metrics, -1) {
		one, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		n += one
	}
	return n
}

// told sees that all of it is counted, and logged without any secret.
func (a *attack) told() {
	metrics, log := extauthztest.MetricsOf(a.s.Registry), a.s.Log.String()
	for _, line := range []string{
		`tollgate_shadowed_total{api="pixelbyte",reason="rate_limited"} 3`, `tollgate_shadowed_total{api="pixelmagic",reason="unknown_key"} 1`,
		`tollgate_shadowed_total{api="pixelmagic",reason="rate_limited"} 2`, `tollgate_shadowed_total{api="genapi",reason="rate_limited"} 2`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			a.t.Errorf("no metric %s", line)
		}
	}
	if allowed, limited := decisions(a.t, metrics, "pixelmagic", "allowed"), decisions(a.t, metrics, "genapi", "rate_limited"); allowed != 15 || limited != 1 {
		a.t.Errorf("%d allowed, %d rate limited", allowed, limited)
	}
	if strings.Contains(metrics, `tollgate_shadowed_total{api="pixelbyte",reason="unknown_key"}`) {
		a.t.Error("a shadowed plan has let an unknown key pass")
	}
	for _, part := range []string{`"reason":"allowed","shadow":"revoked_key"`, `"shadow":"rate_limited","shadow_limit":"few"`} {
		if !strings.Contains(log, part) {
			a.t.Errorf("the log does not say %s", part)
		}
	}
	for what, secret := range a.secrets {
		if secret != "" && strings.Contains(log, secret) {
			a.t.Errorf("the log holds the secret %s", what)
		}
	}
}
