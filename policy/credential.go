package policy

import (
	"strings"

	"tollgate/policy/oauth"
	"tollgate/policy/router"
)

// maxSecret is the longest key that is looked at, in bytes.
const maxSecret = 512

// bearer is the scheme of access tokens (RFC 6750 section 2.1).
const bearer = "Bearer"

// CredentialPlaces says where an API's keys and access tokens may stand.
type CredentialPlaces struct {
	Schemes []string // of Authorization, as the policy writes them
	Bare    bool     // the whole value of Authorization is a key
	Headers []string // lower case
	Queries []string
	Tokens  bool // Authorization: Bearer may hold an access token, whether or not a key
}

func (p *CredentialPlaces) authorization() bool { return p.Bare || len(p.Schemes) > 0 || p.Tokens }

// credential is what a request presented, before anything is known about it.
type credential struct {
	secret string
	state  credentialState
	bearer bool // it stood in Authorization: Bearer of an API that takes tokens there
	// strip lists the headers that held it.
	strip []string
	// target is the request target without the query keys that held it; empty when none did.
	target string
}

type credentialState uint8

const (
	missing credentialState = iota
	presented
	malformed
)

// read gathers the credential from every place. The same value in several places is one credential;
// two different ones are malformed. c is empty but for the memory of its list.
func (p *CredentialPlaces) read(r *Request, c *credential) {
	if p.authorization() {
		if value, present := r.header("authorization"); present {
			p.readAuthorization(strings.Trim(value, " \t"), c)
		}
	}
	for _, name := range p.Headers {
		if value, present := r.header(name); present {
			c.strip = append(c.strip, name)
			c.add(strings.Trim(value, " \t"))
		}
	}
	if len(p.Queries) > 0 {
		p.readQuery(r.Target, c)
	}
	most := maxSecret
	if c.bearer && c.alone() {
		most = oauth.MaxToken
	}
	if c.state == presented && !wellFormed(c.secret, most) {
		c.state = malformed
	}
}

// alone reports whether the credential stands in one place.
func (c *credential) alone() bool { return len(c.strip) == 1 && c.target == "" }

// readAuthorization reads a value of Authorization. A scheme that the policy does not name is no
// credential of ours.
func (p *CredentialPlaces) readAuthorization(value string, c *credential) {
	scheme, token := cutScheme(value)
	switch {
	case p.takes(scheme):
		c.bearer = p.Tokens && strings.EqualFold(scheme, bearer)
		c.add(token)
	case p.Bare && token == "":
		c.add(value)
	case p.joined(value):
		c.add(value) // its comma makes it malformed
	default:
		return
	}
	c.strip = append(c.strip, "authorization")
}

// cutScheme cuts an Authorization value at its scheme (RFC 9110 section 11.4).
func cutScheme(value string) (scheme, token string) {
	if i := strings.IndexAny(value, " \t"); i >= 0 {
		return value[:i], strings.Trim(value[i:], " \t")
	}
	return value, ""
}

// HasScheme reports whether a scheme is one of the policy's (RFC 9110 section 11.1:
// case-insensitive).
func (p *CredentialPlaces) HasScheme(scheme string) bool {
	for _, s := range p.Schemes {
		if strings.EqualFold(s, scheme) {
			return true
		}
	}
	return false
}

// takes reports whether what stands behind a scheme is a key or a token.
func (p *CredentialPlaces) takes(scheme string) bool {
	return p.HasScheme(scheme) || p.Tokens && strings.EqualFold(scheme, bearer)
}

// joined reports whether a key stands behind another scheme: repeated Authorization headers arrive
// as one, joined with commas. Without a scheme of its own a key is told from the parameters of
// another scheme (name=value) by the alphabet of token68, in which = only stands at the end (RFC
// 9110 section 11.2).
func (p *CredentialPlaces) joined(value string) bool {
	if strings.IndexByte(value, ',') < 0 {
		return false
	}
	for part := range strings.SplitSeq(value, ",") {
		part = strings.Trim(part, " \t")
		scheme, token := cutScheme(part)
		switch {
		case token != "" && p.takes(scheme):
			return true
		case p.Bare && part != "" && token == "" && WellFormed(part) && !strings.Contains(strings.TrimRight(part, "="), "="):
			return true
		}
	}
	return false
}

// readQuery takes the credential's keys out of the query and leaves every other byte where it was.
func (p *CredentialPlaces) readQuery(target string, c *credential) {
	path, query, _ := router.SplitTarget(target)
	if query == "" {
		return
	}
	var kept []string
	found := false
	for pair := range strings.SplitSeq(query, "&") {
		rawKey, rawValue, _ := strings.Cut(pair, "=")
		key, ok := router.DecodeQuery(rawKey)
		if !ok || !p.queryKey(key) {
			kept = append(kept, pair)
			continue
		}
		found = true
		// A key may hold + and never a space, so a raw + can only mean itself.
		value, ok := router.DecodeQuery(strings.ReplaceAll(rawValue, "+", "%2B"))
		if !ok {
			value = rawValue // its bad escape makes it malformed
		}
		c.add(value)
	}
	switch {
	case !found:
	case len(kept) == 0:
		c.target = path
	default:
		c.target = path + "?" + strings.Join(kept, "&")
	}
}

func (p *CredentialPlaces) queryKey(name string) bool {
	for _, q := range p.Queries {
		if q == name {
			return true
		}
	}
	return false
}

func (c *credential) add(value string) {
	switch {
	case value == "":
	case c.state == missing:
		c.secret, c.state = value, presented
	case value != c.secret:
		c.state = malformed
	}
}

// WellFormed reports whether s can be a key at all: at most maxSecret bytes of the token68 alphabet
// (RFC 9110 section 11.2). A comma, which joins repeated headers, is outside of it.
func WellFormed(s string) bool { return wellFormed(s, maxSecret) }

func wellFormed(s string, most int) bool {
	if len(s) > most {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z',
			c == '-', c == '.', c == '_', c == '~', c == '+', c == '/', c == '=':
		default:
			return false
		}
	}
	return true
}
