package extauthztest

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/extauthz"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/oauthtest"
	"tollgate/policy/oauth/tokens"
	"tollgate/testdata"
)

// tokenMaker is the issuer of a stack's policies, whichever URL they give it.
type tokenMaker struct {
	of     *oauth.Issuer
	signer *oauthtest.Signer
}

// takeTokens has a stack verify tokens of the first issuer of its policies, which has its keys in
// this process.
func (s *Stack) takeTokens(t *testing.T, c *extauthz.Config) {
	t.Helper()
	issuers := c.Policies.Current().Issuers()
	if c.Tokens != nil || len(issuers) == 0 {
		return
	}
	s.tokens = &tokenMaker{issuers[0], oauthtest.NewSigner(t, "script", "ES256")}
	server := oauthtest.NewServerAt(t, issuers[0].URL, s.tokens.signer)
	keeper := issuer.New(issuer.Options{
		Issuers: func() []*oauth.Issuer { return c.Policies.Current().Issuers() },
		Client:  &http.Client{Transport: server},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); keeper.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	c.Tokens = tokens.New(tokens.Options{Keys: keeper, Now: s.Clock.Now})
}

// Token is a token of the stack's issuer at a time, good but for the changes: nil takes a claim
// away.
func (s *Stack) Token(t *testing.T, at time.Time, changes map[string]any) string {
	t.Helper()
	claims := oauthtest.Claims(s.tokens.of.URL, s.tokens.of.Audiences[0], "reports", at)
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return s.tokens.signer.Token(t, claims)
}

// addTokens adds the tokens that a block refers to, under their names, to the secrets.
func (s *Stack) addTokens(t *testing.T, secrets map[string]string, b *testdata.Block) {
	t.Helper()
	if s.tokens == nil {
		return
	}
	made := map[string]func() string{
		"token_text": func() string { return s.Token(t, b.At, map[string]any{"scope": "text"}) },
		"token_all": func() string {
			return s.Token(t, b.At, map[string]any{"scope": "text image audio chat", "client_id": "studio", "plan": "premium", "team": "team_prism"})
		},
		"token_no_scope":   func() string { return s.Token(t, b.At, map[string]any{"scope": nil}) },
		"token_expired":    func() string { return s.Token(t, b.At.Add(-time.Hour), nil) },
		"token_of_another": func() string { return s.Token(t, b.At, map[string]any{"aud": "https://other.example.com"}) },
		"token_gold":       func() string { return s.Token(t, b.At, map[string]any{"plan": "gold"}) },
		"token_stranger":   func() string { return s.Token(t, b.At, map[string]any{"team": "team_of_nobody"}) },
		"token_forged": func() string {
			parts := strings.Split(s.Token(t, b.At, nil), ".")
			return parts[0] + "." + parts[1] + "." + strings.Split(s.Token(t, b.At, map[string]any{"scope": "chat"}), ".")[2]
		},
	}
	for _, name := range testdata.Tokens() {
		secrets[name] = made[name]()
		if strings.Contains(fmt.Sprint(b.Target, b.Headers), "${"+name+"}") {
			secrets[fmt.Sprint(name, b.Line)] = secrets[name] // which the log must not hold
		}
	}
}
