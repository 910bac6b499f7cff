package policy

import "strings"

// The headers that tell the application who called, with the names that Kong and APISIX users know.
// Those without a value are removed from every allowed request, so that a client can never set one.
const (
	headerConsumerID   = "x-consumer-id"           // the key's team
	headerConsumerName = "x-consumer-username"     // the key's name
	headerCredentialID = "x-credential-identifier" // the key's id
	headerScope        = "x-authenticated-scope"   // the scope that the route asked for
	headerPlan         = "x-consumer-plan"         // the key's plan
)

// headerFailureMode is what Envoy itself adds when it lets a request pass unchecked; a client's own
// copy would tell the application the same.
const headerFailureMode = "x-envoy-auth-failure-mode-allowed"

// headerDecisionID tells the client which decision has refused its request.
const headerDecisionID = "x-decision-id"

// The headers by which an application may take another method than the one that was checked.
const (
	headerMethodOverride = "x-http-method-override"
	headerHTTPMethod     = "x-http-method"
	headerShortOverride  = "x-method-override"
)

// What a browser says in a preflight, beside the method OPTIONS
// (https://fetch.spec.whatwg.org/#cors-preflight-request).
const (
	headerOrigin          = "origin"
	headerRequestedMethod = "access-control-request-method"
)

// withheld reports whether a header never reaches the application as the client sent it.
func withheld(name string) bool {
	switch name {
	case headerConsumerID, headerConsumerName, headerCredentialID, headerScope, headerPlan,
		headerFailureMode, headerMethodOverride, headerHTTPMethod, headerShortOverride:
		return true
	}
	return false
}

// ReservedHeader reports whether a header has a meaning already, so that no key may stand in it:
// one of ours, of the proxy's, or what HTTP itself and browsers use, and Envoy may rewrite.
func ReservedHeader(name string) bool {
	switch name {
	case "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "expect", "cookie", "date", "via",
		headerForwardedFor, headerExternalAddress, headerRequestID, "content-type", headerOrigin, headerRequestedMethod:
		return true
	}
	return withheld(name)
}

// withheldAlias reports whether an inbound header is one that applications take for a withheld one,
// because they read whatever is no letter and no digit alike, as CGI does: its name is
// HTTP_X_CONSUMER_ID, whether a _, a . or a - was sent.
func withheldAlias(name string) bool {
	if plainName(name) {
		return false
	}
	return withheld(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r >= 0x80 {
			return r
		}
		return '-'
	}, name))
}

// plainName reports whether a header's name has nothing that could make it another form of one that
// counts: capitals, or what is no letter, digit or hyphen.
func plainName[T string | []byte](name T) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
