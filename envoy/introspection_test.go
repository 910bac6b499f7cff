package envoy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/introspection"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/oauthtest"
	"tollgate/policy/oauth/springtest"
	"tollgate/policy/oauth/tokens"
	"tollgate/policy/policyfile"

	"github.com/redis/go-redis/v9"
)

// maxAge is how long an issuer's word counts in these tests.
const maxAge = time.Second

// withTokens is the small API with access tokens of an issuer, which the policy describes further.
func withTokens(issuer, audience, more string) policyfile.File {
	return extauthztest.SmallFile(
		"credentials: [bearer, {query: api_key}]", fmt.Sprintf("credentials:\n- bearer\n- oauth2: {issuer: %q, audience: [%q], plan: basic, %s}\nscopes: [{name: text}, {name: image}]", issuer, audience, more),
		"- {name: items, match: /items/, scope: none}", "- {name: text, match: GET /items/text, scope: text}\n- {name: image, match: GET /items/image, scope: image}",
		"- {name: item, match: \"GET /items/{id}\", scope: none}\n", "",
		"requests: 5,", "requests: 5000,",
		"inactive_key, expired_key]", "inactive_key, expired_key, invalid_token, expired_token]",
		"scope_denied, route_denied]", "scope_denied, route_denied, insufficient_scope]",
	)
}

// tokenEdge is an Envoy in front of a stack that takes tokens.
type tokenEdge struct {
	*edge
	store *redis.Client
	stack *extauthztest.Stack
}

// startTokenEdge starts the stack, as tollgate serve puts it together, and an Envoy.
func startTokenEdge(t *testing.T, version string, file policyfile.File) *tokenEdge {
	t.Helper()
	e := &tokenEdge{store: extauthztest.NewRedis(t, "embedded")}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	client := issuer.NewClient()
	e.stack = extauthztest.NewStack(t, func(c *extauthz.Config) {
		keeper := issuer.New(issuer.Options{Issuers: func() []*oauth.Issuer { return c.Policies.Current().Issuers() }, Client: client})
		asker := introspection.New(introspection.Options{Client: client, Endpoint: func(i *oauth.Issuer) string { return keeper.Discovered(i).Introspection }})
		c.Tokens = tokens.New(tokens.Options{Keys: keeper, Introspector: asker})
		go func() {
			defer close(done)
			keeper.Run(ctx)
		}()
		t.Cleanup(func() {
			stop()
			<-done
			asker.Close()
			client.CloseIdleConnections()
		})
	}, file)
	e.stack.Use(t, e.store, nil)
	e.edge = startEnvoy(t, version, bootstrap(t), e.stack.Addr, e.stack)
	return e
}

// status is that of a request with a token.
func (e *tokenEdge) status(t *testing.T, path, token string) int {
	t.Helper()
	r := &envoytest.Request{Method: "GET", Target: path, Host: "small.test", Headers: [][2]string{{"authorization", "Bearer " + token}}}
	resp, err := r.SendH1(extauthztest.Within(t), e.envoy.Addr(), true)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status
}

func (e *tokenEdge) wants(t *testing.T, what, path, token string, status int) {
	t.Helper()
	if got := e.status(t, path, token); got != status {
		t.Errorf("%s: %d, want %d", what, got, status)
	}
}

// revoked waits until a token is refused that its issuer has revoked, which must be within max_age.
func (e *tokenEdge) revoked(t *testing.T, token string) {
	t.Helper()
	began := time.Now()
	extauthztest.Eventually(t, "the revoked token is refused", func() bool { return e.status(t, "/items/text", token) == 401 })
	if took := time.Since(began); took > maxAge+5*time.Second {
		t.Errorf("refused after %v", took)
	} else {
		t.Logf("a revoked token is refused after %v, max_age is %v", took.Round(time.Millisecond), maxAge)
	}
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Opaque tokens of a real authorization server pass through Envoy as the server says of them: with
// their scopes, until they are revoked there, or their client is blocked here.
func TestOAuthIntrospectionThroughEnvoy(t *testing.T) {
	const audience = "https://api.example.com"
	p := oauthtest.StartProvider(t, audience, "opaque")
	e := startTokenEdge(t, envoyVersions()[0], withTokens(p.URL, audience, fmt.Sprintf(
		"introspection: {client_id: tollgate, client_secret_file: %q, tokens: opaque, max_age: %v}", secretFile(t, oauthtest.ClientSecret("tollgate")), maxAge)))
	token := p.Token(t, "reports", "text")
	extauthztest.Eventually(t, "the issuer's metadata is known", func() bool { return e.status(t, "/items/text", token) == 200 })
	e.wants(t, "another scope", "/items/image", token, 403)
	e.wants(t, "a guess", "/items/text", "a-guess-that-is-no-token", 401)
	e.wants(t, "another token", "/items/image", p.Token(t, "reports", "image text"), 200)
	p.Revoke(t, "reports", token)
	e.revoked(t, token)
	testBlocked(t, e, keys.Client{Issuer: p.URL, ID: "reports"}, p.Token(t, "reports", "text"))

	// What was not answered is neither let through nor said to be wrong.
	p.Stop()
	e.wants(t, "without the server", "/items/text", "never-seen", 500)
}

// testBlocked blocks a client whose token passes, and unblocks it.
func testBlocked(t *testing.T, e *tokenEdge, c keys.Client, token string) {
	t.Helper()
	e.wants(t, "before the block", "/items/text", token, 200)
	m := admin.NewManager(store.New(e.store), e.stack.Hasher, e.stack.Authorizer.Policy(), audit.New(e.store, 0), roles.Actor{Name: "ops", Operator: true}, time.Now)
	if _, err := m.BlockClient(t.Context(), "small", c); err != nil {
		t.Fatal(err)
	}
	// Nobody pushes changes to this stack, so that its cache is as good as its TTL: it reads anew.
	e.stack.Join(t, e.store)
	e.wants(t, "blocked", "/items/text", token, 401)
	if _, err := m.UnblockClient(t.Context(), "small", c); err != nil {
		t.Fatal(err)
	}
	e.stack.Join(t, e.store)
	e.wants(t, "unblocked", "/items/text", token, 200)
}

// Spring Authorization Server, another family: its JWTs are verified here and asked about there, so
// that one which is revoked is refused before it expires; its opaque tokens are asked about; and
// when it changes its keys while requests pass, none of them is refused.
func TestOAuthSpringAuthorizationServer(t *testing.T) {
	springtest.Require(t)
	s := springtest.Start(t)
	e := startTokenEdge(t, envoyVersions()[0], withTokens(s.Issuer, springtest.Audience, fmt.Sprintf(
		"client_claim: sub, token_type: any, introspection: {client_id: tollgate, client_secret_file: %q, tokens: all, max_age: %v}", secretFile(t, "tollgate-secret"), maxAge)))
	for _, client := range []string{"web", "opaque"} {
		token := s.Token(t, client, "text")
		if oauth.IsJWT(token) != (client == "web") {
			t.Errorf("the tokens of %s are of another kind", client)
		}
		extauthztest.Eventually(t, "the issuer is known", func() bool { return e.status(t, "/items/text", token) == 200 })
		e.wants(t, client+": another scope", "/items/image", token, 403)
		e.wants(t, client+": several scopes", "/items/image", s.Token(t, client, "text image"), 200)
		s.Revoke(t, client, token)
		e.revoked(t, token)
		testBlocked(t, e, keys.Client{Issuer: s.Issuer, ID: client}, s.Token(t, client, "text"))
	}
	old := s.Token(t, "web", "text")
	e.wants(t, "before the rotation", "/items/text", old, 200)
	s.Rotate(t)
	for range 5 {
		e.wants(t, "a token of the key before", "/items/text", old, 200)
		// A key that is not known yet may make us wait, and never refuse.
		if got := e.status(t, "/items/text", s.Token(t, "web", "text")); got != 200 && got != 500 {
			t.Errorf("a token of the new key: %d", got)
		}
	}
	s.Stop()
	e.wants(t, "without the server, a guess", "/items/text", "never-seen", 500)
}
