// Package oauth judges OAuth 2.0 access tokens: which issuers an API takes them from, what of a
// token counts, and how a refusal is told to the client. It does no I/O: below it, package issuer
// has the issuers' keys, package tokens the tokens that were verified, and package introspection
// asks issuers.
//
// A token is read twice over, by go-jose for its signature and by claims.go for what it says, and
// both readings are of the same bytes. Nothing that two parsers could read differently is accepted:
// no object with a member named twice, no claim in other letters, no text that is no Unicode.
//
// No error and no value here but a token's own text ever holds a part of a token.
package oauth

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Issuer is an authorization server whose access tokens an API takes, as the API's policy states
// it. It is never changed.
type Issuer struct {
	API string // whose policy it stands in
	// URL is the issuer's identifier, byte for byte as tokens have it in iss.
	URL string
	// JWKS is where its keys are; "" finds that out (OpenID Connect Discovery, RFC 8414).
	JWKS string
	// Audiences are names of this API, of which a token must have one in aud.
	Audiences []string
	// Algorithms are the signatures that are accepted, by their names in JWS.
	Algorithms []string
	// AnyType accepts any typ; else it must be at+jwt (RFC 9068).
	AnyType bool
	Leeway  time.Duration // by which clocks may differ, in both directions
	// StaleFor is how long keys are used beyond their time while the issuer cannot be reached.
	StaleFor time.Duration
	// CertificateBound accepts tokens that are bound to a client certificate (RFC 8705), with that
	// certificate; else they are refused, as all others that are bound to something are.
	CertificateBound bool

	ClientClaim string // whose value is the client: client_id, azp or sub
	ScopeClaim  string // scope or scp
	PlanClaim   string // "" for none
	TeamClaim   string // "" for none
	// Teams are those that tokens may claim, AnyTeam among them for all.
	Teams []string
	// Plan is that of clients for which neither a record nor their token names one.
	Plan string
	// Environment is the one of the API that tokens are for, "" where it has none.
	Environment string

	Introspection *Introspection // nil for none
}

// AnyTeam in Issuer.Teams accepts every team that a token claims.
const AnyTeam = "*"

// Introspection says how an issuer is asked about tokens (RFC 7662). Either SecretFile or KeyFile
// is set.
type Introspection struct {
	Endpoint   string // "" finds it out with the issuer's metadata
	ClientID   string // of this server at the issuer
	SecretFile string // holds the secret of that client
	KeyFile    string // holds the private key of that client, for private_key_jwt (RFC 7523)
	// Opaque has tokens introspected that are no JWTs. One issuer of an API at most has it.
	Opaque bool
	// JWTs has tokens introspected that were verified by their signature, too: they may be revoked.
	JWTs bool
	// MaxAge is how long an answer that a token is active counts, at most until it expires. 0 asks
	// each time.
	MaxAge time.Duration
}

// Same reports whether both judge every token alike.
func (i *Issuer) Same(other *Issuer) bool { return i == other || reflect.DeepEqual(i, other) }

// Find returns the issuer with a URL, nil if it is none of them.
func Find(issuers []*Issuer, url string) *Issuer {
	for _, i := range issuers {
		if i.URL == url {
			return i
		}
	}
	return nil
}

// Opaque returns the issuer that is asked about tokens that are no JWTs, nil for none.
func Opaque(issuers []*Issuer) *Issuer {
	for _, i := range issuers {
		if i.Introspection != nil && i.Introspection.Opaque {
			return i
		}
	}
	return nil
}

// Algorithms are the signatures that an issuer may use. The symmetric ones are not among them: for
// those, whoever can verify can also sign.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// DefaultAlgorithms are accepted where a policy says nothing.
func DefaultAlgorithms() []string { return []string{"RS256", "ES256"} }

// IsAlgorithm reports whether a signature of that name can be accepted.
func IsAlgorithm(name string) bool { return slices.Contains(Algorithms(), name) }

// maxURL bounds the URLs of a policy and of what an issuer says of itself, in bytes.
const maxURL = 1024

// CheckURL returns why nothing is to be asked at a URL: it must be https, or http on the loopback,
// and have no user, no query and no fragment.
func CheckURL(text string) error {
	if len(text) > maxURL || !printable(text) || strings.Contains(text, " ") {
		return errors.New("want an https URL of printable characters")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("want an https URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("scheme %q: want https", u.Scheme)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return errors.New("want https://HOST/PATH, without a user, a query or a fragment")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("want https; http is for the loopback alone")
	}
	return nil
}

// loopback reports whether a host is this machine. That a name really leads there is seen again
// when a connection is made.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// printable reports whether a text is one of visible ASCII and spaces.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// URLs returns those of some issuers.
func URLs(issuers []*Issuer) []string {
	urls := make([]string, len(issuers))
	for n, i := range issuers {
		urls[n] = i.URL
	}
	return urls
}
