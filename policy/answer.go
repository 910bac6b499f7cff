package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tollgate/policy/keys"
)

// answer is one refusal of an API, compiled: what varies between two requests is
// filled into the slots of its templates.
type answer struct {
	status      int
	contentType string
	challenge   string   // WWW-Authenticate, empty where HTTP does not ask for it
	body        template // JSON
	hopeless    template // the body of a limit's refusal where no retry can succeed
	message     template // plain text, for gRPC clients
}

// template is text with slots.
type template []piece

// piece is literal text, or a slot when slot is not noSlot. A quoted slot stands
// inside a JSON string.
type piece struct {
	text   string
	slot   slot
	quoted bool
}

type slot uint8

const (
	noSlot slot = iota
	slotRetryAfter
	slotKeyID
	slotExpiredAt
	slotScope
	slotRoute
	slotLimit
	slotAddress
	slotRequestID
	slotInstance
)

// slotNames are the placeholders that a policy file may use.
func slotNames() map[string]slot {
	return map[string]slot{
		"retry_after": slotRetryAfter,
		"key_id":      slotKeyID,
		"expired_at":  slotExpiredAt,
		"scope":       slotScope,
		"route":       slotRoute,
		"limit":       slotLimit,
		"address":     slotAddress,
	}
}

// fits reports whether a slot can have a value in an answer to r.
func (s slot) fits(r Reason) bool {
	switch s {
	case slotRetryAfter, slotLimit:
		return r.limited()
	case slotExpiredAt:
		return r == ExpiredKey
	case slotScope:
		return r == ScopeDenied
	case slotRoute:
		return r != RouteDenied
	case slotKeyID:
		return r != MissingCredential
	default:
		return true
	}
}

// values fills the slots of one answer.
type values struct {
	retryAfter                                  int64
	keyID, scope, route, limit, requestID, path string
	address                                     netip.Addr
	key                                         *keys.Grant // nil while it is not known
}

func (v *values) text(s slot) string {
	switch s {
	case slotRetryAfter:
		return strconv.FormatInt(v.retryAfter, 10)
	case slotKeyID:
		return v.keyID
	case slotExpiredAt:
		return v.expiredAt()
	case slotScope:
		return v.scope
	case slotRoute:
		return v.route
	case slotLimit:
		return v.limit
	case slotAddress:
		if v.address.IsValid() {
			return v.address.String()
		}
	case slotRequestID:
		return v.requestID
	case slotInstance:
		return v.path
	}
	return ""
}

// expiredAt is the moment at which the key stopped: its expiry or its retirement,
// whichever comes first.
func (v *values) expiredAt() string {
	if v.key == nil || v.key.End().IsZero() {
		return ""
	}
	return v.key.End().Format(time.RFC3339)
}

// render appends the template with its slots filled.
func (t template) render(out []byte, v *values) []byte {
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

// parseText splits "retry after {retry_after} s" at its placeholders.
func parseText(s string) (template, error) {
	var t template
	for {
		before, after, found := strings.Cut(s, "{")
		if before != "" {
			t = append(t, piece{text: before})
		}
		if !found {
			return t, nil
		}
		name, rest, closed := strings.Cut(after, "}")
		slot, known := slotNames()[name]
		if !closed || !known {
			return nil, fmt.Errorf("unknown placeholder %q", "{"+name+"}")
		}
		t = append(t, piece{slot: slot})
		s = rest
	}
}

// jsonBuilder writes the template of a JSON body.
type jsonBuilder struct{ t template }

func (b *jsonBuilder) raw(s string) { b.t = append(b.t, piece{text: s}) }

// text writes a JSON string whose placeholders are filled in later.
func (b *jsonBuilder) text(t template) {
	b.raw(`"`)
	for _, p := range t {
		if p.slot == noSlot {
			p.text = string(appendJSON(nil, p.text))
		}
		p.quoted = p.slot != noSlot
		b.t = append(b.t, p)
	}
	b.raw(`"`)
}

func (b *jsonBuilder) literal(s string) { b.text(template{{text: s}}) }

func (b *jsonBuilder) slot(s slot) { b.t = append(b.t, piece{slot: s}) }

// texts are the templates of an answer's parts.
type texts struct {
	message    template
	details    map[string]template
	extensions map[string]template
}

// withoutRetry leaves out the members that say when to retry. Sentences stay as the
// API documents them.
func (t texts) withoutRetry() texts {
	keeps := func(all map[string]template) map[string]template {
		kept := maps.Clone(all)
		maps.DeleteFunc(kept, func(_ string, t template) bool { return t.isRetry() })
		return kept
	}
	return texts{message: t.message, details: keeps(t.details), extensions: keeps(t.extensions)}
}

// isRetry reports whether the text is the seconds to wait and nothing else.
func (t template) isRetry() bool { return len(t) == 1 && t[0].slot == slotRetryAfter }

// envelope builds {"success":false,"error":{"code","message","details"},"requestId"}.
func envelope(in *answerIn, t texts, requestID string) template {
	var b jsonBuilder
	b.raw(`{"success":false,"error":{"code":`)
	b.literal(in.Code)
	b.raw(`,"message":`)
	b.text(t.message)
	if len(t.details) > 0 {
		b.raw(`,"details":{`)
		b.members(t.details, "")
		b.raw(`}`)
	}
	b.raw(`}`)
	if requestID != "" {
		b.raw(`,`)
		b.literal(requestID)
		b.raw(`:`)
		b.text(template{{slot: slotRequestID}})
	}
	b.raw(`}`)
	return b.t
}

// members writes named texts in the order of their names, each after the first, or
// after what stands before it, behind a comma.
func (b *jsonBuilder) members(texts map[string]template, comma string) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		b.raw(comma)
		b.literal(name)
		b.raw(`:`)
		b.detail(texts[name])
		comma = ","
	}
}

// detail writes a value of details; the seconds to wait are a number.
func (b *jsonBuilder) detail(t template) {
	if t.isRetry() {
		b.slot(slotRetryAfter)
		return
	}
	b.text(t)
}

// nested builds {"error":{"code","message","retry_after"}}.
func nested(in *answerIn, t texts, limited bool) template {
	var b jsonBuilder
	b.raw(`{"error":{"code":`)
	b.literal(in.Code)
	b.raw(`,"message":`)
	b.text(t.message)
	if limited {
		b.raw(`,"retry_after":`)
		b.slot(slotRetryAfter)
	}
	b.raw(`}}`)
	return b.t
}

// problem builds an RFC 9457 problem.
func problem(in *answerIn, t texts) template {
	var b jsonBuilder
	b.raw(`{"type":`)
	b.literal(in.Type)
	b.raw(`,"title":`)
	b.literal(in.Title)
	b.raw(`,"status":` + strconv.Itoa(in.Status) + `,"detail":`)
	b.text(t.message)
	if in.Instance {
		b.raw(`,"instance":`)
		b.text(template{{slot: slotInstance}})
	}
	b.members(t.extensions, ",")
	b.raw(`}`)
	return b.t
}

// unknownAPI is the one refusal that belongs to no API.
func unknownAPI() *answer {
	const message = "No API is configured for this host."
	return &answer{
		status:      403,
		contentType: "application/json",
		body:        template{{text: `{"error":{"code":"unknown_api","message":"` + message + `"}}`}},
		message:     template{{text: message}},
	}
}

// appendJSON appends s as the inside of a JSON string (RFC 8259 section 7).
// Bytes that are not UTF-8 become U+FFFD.
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

// grpcStatus maps an HTTP status to the code that a gRPC client should see
// (google.rpc.Code). Envoy's own mapping would turn 429 into a retryable
// UNAVAILABLE.
func grpcStatus(status int) string {
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

// grpcRequest reports whether Envoy answers a request with this content type as
// gRPC: the two exact forms, see Envoy's Grpc::Common::hasGrpcContentType.
func grpcRequest(contentType string) bool {
	return contentType == "application/grpc" || strings.HasPrefix(contentType, "application/grpc+")
}
