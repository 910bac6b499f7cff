package policy

import "strings"

// The headers that tell the application who called, with the names that Kong and
// APISIX users know. Those without a value are removed from every allowed
// request, so that a client can never set one.
const (
	headerConsumerID   = "x-consumer-id"           // the key's team
	headerConsumerName = "x-consumer-username"     // the key's name
	headerCredentialID = "x-credential-identifier" // the key's id
	headerScope        = "x-authenticated-scope"   // the scope that the route asked for
	headerPlan         = "x-consumer-plan"         // the key's plan
)

// headerFailureMode is what Envoy itself adds when it lets a request pass
// unchecked; a client's own copy would tell the application the same.
const headerFailureMode = "x-envoy-auth-failure-mode-allowed"

func identityHeader(name string) bool {
	switch name {
	case headerConsumerID, headerConsumerName, headerCredentialID, headerScope, headerPlan, headerFailureMode:
		return true
	}
	return false
}

// identityAlias reports whether an inbound header is one that applications take
// for an identity header because they read _ as -.
func identityAlias(name string) bool {
	return strings.IndexByte(name, '_') >= 0 && identityHeader(strings.ReplaceAll(name, "_", "-"))
}
