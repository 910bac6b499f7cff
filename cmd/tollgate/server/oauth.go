package server

import (
	"context"

	"tollgate/extauthz/scrape"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/tokens"
)

// accessTokens is what verifies access tokens.
type accessTokens struct {
	keeper   *issuer.Keeper
	verifier *tokens.Verifier
}

// newAccessTokens makes it for the issuers of the policies in force.
func (v *service) newAccessTokens() *accessTokens {
	keeper := issuer.New(issuer.Options{
		Issuers: func() []*oauth.Issuer { return v.policies.Current().Issuers() },
		Log:     v.log,
	})
	verifier := tokens.New(tokens.Options{Keys: keeper})
	scrape.RegisterTokens(v.registry, verifier, keeper)
	return &accessTokens{keeper, verifier}
}

// run fetches issuers' keys until ctx ends.
func (t *accessTokens) run(ctx context.Context) { t.keeper.Run(ctx) }
