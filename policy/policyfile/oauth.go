package policyfile

import (
	"maps"
	"slices"
	"strings"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/oauth"
)

const (
	// maxIssuers bounds what is fetched in the background.
	maxIssuers      = 16
	maxLeeway       = 5 * time.Minute
	maxIssuerStale  = 7 * 24 * time.Hour
	maxIntrospected = 24 * time.Hour
	maxClaimName    = 128
	maxAudience     = 255
)

// oauth compiles the issuers of access tokens, once plans, scopes and prefixes are known.
func (c *compiler) oauth() {
	opaque := false
	for n := range c.doc.Credentials {
		in := c.doc.Credentials[n].OAuth2
		if in == nil {
			continue
		}
		place := at("credentials", n, "oauth2")
		i := c.issuer(place, in)
		if oauth.Find(c.spec.Issuers, i.URL) != nil {
			c.fault(place+".issuer", "duplicate issuer %q", i.URL)
		}
		if i.Introspection != nil && i.Introspection.Opaque {
			if opaque {
				c.fault(place+".introspection", "a second issuer that is asked about opaque tokens, which do not say whose they are: want tokens: jwt in one")
			}
			opaque = true
		}
		c.spec.Issuers = append(c.spec.Issuers, i)
	}
	if len(c.spec.Issuers) > maxIssuers {
		c.fault("credentials", "%d issuers, more than %d", len(c.spec.Issuers), maxIssuers)
	}
	c.keysBesideTokens()
	c.resource()
}

// keysBesideTokens holds that keys and tokens can be told apart by how they begin: a key must never
// be sent to an issuer, nor a token be looked for among the keys.
func (c *compiler) keysBesideTokens() {
	if len(c.spec.Issuers) == 0 {
		return
	}
	if c.spec.Credentials.HasScheme("Bearer") && len(c.spec.Prefixes) == 0 {
		c.fault("key_format", "oauth2 beside bearer keys without a prefix, which cannot be told from tokens: want key_format: {prefixes: [...]}")
	}
	const start = "eyJ" // of every JWT: {" in base64
	for n, prefix := range c.spec.Prefixes {
		if strings.HasPrefix(start, prefix) || strings.HasPrefix(prefix, start) {
			place := at("key_format.prefixes", n, "")
			if len(c.spec.Environments) > 0 {
				place = at("environments", n, "prefix")
			}
			c.fault(place, "prefix %q and an access token cannot be told apart: tokens begin with %s", prefix, start)
		}
	}
}

func (c *compiler) issuer(place string, in *oauth2In) *oauth.Issuer {
	i := &oauth.Issuer{
		API: c.doc.API, URL: in.Issuer, JWKS: in.JWKSURI, Audiences: in.Audience,
		Algorithms: in.Algorithms, AnyType: c.choice(place+".token_type", in.TokenType, "at+jwt", "any") == "any",
		Leeway:           c.duration(place+".leeway", in.Leeway, 30*time.Second, maxLeeway),
		StaleFor:         c.duration(place+".stale_for", in.StaleFor, time.Hour, maxIssuerStale),
		CertificateBound: in.CertificateBound,
		ClientClaim:      c.choice(place+".client_claim", in.ClientClaim, "client_id", "azp", "sub"),
		ScopeClaim:       c.choice(place+".scope_claim", in.ScopeClaim, "scope", "scp"),
		PlanClaim:        in.PlanClaim, TeamClaim: in.TeamClaim, Teams: in.Teams,
	}
	c.url(place+".issuer", "issuer", in.Issuer)
	if in.JWKSURI != "" {
		c.url(place+".jwks_uri", "jwks_uri", in.JWKSURI)
	}
	if len(in.Audience) == 0 {
		c.fault(place, "oauth2 without an audience: want the names that the issuer gives this API in aud")
	}
	for n, audience := range in.Audience {
		if audience == "" || len(audience) > maxAudience || !headerText(audience) {
			c.fault(at(place+".audience", n, ""), "bad audience %q", audience)
		}
	}
	if len(i.Algorithms) == 0 {
		i.Algorithms = oauth.DefaultAlgorithms()
	}
	for n, algorithm := range in.Algorithms {
		if !oauth.IsAlgorithm(algorithm) {
			c.fault(at(place+".algorithms", n, ""), "unknown or symmetric algorithm %q, want %s", algorithm, strings.Join(oauth.Algorithms(), ", "))
		}
	}
	for field, claim := range map[string]string{"plan_claim": in.PlanClaim, "team_claim": in.TeamClaim} {
		if len(claim) > maxClaimName || !headerText(claim) {
			c.fault(place+"."+field, "bad name of a claim %q", claim)
		}
	}
	c.issuerPlan(place, in, i)
	c.issuerTeams(place, in)
	c.issuerEnvironment(place, in, i)
	if in.Introspection != nil {
		i.Introspection = c.introspection(place+".introspection", in)
	}
	return i
}

func (c *compiler) url(place, what, text string) {
	if err := oauth.CheckURL(text); err != nil {
		c.fault(place, "bad %s %q: %v", what, text, err)
	}
}

// duration reads a duration from 0 to most.
func (c *compiler) duration(place, text string, preset, most time.Duration) time.Duration {
	if text == "" {
		return preset
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > most {
		c.fault(place, "bad duration %q, want 0s to %v", text, most)
	}
	return d
}

// issuerPlan sees to it that each client has a plan, where the API has plans.
func (c *compiler) issuerPlan(place string, in *oauth2In, i *oauth.Issuer) {
	i.Plan = in.Plan
	switch {
	case in.Plan != "" && c.spec.Plans[in.Plan] == nil:
		c.fault(place+".plan", "unknown plan %q%s", in.Plan, policy.Suggest(in.Plan, slices.Collect(maps.Keys(c.spec.Plans))))
	case in.Plan == "" && in.PlanClaim == "" && len(c.spec.Plans) > 0:
		c.fault(place, "oauth2 without a plan: want plan: NAME, for clients without one of their own, or plan_claim")
	}
}

func (c *compiler) issuerTeams(place string, in *oauth2In) {
	switch {
	case in.TeamClaim == "" && len(in.Teams) > 0:
		c.fault(place+".teams", "teams without team_claim")
	case in.TeamClaim != "" && len(in.Teams) == 0:
		c.fault(place, "team_claim without teams: want those that tokens may claim, or teams: [\"*\"] for any")
	}
	for n, team := range in.Teams {
		if problem := keys.NameProblem(team); problem != "" || !headerText(team) {
			c.fault(at(place+".teams", n, ""), "bad team %q", team)
		}
	}
}

func (c *compiler) issuerEnvironment(place string, in *oauth2In, i *oauth.Issuer) {
	i.Environment = in.Environment
	_, known := c.spec.Environment(in.Environment)
	switch {
	case len(c.spec.Environments) == 0 && in.Environment != "":
		c.fault(place+".environment", "environment %q: the api has no environments", in.Environment)
	case !known && in.Environment == "":
		c.fault(place, "oauth2 without an environment: want the one that its tokens are for, one of %s", strings.Join(c.spec.EnvironmentNames(), ", "))
	case !known:
		c.fault(place+".environment", "unknown environment %q%s", in.Environment, policy.Suggest(in.Environment, c.spec.EnvironmentNames()))
	}
}

func (c *compiler) introspection(place string, in *oauth2In) *oauth.Introspection {
	of := in.Introspection
	tokens := c.choice(place+".tokens", of.Tokens, "opaque", "jwt", "all")
	switch {
	case of.Endpoint != "":
		c.url(place+".endpoint", "endpoint", of.Endpoint)
	case in.JWKSURI != "":
		c.fault(place, "introspection without an endpoint beside jwks_uri: where jwks_uri is given, the issuer is not asked for either")
	}
	if of.ClientID == "" || oauth.ClientProblem(of.ClientID) != "" {
		c.fault(place, "introspection without a good client_id: want that of this server at the issuer")
	}
	if (of.SecretFile == "") == (of.KeyFile == "") {
		c.fault(place, "introspection: want either client_secret_file or private_key_file")
	}
	return &oauth.Introspection{
		Endpoint: of.Endpoint, ClientID: of.ClientID, SecretFile: of.SecretFile, KeyFile: of.KeyFile,
		Opaque: tokens != "jwt", JWTs: tokens != "opaque", MaxAge: c.duration(place+".max_age", of.MaxAge, time.Minute, maxIntrospected),
	}
}

// resource compiles what clients are told: the metadata, and the challenges of routes.
func (c *compiler) resource() {
	if c.doc.Resource != "" {
		c.url("resource", "resource", c.doc.Resource)
		if len(c.spec.Issuers) == 0 {
			c.fault("resource", "resource without oauth2: it is for clients that get tokens")
		}
		m := &oauth.Metadata{Resource: c.doc.Resource, Scopes: slices.Sorted(maps.Keys(c.spec.Scopes))}
		for _, i := range c.spec.Issuers {
			m.Servers = append(m.Servers, i.URL)
			m.Bound = m.Bound || i.CertificateBound
		}
		c.spec.Metadata = m
	}
	for _, route := range c.spec.Routes {
		if route.Scope != "" && len(c.spec.Issuers) > 0 {
			route.Challenge = oauth.Challenge(c.realm, oauth.InsufficientScope, route.Scope, c.metadataURL())
		}
	}
}

// metadataURL is where clients find the metadata, "" for nowhere.
func (c *compiler) metadataURL() string {
	if c.spec.Metadata == nil {
		return ""
	}
	return oauth.MetadataURL(c.spec.Metadata.Resource)
}

// tokenChallenge is the challenge of a 401 to clients that could come with a token.
func (c *compiler) tokenChallenge(r policy.Reason) string {
	code := ""
	if r.Presented() {
		code = oauth.InvalidToken
	}
	return oauth.Challenge(c.realm, code, "", c.metadataURL())
}
