package server

import (
	"context"
	"fmt"

	"tollgate/extauthz/scrape"
	"tollgate/policy"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/introspection"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/tokens"
)

// accessTokens is what verifies access tokens.
type accessTokens struct {
	keeper   *issuer.Keeper
	asker    *introspection.Asker
	verifier *tokens.Verifier
}

// newAccessTokens makes it for the issuers of the policies in force.
func (v *service) newAccessTokens() *accessTokens {
	client := issuer.NewClient()
	keeper := issuer.New(issuer.Options{
		Issuers: func() []*oauth.Issuer { return v.policies.Current().Issuers() },
		Client:  client, Log: v.log,
	})
	asker := introspection.New(introspection.Options{
		Endpoint: func(i *oauth.Issuer) string { return keeper.Discovered(i).Introspection },
		Client:   client, Log: v.log,
	})
	verifier := tokens.New(tokens.Options{Keys: keeper, Introspector: asker})
	scrape.RegisterTokens(v.registry, verifier, keeper, asker)
	return &accessTokens{keeper, asker, verifier}
}

// run fetches issuers' keys until ctx ends, and ends what is being asked about tokens.
func (t *accessTokens) run(ctx context.Context) {
	defer t.asker.Close()
	t.keeper.Run(ctx)
}

// accept refuses a policy that cannot be enforced by this server.
func (s *options) accept(set *policy.Set) error {
	if err := s.acceptPolicies(set); err != nil {
		return err
	}
	for _, i := range set.Issuers() {
		if i.Introspection == nil {
			continue
		}
		if err := introspection.CheckCredential(i.Introspection); err != nil {
			return fmt.Errorf("api %q: introspection of issuer %q: %w", i.API, i.URL, err)
		}
	}
	return nil
}
