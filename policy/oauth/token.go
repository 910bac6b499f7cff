package oauth

import (
	"crypto/sha256"
	"encoding/pem"
	"net/url"
	"strings"
	"time"
)

// MaxToken is the longest token that is looked at, in bytes.
const MaxToken = 8 << 10

// Token is what a verified access token says. It is never changed, and holds nothing of the token's
// own text.
type Token struct {
	Issuer *Issuer
	Client string // id of the client that the token was made for
	Scopes []string
	// Plan and Team are what the token claims, "" where it claims none. That the API has such a
	// plan is not known yet.
	Plan, Team string
	ExpiresAt  time.Time // as the token says, in UTC
	// Bound is set for a token that counts only with the client certificate whose SHA-256 is
	// Certificate (RFC 8705).
	Bound       bool
	Certificate [32]byte

	// RecordID and Lookup are those of the client. Texts is the first of them, the client and the
	// team in one.
	RecordID, Lookup, Texts string
}

// Expired reports whether the token's time is over, with the issuer's leeway.
func (t *Token) Expired(now time.Time) bool { return !now.Before(t.Until()) }

// Until is when the token is expired, with the issuer's leeway.
func (t *Token) Until() time.Time { return t.ExpiresAt.Add(t.Issuer.Leeway) }

// BoundTo reports whether the token is bound to a client certificate, which is in PEM and
// percent-encoded, as Envoy has it.
func (t *Token) BoundTo(certificate string) bool {
	text, err := url.PathUnescape(certificate)
	if err != nil {
		return false
	}
	block, _ := pem.Decode([]byte(text))
	return t.Bound && block != nil && block.Type == "CERTIFICATE" && sha256.Sum256(block.Bytes) == t.Certificate
}

// IsJWT reports whether a credential has the form of a signed JWT: exactly two dots, and nothing
// empty beside them.
func IsJWT(text string) bool {
	first := strings.IndexByte(text, '.')
	if first <= 0 {
		return false
	}
	second := strings.IndexByte(text[first+1:], '.')
	if second <= 0 {
		return false
	}
	last := text[first+second+2:]
	return last != "" && strings.IndexByte(last, '.') < 0
}

// RefusedError says that a token is not accepted, and that another try with it would not help.
type RefusedError struct {
	Why string // for people; holds nothing of the token
	// ExpiredAt is set if only the token's time is over.
	ExpiredAt time.Time
}

// Error says why.
func (e *RefusedError) Error() string { return "oauth: the token is refused: " + e.Why }

// UndecidedError says that it could not be found out whether a token is good.
type UndecidedError struct {
	Why        string        // for people
	RetryAfter time.Duration // after which another try may help; 0 is not known
}

// Error says why.
func (e *UndecidedError) Error() string { return "oauth: not decided: " + e.Why }

func refused(why string) error { return &RefusedError{Why: why} }
