package policy

import (
	"errors"
	"strings"
	"time"

	"tollgate/policy/answer"
	"tollgate/policy/keys"
	"tollgate/policy/oauth"
)

// Issuers returns those whose access tokens the API takes. Nobody may change the list.
func (a *API) Issuers() []*oauth.Issuer { return a.spec.Issuers }

// Issuers returns those of all APIs.
func (s *Set) Issuers() (all []*oauth.Issuer) {
	for _, a := range s.apis {
		all = append(all, a.spec.Issuers...)
	}
	return all
}

// Metadata returns what clients of the API are told of the resource that it is (RFC 9728), nil for
// nothing.
func (a *API) Metadata() *oauth.Metadata { return a.spec.Metadata }

// beginsAsKey reports whether a credential has a prefix of the API's keys, so that it is a key,
// valid or not, and never goes to an issuer.
func (a *API) beginsAsKey(secret string) bool {
	for _, p := range a.spec.Prefixes {
		if strings.HasPrefix(secret, p) {
			return true
		}
	}
	return false
}

// presentsToken reports whether the credential is an access token. It is one by its place and its
// form alone, so it is never looked up as a key.
func (c *Check) presentsToken() bool {
	return c.cred.bearer && c.cred.alone() && !c.api.beginsAsKey(c.cred.secret) &&
		(oauth.IsJWT(c.cred.secret) || oauth.Opaque(c.api.spec.Issuers) != nil)
}

// keyMayStandHere is about what is no token: where tokens stand, keys may not, and may not be as
// long.
func (c *Check) keyMayStandHere() bool {
	return !c.cred.bearer || len(c.cred.secret) <= maxSecret && c.api.spec.Credentials.HasScheme(bearer)
}

// Token returns the access token that is to be verified, and the issuers of which one must have
// made it.
func (c *Check) Token() (issuers []*oauth.Issuer, text string) {
	return c.api.spec.Issuers, c.cred.secret
}

// Verified continues with the outcome of verifying the token. err is a *oauth.RefusedError, or says
// that the outcome is not known; no token without an error is taken for that.
func (c *Check) Verified(t *oauth.Token, err error) Wait {
	switch {
	case err == nil && t != nil:
		err = c.usable(t)
	case err == nil:
		err = &oauth.UndecidedError{Why: "nothing here verifies tokens"}
	}
	var refused *oauth.RefusedError
	switch c.tokenError = err; {
	case errors.As(err, &refused) && !refused.ExpiredAt.IsZero():
		return c.deny(ExpiredToken)
	case refused != nil:
		return c.deny(InvalidToken)
	case err != nil:
		return c.deny(Undecided)
	}
	c.token = t
	c.digest = c.decider.hasher.Digest(t.Lookup)
	return WaitKey
}

// usable judges what can change after a token was verified, or differ from request to request.
func (c *Check) usable(t *oauth.Token) error {
	switch {
	case t.Expired(c.now):
		return &oauth.RefusedError{Why: "exp is over", ExpiredAt: t.ExpiresAt}
	case t.Bound && !t.BoundTo(c.request.Certificate):
		return &oauth.RefusedError{Why: "it is bound to another client certificate than the request came with"}
	}
	return nil
}

// unverified reports whether the request has a token of which nobody knows yet whether it is good.
func (c *Check) unverified() bool { return c.tokenError != nil }

// lookup is the text whose digest leads to the key, or to the record of the client.
func (c *Check) lookup() string {
	if c.token != nil {
		return c.token.Lookup
	}
	return c.cred.secret
}

// clientOf is the client's record as a key that the decision goes on with: the scopes are those of
// the token, and plan and team too where the record has none. The record says the rest: whether the
// client is blocked, limits of its own, addresses.
func (c *Check) clientOf(record keys.Grant) keys.Grant {
	t := c.token
	c.client = *record.Profile
	c.client.Environment, c.client.Scopes = t.Issuer.Environment, t.Scopes
	if c.client.Plan == "" {
		c.client.Plan = c.tokenPlan()
	}
	k := record
	if k.Team() == "" && t.Team != "" {
		k = k.Renamed(t.RecordID, t.Client, t.Team)
	}
	k.Profile = &c.client
	return k
}

// clientWithoutRecord is a client that nobody has said anything about.
func (c *Check) clientWithoutRecord() keys.Grant {
	t := c.token
	c.recordless = true
	c.client = keys.Profile{
		API: c.api.spec.Name, Environment: t.Issuer.Environment, Plan: c.tokenPlan(), Status: keys.Active, Scopes: t.Scopes,
	}
	return keys.BareGrant(&c.client, t.Texts, len(t.RecordID), len(t.Client))
}

// tokenPlan is the plan of a client whose record names none.
func (c *Check) tokenPlan() string {
	if c.token.Plan != "" {
		return c.token.Plan
	}
	return c.token.Issuer.Plan
}

// noPlan is why a key or client is refused that has no plan of the policy, or limits of its own
// that the plan does not have. Where the token says so, it is the token's fault.
func (c *Check) noPlan() Reason {
	if c.token != nil && c.plan == nil && c.client.Plan == c.tokenPlan() {
		c.tokenError = &oauth.RefusedError{Why: "it claims no plan that the policy has"}
		return InvalidToken
	}
	return CorruptKey
}

// tokenPermits reports whether the token may use the route. One without scopes has none.
func (c *Check) tokenPermits() bool {
	return c.route.Scope == "" || len(c.token.Scopes) > 0 && c.api.permits(c.key, c.route)
}

// challenge is the WWW-Authenticate of a refusal, "" for none.
func (c *Check) challenge(r Reason, a *answer.Answer) string {
	if r == InsufficientScope {
		return c.route.Challenge
	}
	return a.Challenge
}

// tokenRetry returns after how many seconds it may be known whether the token is good, 0 where that
// is not the question.
func (c *Check) tokenRetry(r Reason) int64 {
	var undecided *oauth.UndecidedError
	if r != Undecided || !errors.As(c.tokenError, &undecided) {
		return 0
	}
	return int64(max(undecided.RetryAfter+time.Second-1, time.Second) / time.Second)
}

// tokenExpiry is when the time of a refused token was over.
func (c *Check) tokenExpiry() time.Time {
	var refused *oauth.RefusedError
	if errors.As(c.tokenError, &refused) {
		return refused.ExpiredAt
	}
	return time.Time{}
}

// Recorded reports whether the store has a record of what the request comes with: of a key it has,
// of a token's client it need not.
func (c *Check) Recorded() bool { return c.key != nil && !c.recordless }

// holdsToken reports whether a text may hold an access token: its header is base64 that begins with
// {" as every JWT's does.
func holdsToken(text string) bool {
	at := strings.Index(text, "eyJ")
	return at >= 0 && len(text)-at >= shortestKey
}
