// Package answer holds the refusals of an API as templates, with slots for what varies from request
// to request. It knows the dialects of error bodies that policies can name, and never writes
// anything into a body that could end a JSON string.
package answer

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Answer is how one reason to refuse a request is answered.
type Answer struct {
	Status      int
	ContentType string
	Challenge   string   // WWW-Authenticate, empty where HTTP does not ask for it
	Body        Template // JSON
	NoRetry     Template // the body of a limit's refusal where no retry can succeed
	Message     Template // plain text, for gRPC clients
}

// UnknownAPI is the one refusal that belongs to no API.
func UnknownAPI() *Answer {
	const message = "No API is configured for this host."
	return &Answer{
		Status:      403,
		ContentType: "application/json",
		Body:        Template{{text: `{"error":{"code":"unknown_api","message":"` + message + `"}}`}},
		Message:     Template{{text: message}},
	}
}

// Template is text with slots.
type Template []segment

// segment is literal text, or a slot when slot is not noSlot. A quoted slot stands inside a JSON
// string.
type segment struct {
	text   string
	slot   Slot
	quoted bool
}

// Slot is a place of a Template that each request fills.
type Slot uint8

// The slots. All but the last two have a placeholder that a text may hold.
const (
	noSlot Slot = iota
	RetryAfter
	KeyID
	ExpiredAt
	Scope
	Route
	Limit
	Address
	DecisionID
	RequestID
	Instance
)

// placeholders are the names of slots, as texts hold them.
func placeholders() map[string]Slot {
	return map[string]Slot{
		"retry_after": RetryAfter,
		"key_id":      KeyID,
		"expired_at":  ExpiredAt,
		"scope":       Scope,
		"route":       Route,
		"limit":       Limit,
		"address":     Address,
		"decision_id": DecisionID,
	}
}

// String returns the slot's placeholder.
func (s Slot) String() string {
	for name, known := range placeholders() {
		if known == s {
			return "{" + name + "}"
		}
	}
	return strconv.Itoa(int(s))
}

// Slots returns the slots of the template in their order.
func (t Template) Slots() []Slot {
	var slots []Slot
	for _, p := range t {
		if p.slot != noSlot {
			slots = append(slots, p.slot)
		}
	}
	return slots
}

// Values fill the slots of one answer.
type Values struct {
	RetryAfter                            int64 // seconds
	KeyID, Scope, Route, Limit, RequestID string
	DecisionID                            string
	Path                                  string    // without its query
	ExpiredAt                             time.Time // when the key stopped; zero if it has no end
	Address                               netip.Addr
}

func (v *Values) text(s Slot) string {
	switch s {
	case RetryAfter:
		return strconv.FormatInt(v.RetryAfter, 10)
	case KeyID:
		return v.KeyID
	case ExpiredAt:
		if !v.ExpiredAt.IsZero() {
			return v.ExpiredAt.Format(time.RFC3339)
		}
	case Scope:
		return v.Scope
	case Route:
		return v.Route
	case Limit:
		return v.Limit
	case Address:
		if v.Address.IsValid() {
			return v.Address.String()
		}
	case DecisionID:
		return v.DecisionID
	case RequestID:
		return v.RequestID
	case Instance:
		return v.Path
	}
	return ""
}

// Render appends the template with its slots filled.
func (t Template) Render(out []byte, v *Values) []byte {
	for _, p := range t {
		switch {
		case p.slot == noSlot:
			out = append(out, p.text...)
		case p.quoted:
			out = appendJSON(out, v.text(p.slot))
		default:
			out = append(out, v.text(p.slot)...)
		}
	}
	return out
}

// appendJSON appends s as the inside of a JSON string (RFC 8259 section 7). Bytes that are not
// UTF-8 become U+FFFD.
func appendJSON(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for _, r := range s {
		switch {
		case r == '"', r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

// GRPCStatus maps an HTTP status to the code that a gRPC client should see (google.rpc.Code).
// Envoy's own mapping would turn 429 into a retryable UNAVAILABLE.
func GRPCStatus(status int) string {
	switch {
	case status == 401:
		return "16"
	case status == 429:
		return "8"
	case status >= 500:
		return "14"
	default:
		return "7"
	}
}

// IsGRPC reports whether Envoy answers a request with this content type as gRPC: the two exact
// forms, see Envoy's Grpc::Common::hasGrpcContentType.
func IsGRPC(contentType string) bool {
	return contentType == "application/grpc" || strings.HasPrefix(contentType, "application/grpc+")
}
