package extauthztest

import (
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/policyfile"
)

// Small is one API with a key in front of every path below /items.
const Small = `
api: small
hosts: [small.test]
credentials: [bearer, {query: api_key}]
key_format: {prefixes: [sm_], checksum: required}
routes:
- {name: items, match: /items/, scope: none}
- {name: item, match: "GET /items/{id}", scope: none}
- {name: open, match: GET /open, public: true}
plans:
- {name: basic, limits: [{name: minute, requests: 5, per: minute}]}
errors:
  dialect: nested
  answers:
  - {on: [missing_credential, malformed_credential, unknown_key, revoked_key, wrong_environment, inactive_key, expired_key], status: 401, code: unauthorized, message: No.}
  - {on: [address_denied, scope_denied, route_denied], status: 403, code: forbidden, message: Not this.}
  - {on: [rate_limited, quota_exceeded], status: 429, code: slow_down, message: Too fast.}
  - {on: [undecided], status: 500, code: internal_error, message: Our fault.}
`

// SmallFile is the policy of one small API, with these changes of its text.
func SmallFile(changes ...string) policyfile.File {
	return policyfile.File{Name: "small.yaml", Data: []byte(strings.NewReplacer(changes...).Replace(Small))}
}

// SmallTokens are the changes by which the small API takes tokens of an issuer that are for
// small.test; more stands among what its policy says of the issuer.
func SmallTokens(issuer, more string) []string {
	return []string{
		"{query: api_key}]", "{query: api_key}, {oauth2: {issuer: " + issuer + ", audience: [small.test], plan: basic" + more + "}}]",
		"expired_key]", "expired_key, invalid_token, expired_token]",
		"route_denied]", "insufficient_scope, route_denied]",
	}
}

// SmallKey is a key of that API, and the entry to seed it with.
func SmallKey() (secret string, entries []keyfile.Entry) {
	secret = keys.Seal("sm_", "APlainKeyOfTheSmallTestAPI0")
	return secret, []keyfile.Entry{{Secret: secret, Key: keys.Key{
		ID: "key_small", API: "small", Team: "team_s", Name: "plain", Plan: "basic",
		Status: keys.Active, Version: 1, LimitID: "key_small", AnchorDay: 1, CreatedAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
	}}}
}

// Get is a check request of the small API.
func Get(target string, headers map[string]string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: SocketAddress(netip.MustParseAddr("192.0.2.1"))},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Host: "small.test", Path: target, Headers: headers,
		}},
	}}
}

// SocketAddress is an address as Envoy sends it.
func SocketAddress(a netip.Addr) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: a.String()}}}
}
