package httpserver

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"tollgate/extauthz"
	"tollgate/policy"
)

// The headers of an answer that are for the proxy and not for client or
// application.
const (
	// headerStatus is the status that the client must see, where the proxy would
	// not take that status as a denial.
	headerStatus = "x-tollgate-status"
	// headerBody is the body, for nginx, which drops that of an auth_request.
	headerBody = "x-tollgate-body"
	// headerTarget is the request target without the key.
	headerTarget = "x-tollgate-target"
	// headerDecision holds the fields of the dynamic metadata as name=value, joined
	// with semicolons.
	headerDecision = "x-tollgate-decision"
	// headerToRemove is Envoy's name for the headers that it takes away.
	headerToRemove = "x-envoy-auth-headers-to-remove"
)

// reply writes an answer as HTTP/1.1.
type reply struct {
	out   []byte
	place placement
	head  bool // a HEAD request, whose answer has no body
	close bool
}

// decision writes the answer of a decision in the form that its proxy needs.
func (r *reply) decision(d *policy.Decision) {
	if d.Allow {
		r.allow(d)
		return
	}
	r.deny(d)
}

func (r *reply) allow(d *policy.Decision) {
	r.status(http.StatusOK)
	r.fields(d.Request)
	r.fields(d.Response)
	if d.Target != "" {
		r.target(d.Target)
	}
	r.remove(d.Remove)
	r.metadata(d.Metadata)
	r.body(nil)
}

// target says what the application is to get in place of what the client asked for.
func (r *reply) target(target string) {
	if r.place.proxy == proxyCaddy {
		target = caddyTarget(target)
	}
	r.field(headerTarget, target)
}

// caddyTarget writes a target for Caddy's rewrite, which reads it in a way of its own
// that differs from version to version: what stands in braces in the query is a
// placeholder to be filled in, a second "=" ends a value, and some versions unescape
// the path while 2.6 escapes it once more. So the path goes out unescaped, which is
// one path to all of them, because an allowed one hides neither "?" nor "#" nor
// further escapes; and in the query these bytes are escaped.
func caddyTarget(target string) string {
	path, query, _ := strings.Cut(target, "?")
	if plain, err := url.PathUnescape(path); err == nil {
		path = plain
	}
	out := append(make([]byte, 0, len(target)+16), path...)
	separator := byte('?')
	for pair := range strings.SplitSeq(query, "&") {
		out = append(out, separator)
		separator = '&'
		key, value, ok := strings.Cut(pair, "=")
		out = appendUnbraced(out, key)
		if ok {
			out = append(out, '=')
			out = appendUnbraced(out, strings.ReplaceAll(value, "=", "%3D"))
		}
	}
	return string(out)
}

func appendUnbraced(dst []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; c {
		case '{':
			dst = append(dst, "%7B"...)
		case '}':
			dst = append(dst, "%7D"...)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// remove names the headers that the application must not get. nginx and Traefik
// drop those that are not in the answer; Caddy copies them, and 2.6 makes a text of
// its own of one that is not there.
func (r *reply) remove(names []string) {
	switch r.place.proxy {
	case proxyCaddy:
		for _, name := range names {
			r.field(name, "")
		}
	case proxyEnvoy:
		if len(names) == 0 {
			return
		}
		r.out = append(r.out, headerToRemove+": "...)
		for i, name := range names {
			if i > 0 {
				r.out = append(r.out, ',')
			}
			r.out = append(r.out, name...)
		}
		r.out = append(r.out, "\r\n"...)
	}
}

// deny writes a refusal. Envoy takes a 5xx for a failure of ours, which
// failure_mode_allow turns into an allow, and nginx knows no refusals but 401 and
// 403; so both get a status that refuses, and beside it the one that the API
// documents.
func (r *reply) deny(d *policy.Decision) {
	status, body := d.Status, d.Body
	switch {
	case r.place.proxy == proxyNginx && status != http.StatusUnauthorized,
		r.place.proxy <= proxyEnvoy && status >= 500:
		status = http.StatusForbidden
	}
	r.status(status)
	r.fields(d.Response)
	if status != d.Status && !grpcAnswer(d) || r.place.proxy == proxyNginx {
		r.out = append(r.out, headerStatus+": "...)
		r.out = strconv.AppendInt(r.out, int64(d.Status), 10)
		r.out = append(r.out, "\r\n"...)
	}
	if r.place.proxy == proxyNginx {
		r.field(headerBody, string(body))
		body = nil
	}
	r.metadata(d.Metadata)
	r.body(body)
}

// grpcAnswer reports whether a denial is one for a gRPC client, whose HTTP status
// Envoy makes 200.
func grpcAnswer(d *policy.Decision) bool {
	for _, h := range d.Response {
		if h.Name == "grpc-status" {
			return true
		}
	}
	return false
}

// undecided is a failure for every proxy: Envoy follows failure_mode_allow and
// status_on_error, nginx answers 500, Caddy and Traefik pass the 503 on.
func (r *reply) undecided() {
	r.status(http.StatusServiceUnavailable)
	r.body(nil)
}

func (r *reply) status(code int) {
	r.out = append(r.out, "HTTP/1.1 "...)
	r.out = strconv.AppendInt(r.out, int64(code), 10)
	r.out = append(r.out, ' ')
	r.out = append(r.out, http.StatusText(code)...)
	r.out = append(r.out, "\r\n"...)
	if r.close {
		r.out = append(r.out, "connection: close\r\n"...)
	}
}

func (r *reply) fields(headers []policy.Header) {
	for _, h := range headers {
		r.field(h.Name, h.Value)
	}
}

func (r *reply) field(name, value string) {
	r.out = append(r.out, name...)
	r.out = append(r.out, ": "...)
	r.out = append(r.out, extauthz.CleanValue(value)...)
	r.out = append(r.out, "\r\n"...)
}

// metadata writes the decision's fields in one header, for the proxies that keep it
// to themselves: Caddy and Traefik would show it to the client of a denial, and with
// it why a key is refused.
func (r *reply) metadata(fields []policy.Header) {
	if r.place.proxy == proxyCaddy || r.place.proxy == proxyTraefik {
		return
	}
	r.out = append(r.out, headerDecision+": "...)
	for i, f := range fields {
		if i > 0 {
			r.out = append(r.out, ';')
		}
		r.out = append(r.out, f.Name...)
		r.out = append(r.out, '=')
		r.out = appendPlain(r.out, f.Value)
	}
	r.out = append(r.out, "\r\n"...)
}

// appendPlain appends a value with everything escaped (RFC 3986) that could end it
// or the header.
func appendPlain(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == ';' || c == '=' || c == '%' || c == ',' || c == '"' {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// body writes the length, the end of the head and the body.
func (r *reply) body(body []byte) {
	r.out = append(r.out, "content-length: "...)
	r.out = strconv.AppendInt(r.out, int64(len(body)), 10)
	r.out = append(r.out, "\r\n\r\n"...)
	if !r.head {
		r.out = append(r.out, body...)
	}
}
