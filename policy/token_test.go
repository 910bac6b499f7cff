package policy_test

import (
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/oauth"
)

// tokenShop is shop with issuers of access tokens; %s is more of the first of them.
func tokenShop(t testing.TB, more string, extra ...string) *policy.Set {
	t.Helper()
	text := strings.Replace(shop, "{query: api_key}]", `{query: api_key},
  {oauth2: {issuer: https://login.example.com, audience: [shop], environment: live, plan: closed`+more+`}},
  {oauth2: {issuer: https://other.example.com, audience: [shop], environment: test, plan_claim: plan}}]
resource: https://shop.example.com/v1`, 1)
	return compiled(t, text+strings.Join(extra, "\n")+"\n"+shopAnswers())
}

// jwt has the form of a token, and nothing in it.
const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2xvZ2luIn0.c2lnbmF0dXJl"

// caller is a request with a token, what verifying that comes to, and what the store says of the
// client.
type caller struct {
	request  policy.Request
	token    *oauth.Token
	tokenErr error
	record   *keys.Key
	keyErr   error // where there is no record; default keys.ErrUnknown

	verified int
	looked   []keys.Digest
	spend    limits.Spend
	check    policy.Check
	hasher   *keys.Hasher
}

func newCaller(set *policy.Set) *caller {
	i := set.APIs()[0].Issuers()[0]
	client := keys.Client{Issuer: i.URL, ID: "reports"}
	return &caller{
		request: policy.Request{
			HTTP: true, Method: "GET", Host: "shop.example.com", Target: "/items",
			Headers: []policy.Header{{"authorization", "Bearer " + jwt}}, Peer: netip.MustParseAddr("192.0.2.1"),
		},
		token: &oauth.Token{
			Issuer: i, Client: client.ID, Scopes: []string{"read", "strange"}, ExpiresAt: clock().Add(time.Minute),
			RecordID: client.RecordID("shop"), Lookup: client.Lookup("shop"), Texts: client.RecordID("shop") + client.ID,
		},
		hasher: keys.NewHasher([]byte("pepper")),
	}
}

// claims gives the token a plan and a team.
func (c *caller) claims(plan, team string) {
	c.token.Plan, c.token.Team = plan, team
	c.token.Texts += team
}

// recorded gives the client a record.
func (c *caller) recorded(change func(*keys.Key)) {
	c.record = &keys.Key{ID: c.token.RecordID, LimitID: c.token.RecordID, API: "shop", Name: c.token.Client, Status: keys.Active, AnchorDay: 1}
	change(c.record)
}

func (c *caller) decide(t *testing.T, set *policy.Set) *policy.Decision {
	t.Helper()
	wait := policy.NewDecider(c.hasher, nil, clock).Begin(&c.check, set, &c.request)
	for wait != policy.Done {
		switch wait {
		case policy.WaitToken:
			c.verified++
			issuers, text := c.check.Token()
			if text != jwt && text != "opaque-token" || len(issuers) != 2 {
				t.Errorf("verifies %q of %d issuers", text, len(issuers))
			}
			wait = c.check.Verified(c.token, c.tokenErr)
		case policy.WaitKey:
			c.looked = append(c.looked, c.check.Digest())
			if c.token != nil && c.verified > 0 && !c.check.Caller().Verified {
				t.Error("the look-up counts as a guess")
			}
			if c.record != nil {
				wait = c.check.Found(*keys.NewGrant(c.record), nil)
				continue
			}
			err := c.keyErr
			if err == nil {
				err = keys.ErrUnknown
			}
			wait = c.check.Found(keys.Grant{}, err)
		case policy.WaitLimits:
			c.spend = *c.check.Spend()
			*c.check.Result() = limits.Result{Allowed: true, Now: clock(), States: make([]limits.State, len(c.spend.Windows))}
			wait = c.check.Spent(nil)
		}
	}
	return c.check.Decision()
}

func headersOf(list []policy.Header) map[string]string {
	m := map[string]string{}
	for _, h := range list {
		m[h.Name] = h.Value
	}
	return m
}

// A token goes through the same decision as a key, for its client.
func TestTokenOfClientWithoutRecord(t *testing.T) {
	set := tokenShop(t, "")
	c := newCaller(set)
	d := c.decide(t, set)
	if !d.Allow || c.verified != 1 || len(c.looked) != 1 || c.looked[0] != c.hasher.Digest(c.token.Lookup) {
		t.Fatalf("%v, verified %d times, looked up %d times", d.Reason, c.verified, len(c.looked))
	}
	if c.spend.ID != c.token.RecordID || len(c.spend.Windows) != 2 || c.spend.Cost != 1 {
		t.Errorf("spends %+v", c.spend)
	}
	got := headersOf(d.Request)
	if got["x-consumer-username"] != "reports" || got["x-credential-identifier"] != c.token.RecordID || got["x-consumer-plan"] != "closed" || got["x-authenticated-scope"] != "read" {
		t.Errorf("the application is told %v", got)
	}
	if !slices.Contains(d.Remove, "authorization") || !slices.Contains(d.Remove, "x-consumer-id") {
		t.Errorf("removes %v", d.Remove)
	}
	if c.check.Recorded() {
		t.Error("there is no record")
	}
	for name, want := range map[string]string{"issuer": "https://login.example.com", "client": "reports", "key_id": c.token.RecordID, "plan": "closed", "environment": "live", "reason": "allowed"} {
		if d.Meta(name) != want {
			t.Errorf("metadata %s: %q", name, d.Meta(name))
		}
	}
	for _, m := range append(d.Metadata, d.Request...) {
		if strings.Contains(m.Value, "eyJ") {
			t.Errorf("%s holds the token", m.Name)
		}
	}
}

func TestTokensAreJudged(t *testing.T) {
	for _, tt := range []struct {
		name  string
		wrong func(c *caller)
		want  policy.Reason
	}{
		{"good", func(*caller) {}, policy.Allowed},
		{"refused", func(c *caller) { c.token, c.tokenErr = nil, &oauth.RefusedError{Why: "w"} }, policy.InvalidToken},
		{"expired", func(c *caller) { c.token, c.tokenErr = nil, &oauth.RefusedError{Why: "w", ExpiredAt: clock()} }, policy.ExpiredToken},
		{"expired since it was verified", func(c *caller) { c.token.ExpiresAt = clock().Add(-30 * time.Second) }, policy.ExpiredToken},
		{"not verified", func(c *caller) { c.token, c.tokenErr = nil, errors.New("away") }, policy.Undecided},
		{"neither token nor error", func(c *caller) { c.token = nil }, policy.Undecided},
		{"store away", func(c *caller) { c.keyErr = errors.New("away") }, policy.Undecided},
		{"an unreadable record", func(c *caller) { c.keyErr = &keys.CorruptError{} }, policy.CorruptKey},
		{"another scope", func(c *caller) { c.token.Scopes = []string{"strange"} }, policy.InsufficientScope},
		{"no scope", func(c *caller) { c.token.Scopes = nil }, policy.InsufficientScope},
		{"a scope that implies it", func(c *caller) { c.token.Scopes = []string{"admin"} }, policy.Allowed},
		{"a route without a scope", func(c *caller) { c.token.Scopes, c.request.Target = nil, "/me" }, policy.Allowed},
		{"no route", func(c *caller) { c.request.Target = "/none" }, policy.RouteDenied},
		{"another environment", func(c *caller) { c.request.Host = "sandbox.example.com" }, policy.WrongEnvironment},
		{"a claimed plan", func(c *caller) { c.claims("unlimited", "") }, policy.Allowed},
		{"a claimed plan that is unknown", func(c *caller) { c.claims("gold", "") }, policy.InvalidToken},
		{"blocked", func(c *caller) { c.recorded(func(k *keys.Key) { k.Status = keys.Inactive }) }, policy.InactiveKey},
		{"blocked for good", func(c *caller) { c.recorded(func(k *keys.Key) { k.Status = keys.Revoked }) }, policy.RevokedKey},
		{"a record that has ended", func(c *caller) { c.recorded(func(k *keys.Key) { k.ExpiresAt = clock() }) }, policy.ExpiredKey},
		{"a record with a plan", func(c *caller) { c.claims("gold", ""); c.recorded(func(k *keys.Key) { k.Plan = "open" }) }, policy.Allowed},
		{"a record with an unknown plan", func(c *caller) { c.recorded(func(k *keys.Key) { k.Plan = "gold" }) }, policy.CorruptKey},
		{"a record, and an unknown plan claimed", func(c *caller) { c.claims("gold", ""); c.recorded(func(*keys.Key) {}) }, policy.InvalidToken},
		{"a record with an unknown limit", func(c *caller) {
			c.recorded(func(k *keys.Key) { k.Limits = []keys.Override{{Name: "none", Requests: 1}} })
		}, policy.CorruptKey},
		{"a record with scopes", func(c *caller) {
			c.token.Scopes = nil
			c.recorded(func(k *keys.Key) { k.Scopes = []string{"read"} })
		}, policy.InsufficientScope},
		{"a record with addresses", func(c *caller) {
			c.recorded(func(k *keys.Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} })
		}, policy.AddressDenied},
		{"bound, without a certificate", func(c *caller) { c.token.Bound = true }, policy.InvalidToken},
	} {
		for _, shadow := range []string{"", "shadow_mode: true"} {
			set := tokenShop(t, "", shadow)
			c := newCaller(set)
			tt.wrong(c)
			d := c.decide(t, set)
			if got := d.Judged(); got != tt.want || d.Allow != (tt.want == policy.Allowed || shadow != "") {
				t.Errorf("%s%s: %v, allowed %v, want %v", tt.name, shadow, got, d.Allow, tt.want)
			}
			if len(c.check.Explain().Steps) < 3 {
				t.Errorf("%s: %v", tt.name, c.check.Explain().Steps)
			}
			for _, s := range c.check.Explain().Steps {
				if s.Text == "" || strings.Contains(s.Text, "eyJ") {
					t.Errorf("%s: step %s says %q", tt.name, s.Name, s.Text)
				}
			}
		}
	}
}

// A bound token counts with its own certificate, as Envoy sends it, and no other.
func TestBoundTokens(t *testing.T) {
	set := tokenShop(t, ", certificate_bound: true")
	if !set.WantsCertificate() || tokenShop(t, "").WantsCertificate() {
		t.Error("who wants the client's certificate")
	}
	encoded := func(kind, text string) string {
		return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(text)})))
	}
	for certificate, want := range map[string]policy.Reason{
		encoded("CERTIFICATE", "mine"): policy.Allowed, encoded("CERTIFICATE", "another"): policy.InvalidToken, encoded("PUBLIC KEY", "mine"): policy.InvalidToken,
		"": policy.InvalidToken, "%zz": policy.InvalidToken, "mine": policy.InvalidToken,
	} {
		c := newCaller(set)
		c.token.Bound, c.token.Certificate, c.request.Certificate = true, sha256.Sum256([]byte("mine")), certificate
		if d := c.decide(t, set); d.Reason != want {
			t.Errorf("%q: %v", certificate, d.Reason)
		}
	}
}

// What the record does not say, the token may.
func TestRecordsOfClients(t *testing.T) {
	set := tokenShop(t, "")
	for _, tt := range []struct {
		record           func(*keys.Key)
		plan, team       string // that the token claims
		wantPlan, wantID string
	}{
		{func(*keys.Key) {}, "", "", "closed", ""},
		{func(*keys.Key) {}, "open", "blue", "open", "blue"},
		{func(k *keys.Key) { k.Plan, k.Team = "unlimited", "red" }, "open", "blue", "unlimited", "red"},
	} {
		c := newCaller(set)
		c.claims(tt.plan, tt.team)
		c.recorded(tt.record)
		d := c.decide(t, set)
		got := headersOf(d.Request)
		if !d.Allow || got["x-consumer-plan"] != tt.wantPlan || got["x-consumer-id"] != tt.wantID || got["x-consumer-username"] != "reports" || got["x-credential-identifier"] != c.token.RecordID {
			t.Errorf("%v %v", d.Reason, got)
		}
		if !c.check.Recorded() {
			t.Error("there is a record")
		}
	}
}

// A record may be found by an older pepper, and is then rehashed as a key's; where there is none,
// nothing is.
func TestOlderHashesOfClients(t *testing.T) {
	set := tokenShop(t, "")
	for _, recorded := range []bool{false, true} {
		c := newCaller(set)
		c.hasher = keys.NewHasher([]byte("new"), keys.Method{Pepper: []byte("old")})
		old := c.hasher.OlderDigest(0, c.token.Lookup)
		c.keyErr = nil
		policy.NewDecider(c.hasher, nil, clock).Begin(&c.check, set, &c.request)
		wait := c.check.Verified(c.token, nil)
		if wait != policy.WaitKey {
			t.Fatal(wait)
		}
		if wait = c.check.Found(keys.Grant{}, keys.ErrUnknown); wait != policy.WaitKey || c.check.Digest() != old {
			t.Fatal("the older digest was not asked for")
		}
		if recorded {
			c.recorded(func(*keys.Key) {})
			wait = c.check.Found(*keys.NewGrant(c.record), nil)
		} else {
			wait = c.check.Found(keys.Grant{}, keys.ErrUnknown)
		}
		if wait != policy.WaitLimits {
			t.Fatal(wait)
		}
		*c.check.Result() = limits.Result{Allowed: true, Now: clock(), States: make([]limits.State, 2)}
		c.check.Spent(nil)
		id, from, to, ok := c.check.Rehash()
		if ok != recorded || ok && (id != c.token.RecordID || from != old || to != c.hasher.Digest(c.token.Lookup)) {
			t.Errorf("recorded %v: rehash %v of %q", recorded, ok, id)
		}
	}
}

// By its place and its form alone something is a token or a key: a key is never verified as a
// token, nor a token looked up as a key.
func TestKeysAndTokensAreToldApart(t *testing.T) {
	long := "eyJ" + strings.Repeat("a", 3000) + "." + strings.Repeat("b", 3000) + ".c"
	auth := func(values ...string) (all []policy.Header) {
		for _, v := range values {
			all = append(all, policy.Header{Name: "authorization", Value: v})
		}
		return all
	}
	for _, tt := range []struct {
		name     string
		headers  []policy.Header
		target   string
		want     policy.Reason // before anything is known of it; Allowed where it is asked for
		token    bool
		lookedUp bool
	}{
		{"a token", auth("Bearer " + jwt), "", policy.Allowed, true, false},
		{"in other letters", auth("bEaReR  " + jwt), "", policy.Allowed, true, false},
		{"a long token", auth("Bearer " + long), "", policy.Allowed, true, false},
		{"a longer token", auth("Bearer " + long + strings.Repeat("d", 3000)), "", policy.MalformedCredential, false, false},
		{"a key", auth("Bearer " + secret("sk_live_")), "", policy.Allowed, false, true},
		{"what begins as a key", auth("Bearer sk_live_" + jwt), "", policy.MalformedCredential, false, false},
		{"a long key", auth("Bearer sk_live_" + strings.Repeat("k", 600)), "", policy.MalformedCredential, false, false},
		{"four parts", auth("Bearer " + jwt + ".x"), "", policy.MalformedCredential, false, false},
		{"neither", auth("Bearer 0123456789"), "", policy.MalformedCredential, false, false},
		{"two tokens", auth("Bearer "+jwt, "Bearer "+jwt+"x"), "", policy.MalformedCredential, false, false},
		{"a token and a key", append(auth("Bearer "+jwt), policy.Header{Name: "x-api-key", Value: secret("sk_live_")}), "", policy.MalformedCredential, false, false},
		{"a token twice", append(auth("Bearer "+jwt), policy.Header{Name: "x-api-key", Value: jwt}), "", policy.MalformedCredential, false, false},
		{"a token and a key in the query", auth("Bearer " + jwt), "/items?api_key=" + secret("sk_live_"), policy.MalformedCredential, false, false},
		{"a token in a key's header", []policy.Header{{Name: "x-api-key", Value: jwt}}, "", policy.MalformedCredential, false, false},
		{"a long token in a key's header", []policy.Header{{Name: "x-api-key", Value: long}}, "", policy.MalformedCredential, false, false},
		{"a token in the query", nil, "/items?api_key=" + jwt, policy.MalformedCredential, false, false},
		{"a token by another name in the query", nil, "/items?access_token=" + jwt, policy.MissingCredential, false, false},
		{"another scheme", auth("DPoP " + jwt), "", policy.MissingCredential, false, false},
		{"nothing", auth("Bearer"), "", policy.MissingCredential, false, false},
	} {
		set := tokenShop(t, "")
		c := newCaller(set)
		c.request.Headers = tt.headers
		if tt.target != "" {
			c.request.Target = tt.target
		}
		wait := policy.NewDecider(c.hasher, nil, clock).Begin(&c.check, set, &c.request)
		if (wait == policy.WaitToken) != tt.token || (wait == policy.WaitKey) != tt.lookedUp || wait == policy.Done && c.check.Decision().Reason != tt.want {
			t.Errorf("%s: waits for %v, %v", tt.name, wait, c.check.Decision().Reason)
		}
	}
}

// An API without bearer keys takes tokens there and nothing else, not even what looks like a key.
func TestTokensAlone(t *testing.T) {
	text := strings.Replace(shop, "[bearer, {header: X-API-Key}, {query: api_key}]",
		"[{header: X-API-Key}, {oauth2: {issuer: https://login.example.com, audience: [shop], environment: live, plan: closed}}]", 1)
	set := compiled(t, text+shopAnswers())
	for value, want := range map[string]policy.Wait{"Bearer " + jwt: policy.WaitToken, "Bearer " + secret("sk_live_"): policy.Done} {
		c := newCaller(set)
		c.request.Headers = []policy.Header{{Name: "authorization", Value: value}}
		if wait := policy.NewDecider(c.hasher, nil, clock).Begin(&c.check, set, &c.request); wait != want {
			t.Errorf("%.12s: waits for %v", value, wait)
		}
	}
}

func TestOpaqueTokens(t *testing.T) {
	set := tokenShop(t, ", introspection: {client_id: tollgate, client_secret_file: secret}")
	c := newCaller(set)
	c.request.Headers[0].Value = "Bearer opaque-token"
	if d := c.decide(t, set); !d.Allow || c.verified != 1 {
		t.Errorf("%v", d.Reason)
	}
	c = newCaller(set)
	c.request.Headers[0].Value = "Bearer sk_live_" + strings.Repeat("x", 33)
	if d := c.decide(t, set); d.Reason != policy.MalformedCredential || c.verified != 0 {
		t.Errorf("a broken key: %v, verified %d times", d.Reason, c.verified)
	}
}

func TestChallengesForTokens(t *testing.T) {
	const metadata = `, resource_metadata="https://shop.example.com/.well-known/oauth-protected-resource/v1"`
	set := tokenShop(t, "")
	for _, tt := range []struct {
		name  string
		wrong func(c *caller)
		want  string
	}{
		{"nothing", func(c *caller) { c.request.Headers = nil }, `Bearer realm="shop"` + metadata},
		{"invalid", func(c *caller) { c.tokenErr = &oauth.RefusedError{} }, `Bearer realm="shop", error="invalid_token"` + metadata},
		{"expired", func(c *caller) { c.tokenErr = &oauth.RefusedError{ExpiredAt: clock()} }, `Bearer realm="shop", error="invalid_token"` + metadata},
		{"scope", func(c *caller) { c.token.Scopes = nil }, `Bearer realm="shop", error="insufficient_scope", scope="read"` + metadata},
		{"no route", func(c *caller) { c.request.Target = "/none" }, ""},
	} {
		c := newCaller(set)
		tt.wrong(c)
		if got := headersOf(c.decide(t, set).Response)["www-authenticate"]; got != tt.want && !(tt.name == "no route") {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
	m := set.APIs()[0].Metadata()
	if m.Resource != "https://shop.example.com/v1" || !slices.Equal(m.Servers, []string{"https://login.example.com", "https://other.example.com"}) || !slices.Equal(m.Scopes, []string{"admin", "read", "write"}) {
		t.Errorf("%+v", m)
	}
	if n := len(set.Issuers()); n != 2 {
		t.Errorf("%d issuers", n)
	}
}

// What could not be verified is told when to come again, and never goes to the proxy's own failure
// policy: whoever sends what looks like a token could open it.
func TestUndecidedTokens(t *testing.T) {
	set := tokenShop(t, "", "undecided: rpc")
	c := newCaller(set)
	c.tokenErr = &oauth.UndecidedError{Why: "the issuer is away", RetryAfter: 1500 * time.Millisecond}
	d := c.decide(t, set)
	if d.Reason != policy.Undecided || d.FailRPC || d.Status != 503 || headersOf(d.Response)["retry-after"] != "2" {
		t.Errorf("%v, RPC %v, %d %v", d.Reason, d.FailRPC, d.Status, d.Response)
	}
	c = newCaller(set)
	c.keyErr = errors.New("away")
	if d := c.decide(t, set); d.Reason != policy.Undecided || !d.FailRPC {
		t.Errorf("a verified token while the store is away: %v, RPC %v", d.Reason, d.FailRPC)
	}
}

// Texts that a client chose are not shown where they hold a token.
func TestTokensAreHidden(t *testing.T) {
	set := tokenShop(t, "")
	c := newCaller(set)
	c.request.Target, c.request.Method = "/items/"+jwt+"/x", "GET"
	c.request.Headers = append(c.request.Headers, policy.Header{Name: "x-request-id", Value: "a " + jwt})
	c.request.Host = "shop.example.com"
	c.decide(t, set)
	if s := c.check.Shown(); strings.Contains(fmt.Sprint(s), "eyJ") || s.Path != "/items/***/x" {
		t.Errorf("%+v", s)
	}
	if r := c.check.Refusal(); strings.Contains(fmt.Sprint(r), "eyJ") {
		t.Errorf("%+v", r)
	}
}

// A probe puts a token where tokens stand.
func TestProbesWithTokens(t *testing.T) {
	set := tokenShop(t, "")
	r, err := set.Request(policy.Probe{API: "shop", Host: "shop.example.com", Method: "GET", Target: "/items", Secret: jwt})
	if err != nil || len(r.Headers) != 1 || r.Headers[0] != (policy.Header{Name: "authorization", Value: "Bearer " + jwt}) {
		t.Errorf("%v, %v", r, err)
	}
}
