package introspection

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/oauthtest"
)

// A real authorization server is asked, by a client that is not the one with the token, with a
// secret and with a key; a token that is revoked there is refused within max_age.
func TestOAuthIntrospectionByProvider(t *testing.T) {
	const audience = "https://api.example.com"
	private := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	public := must[[]byte](t)(json.Marshal(jose.JSONWebKey{Key: private.Public(), Use: "sig", Algorithm: "ES256"}))
	p := oauthtest.StartProvider(t, audience, "opaque", "ASKING_KEY="+string(public))

	clock := &clock{}
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(clock.at.Load())) }
	client := issuer.NewClient()
	defer client.CloseIdleConnections()
	a := New(Options{Client: client, Now: now, Timeout: 20 * time.Second})
	defer a.Close()
	of := func(api, audience string, how oauth.Introspection) *oauth.Issuer {
		how.Endpoint, how.MaxAge, how.Opaque = p.URL+"/token/introspection", 10*time.Second, true
		return &oauth.Issuer{
			API: api, URL: p.URL, Audiences: []string{audience}, Leeway: 30 * time.Second,
			ClientClaim: "client_id", ScopeClaim: "scope", Introspection: &how,
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	bySecret := oauth.Introspection{ClientID: "tollgate", SecretFile: file(t, oauthtest.ClientSecret("tollgate"))}
	i := of("pixelmagic", audience, bySecret)
	byKey := of("keyed", audience, oauth.Introspection{ClientID: "tollgate-key", KeyFile: file(t, pemOf(t, "PRIVATE KEY", der, err))})
	token := p.Token(t, "reports", "text")
	for _, i := range []*oauth.Issuer{i, byKey} {
		got, err := a.Introspect(t.Context(), i, token)
		if err != nil || got.Client != "reports" || len(got.Scopes) != 1 || got.Scopes[0] != "text" {
			t.Fatalf("%s: %+v, %v", i.API, got, err)
		}
		if left := got.ExpiresAt.Sub(began); left < 4*time.Minute || left > 6*time.Minute {
			t.Errorf("%s: it expires in %v", i.API, left)
		}
	}
	if _, err := a.Introspect(t.Context(), i, "no-token-of-theirs"); !isRefused(err) {
		t.Errorf("a guess: %v", err)
	}
	if _, err := a.Introspect(t.Context(), of("elsewhere", "https://other.example.com", bySecret), token); !isRefused(err) {
		t.Errorf("for another audience: %v", err)
	}
	wrong := oauth.Introspection{ClientID: "tollgate", SecretFile: file(t, "not the secret")}
	if _, err := a.Introspect(t.Context(), of("wrong", audience, wrong), token); !isUndecided(err) {
		t.Errorf("with another secret: %v", err)
	}

	p.Revoke(t, "reports", token)
	if _, err := a.Introspect(t.Context(), i, token); err != nil {
		t.Errorf("what it said counts for a while: %v", err)
	}
	clock.advance(10 * time.Second)
	if _, err := a.Introspect(t.Context(), i, token); !isRefused(err) {
		t.Errorf("revoked: %v", err)
	}
	p.Stop()
	if _, err := a.Introspect(t.Context(), i, "another"); !isUndecided(err) {
		t.Errorf("without the server: %v", err)
	}
}
