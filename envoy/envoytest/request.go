package envoytest

import (
	"fmt"
	"net/netip"
	"strings"
)

// Request is one request, sent exactly as it says: nothing is escaped, checked, sorted or joined.
type Request struct {
	// Method and Target are written as they are. Target is a path with query, "*", an absolute URL,
	// or an authority (CONNECT; HTTP/2 has no place for it there and sends Host alone).
	Method, Target string
	// Host is the Host header or :authority. It is always sent, even empty; more Host headers may
	// be in Headers.
	Host string
	// Headers are [name, value] pairs in the order of sending. HTTP/2 has only lower-case names, so
	// SendH2 lowers them.
	Headers [][2]string
	// Source is the client address that a PROXY protocol line claims. The zero value claims none:
	// Envoy then sees the address of the connection. Unused without PROXY protocol.
	Source netip.Addr
	// Body is sent with a content-length, unless Headers hold a content-length or
	// transfer-encoding.
	Body []byte
}

// Response is what came back.
type Response struct {
	// Status is the HTTP status: the final one, interim 1xx replies are dropped (101 is final).
	Status int
	// Headers are [name, value] pairs with lower-case names, trailers at the end: so the headers of
	// a gRPC answer are all here, trailers-only or not. HTTP/2 keeps the order on the wire,
	// HTTP/1.1 sorts by name.
	Headers [][2]string
	// Body is the whole body.
	Body []byte
}

// Value returns the value of the header with this lower-case name, its copies joined with a comma,
// and whether there was any.
func (r *Response) Value(name string) (string, bool) { return value(r.Headers, name) }

// value joins the values that a list of pairs has for a name.
func value(headers [][2]string, name string) (string, bool) {
	var values []string
	for _, h := range headers {
		if h[0] == name {
			values = append(values, h[1])
		}
	}
	return strings.Join(values, ","), values != nil
}

// has reports whether the request carries a header of this lower-case name.
func (r *Request) has(name string) bool {
	for _, h := range r.Headers {
		if strings.EqualFold(h[0], name) {
			return true
		}
	}
	return false
}

// needsLength reports whether a content-length must be added to what the caller gave.
func (r *Request) needsLength() bool {
	return len(r.Body) > 0 && !r.has("content-length") && !r.has("transfer-encoding")
}

// proxyLine returns the PROXY protocol v1 line that claims r.Source as the client.
func (r *Request) proxyLine() string {
	switch {
	case !r.Source.IsValid():
		return "PROXY UNKNOWN\r\n"
	case r.Source.Is4():
		return fmt.Sprintf("PROXY TCP4 %s 127.0.0.1 40000 10000\r\n", r.Source)
	default:
		return fmt.Sprintf("PROXY TCP6 %s ::1 40000 10000\r\n", r.Source)
	}
}
