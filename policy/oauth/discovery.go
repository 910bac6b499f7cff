package oauth

import (
	"errors"
	"net/url"
	"strings"
)

// MaxDiscovery bounds the document in which an issuer describes itself, in bytes.
const MaxDiscovery = 64 << 10

// Discovered is what an issuer says of itself (RFC 8414 section 2).
type Discovered struct {
	JWKS          string // "" if it has none
	Introspection string // "" if it has none
}

// DiscoveryURLs are where an issuer may describe itself: first by OpenID Connect Discovery, then by
// RFC 8414 section 3.1.
func DiscoveryURLs(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	host := u.Scheme + "://" + u.Host
	return []string{
		host + path + "/.well-known/openid-configuration",
		host + "/.well-known/oauth-authorization-server" + path,
	}
}

// ParseDiscovery reads what an issuer says of itself. It must be the issuer that was asked for:
// else one that was led elsewhere would take another's keys for its own.
func ParseDiscovery(data []byte, issuer string) (d Discovered, err error) {
	members, err := object(data)
	if err != nil {
		return d, errors.New("no description of an issuer: " + err.Error())
	}
	c := &Claims{members: members}
	if is, err := c.Text("issuer"); err != nil || is != issuer {
		return d, errors.New("it describes another issuer than the policy names")
	}
	for name, to := range map[string]*string{"jwks_uri": &d.JWKS, "introspection_endpoint": &d.Introspection} {
		if *to, err = c.Text(name); err != nil {
			return d, errors.New("its " + name + " is not a text")
		}
		if *to == "" {
			continue
		}
		if err := CheckURL(*to); err != nil {
			return d, errors.New("its " + name + ": " + err.Error())
		}
	}
	return d, nil
}
