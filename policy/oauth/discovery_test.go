package oauth_test

import (
	"crypto/sha256"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"testing"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/oauthtest"
)

// OpenID Connect Discovery has the well-known part behind the issuer's path, RFC 8414 before it.
func TestDiscoveryURLs(t *testing.T) {
	for issuer, want := range map[string][]string{
		issuerURL:                       {"https://login.example.com/tenant/.well-known/openid-configuration", "https://login.example.com/.well-known/oauth-authorization-server/tenant"},
		"https://login.example.com/":    {"https://login.example.com/.well-known/openid-configuration", "https://login.example.com/.well-known/oauth-authorization-server"},
		"https://login.example.com:bad": nil,
	} {
		if got := oauth.DiscoveryURLs(issuer); !slices.Equal(got, want) {
			t.Errorf("%s: %q", issuer, got)
		}
	}
}

func TestParseDiscovery(t *testing.T) {
	const start = `{"issuer":"` + issuerURL + `"`
	for _, tt := range []struct{ text, want string }{
		{start + `}`, ""},
		{start + `,"jwks_uri":"https://keys.example.com/jwks","introspection_endpoint":"http://127.0.0.1:9/ask"}`, ""},
		{start + `,"jwks_uri":7}`, "its jwks_uri is not a text"},
		{start + `,"jwks_uri":"http://keys.example.com/jwks"}`, "its jwks_uri: want https"},
		{start + `,"introspection_endpoint":"https://user@login.example.com/"}`, "its introspection_endpoint: want https://HOST/PATH"},
		{start + `,"issuer":"https://evil.example.com"}`, "no description of an issuer"},
		{`{"issuer":"` + issuerURL + `/"}`, "another issuer"},
		{`{"Issuer":"` + issuerURL + `"}`, "another issuer"},
		{`[]`, "no description of an issuer"},
	} {
		d, err := oauth.ParseDiscovery([]byte(tt.text), issuerURL)
		if tt.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v, want %q", tt.text, d, err, tt.want)
		}
	}
}

// A key is lost if its id, its algorithm or the key itself is another; that others came is nothing.
func TestLostKeys(t *testing.T) {
	one, two, ed := oauthtest.NewSigner(t, "one", "ES256"), oauthtest.NewSigner(t, "two", "RS256"), oauthtest.NewSigner(t, "ed", "EdDSA")
	another := oauthtest.NewSigner(t, "one", "ES256")
	before := keySet(t, one.JWK(), two.JWK())
	for name, tt := range map[string]struct {
		now  *oauth.KeySet
		lost string
	}{
		"the same":               {keySet(t, two.JWK(), one.JWK()), ""},
		"one more":               {keySet(t, one.JWK(), two.JWK(), ed.JWK()), ""},
		"one less":               {keySet(t, one.JWK(), ed.JWK()), "two"},
		"another by its name":    {keySet(t, another.JWK(), two.JWK()), "one"},
		"another beside the old": {keySet(t, another.JWK(), one.JWK(), two.JWK()), ""},
	} {
		if got := strings.Join(tt.now.Lost(before), " "); got != tt.lost {
			t.Errorf("%s: lost %q, want %q", name, got, tt.lost)
		}
	}
	if before.Size() != 2 {
		t.Errorf("%d keys", before.Size())
	}
}

// Envoy has a certificate in PEM and percent-encoded.
func TestBoundTo(t *testing.T) {
	der := []byte("a certificate, as far as its sum goes")
	text := func(kind string) string {
		return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	token := &oauth.Token{Bound: true, Certificate: sha256.Sum256(der)}
	for name, tt := range map[string]struct {
		token *oauth.Token
		text  string
		want  bool
	}{
		"its own":           {token, text("CERTIFICATE"), true},
		"none":              {token, "", false},
		"no encoding":       {token, "%zz", false},
		"another kind":      {token, text("PUBLIC KEY"), false},
		"another":           {&oauth.Token{Bound: true, Certificate: sha256.Sum256(nil)}, text("CERTIFICATE"), false},
		"of a bearer token": {&oauth.Token{Certificate: token.Certificate}, text("CERTIFICATE"), false},
	} {
		if got := tt.token.BoundTo(tt.text); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestIssuersOfAnAPI(t *testing.T) {
	asks := issuer(func(i *oauth.Issuer) {
		i.URL, i.Introspection = "https://b.example.com", &oauth.Introspection{Opaque: true}
	})
	both := []*oauth.Issuer{issuer(), asks}
	if oauth.Opaque(both) != asks || oauth.Opaque(both[:1]) != nil {
		t.Error("who is asked about tokens that are no JWTs")
	}
	if got := strings.Join(oauth.URLs(both), " "); got != issuerURL+" https://b.example.com" {
		t.Error(got)
	}
	for _, name := range oauth.DefaultAlgorithms() {
		if !oauth.IsAlgorithm(name) {
			t.Errorf("%s is no algorithm", name)
		}
	}
}

// What stands in errors is for people, and says which of the two it is.
func TestErrorsSayWhy(t *testing.T) {
	for err, want := range map[error]string{
		&oauth.RefusedError{Why: "exp is over"}:    "oauth: the token is refused: exp is over",
		&oauth.UndecidedError{Why: "nobody knows"}: "oauth: not decided: nobody knows",
	} {
		if err.Error() != want {
			t.Error(err)
		}
	}
}
