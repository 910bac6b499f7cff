package policy

import "fmt"

// Reason says why a request was answered as it was. Its text form is stable: it stands in policy
// files, dynamic metadata, metrics and log lines.
type Reason uint8

// The reasons in the order in which a decision can reach them.
const (
	// Allowed does not imply that a key was presented: public routes allow without one.
	Allowed Reason = iota
	// UnknownAPI means that neither context_extensions nor the host named an API. It is answered by
	// Tollgate itself, not by a policy.
	UnknownAPI
	// MissingCredential: no configured place holds anything that could be a key.
	MissingCredential
	// MalformedCredential: something was presented that cannot be a key, or a key in a query that
	// no proxy can take out of it. The store was not asked.
	MalformedCredential
	// UnknownKey covers keys that never existed, were deleted, or belong to another API. The three
	// are not told apart on purpose.
	UnknownKey
	// RevokedKey is final; InactiveKey is not.
	RevokedKey
	// WrongEnvironment: the key is not accepted under this host or context.
	WrongEnvironment
	// InactiveKey: deactivated by its owner.
	InactiveKey
	// ExpiredKey: past its expiry, or retired by a rotation after its grace.
	ExpiredKey
	// InvalidToken: an access token that no issuer of the API has made, or not for this API, or
	// that claims what the policy does not have.
	InvalidToken
	// ExpiredToken: nothing is wrong with an access token but that its time is over.
	ExpiredToken
	// AddressDenied: the client's address is not on the key's list, or could not be established.
	AddressDenied
	// ScopeDenied: the key lacks the scope of the route.
	ScopeDenied
	// InsufficientScope: the access token lacks the scope of the route.
	InsufficientScope
	// RouteDenied: no route of the policy matches, or the path is not one that every HTTP parser
	// reads alike.
	RouteDenied
	// RateLimited: a window of the plan is spent.
	RateLimited
	// QuotaExceeded: a window marked as quota is spent.
	QuotaExceeded
	// ConcurrencyExceeded: as many requests of the key as its plan allows at once are under way.
	ConcurrencyExceeded
	// CorruptKey: the record exists and cannot be used (unreadable, or it names a plan or limit
	// that the policy does not have). Answered like Undecided, never handed to Envoy's failure
	// policy.
	CorruptKey
	// LookupRefused: the store was not asked about the key, because the caller had used up his part
	// of look-ups of unknown ones. Answered like Undecided, never handed to Envoy's failure policy:
	// guesses would open it.
	LookupRefused
	// Undecided: the store could not be asked in time, or whether an access token is good could not
	// be found out.
	Undecided

	reasonCount
)

var reasonNames = [reasonCount]string{
	Allowed:             "allowed",
	UnknownAPI:          "unknown_api",
	MissingCredential:   "missing_credential",
	MalformedCredential: "malformed_credential",
	UnknownKey:          "unknown_key",
	RevokedKey:          "revoked_key",
	WrongEnvironment:    "wrong_environment",
	InactiveKey:         "inactive_key",
	ExpiredKey:          "expired_key",
	InvalidToken:        "invalid_token",
	ExpiredToken:        "expired_token",
	AddressDenied:       "address_denied",
	ScopeDenied:         "scope_denied",
	InsufficientScope:   "insufficient_scope",
	RouteDenied:         "route_denied",
	RateLimited:         "rate_limited",
	QuotaExceeded:       "quota_exceeded",
	ConcurrencyExceeded: "concurrency_exceeded",
	CorruptKey:          "corrupt_key",
	LookupRefused:       "lookup_refused",
	Undecided:           "undecided",
}

// String returns the reason's stable name, such as "expired_key".
func (r Reason) String() string {
	if r < reasonCount {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Reasons returns every reason, in decision order.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// Answered reports whether a policy file says how the reason is answered.
func (r Reason) Answered() bool {
	switch r {
	case Allowed, UnknownAPI, CorruptKey, LookupRefused:
		return false
	default:
		return r < reasonCount
	}
}

// Presented reports whether a denial for r follows a credential that was presented, which RFC 6750
// section 3.1 calls an invalid_token.
func (r Reason) Presented() bool { return r != MissingCredential }

// OfToken reports whether only a request with an access token can be refused for r.
func (r Reason) OfToken() bool {
	return r == InvalidToken || r == ExpiredToken || r == InsufficientScope
}

// Limited reports whether r is the refusal of a limit: that a retry can succeed later.
func (r Reason) Limited() bool {
	return r == RateLimited || r == QuotaExceeded || r == ConcurrencyExceeded
}

// ParseReason returns the reason of a name.
func ParseReason(name string) (Reason, bool) {
	for r, n := range reasonNames {
		if n == name {
			return Reason(r), true
		}
	}
	return 0, false
}
