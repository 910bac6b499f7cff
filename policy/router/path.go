package router

import (
	"strings"
	"unicode/utf8"
)

// SplitTarget cuts a request target at its first question mark. It is done by hand on purpose:
// url.Parse reads //a/b as a host (CVE-2026-26205).
func SplitTarget(target string) (path, query string, hasQuery bool) {
	return strings.Cut(target, "?")
}

// Segments appends the percent-decoded segments of a path to into; a path that ends in a slash has
// "/" as its last one. ok is false for a path that parsers read in different ways, which no route
// may match: one that is not absolute or holds an empty inner segment, a dot segment, a backslash,
// a semicolon, a fragment, a byte outside printable ASCII, escapes that are not UTF-8, a bad
// escape, or an escape of any of these, of a dot, a slash or a question mark, or of an escape.
func Segments(path string, into []string) (_ []string, ok bool) {
	if path == "" || path[0] != '/' || !plainPath(path) {
		return into, false
	}
	for rest := path[1:]; ; {
		segment, tail, more := strings.Cut(rest, "/")
		if !more && segment == "" {
			return append(into, "/"), true
		}
		decoded, ok := decodeSegment(segment)
		if !ok || decoded == "" || decoded == "." || decoded == ".." {
			return into, false
		}
		into = append(into, decoded)
		if !more {
			return into, true
		}
		rest = tail
	}
}

func plainPath(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case c <= ' ' || c >= 0x7f, c == '\\', c == ';', c == '#', c == '?':
			return false
		}
	}
	return true
}

func decodeSegment(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	once, ok := percentDecode(s)
	if !ok {
		return "", false
	}
	// Overlong forms such as %c0%ae are a dot to a careless decoder.
	if !utf8.ValidString(once) {
		return "", false
	}
	// A server that decodes a second time must not see another path than we did.
	for i := range len(once) {
		if once[i] == '%' {
			if _, encoded := unhex(once, i+1); encoded {
				return "", false
			}
		}
	}
	return once, true
}

// percentDecode decodes the escapes of a path segment; ok is false for a bad escape and for one
// that hides a byte with a meaning of its own in a path.
func percentDecode(s string) (string, bool) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		c, ok := unhex(s, i+1)
		if !ok || c < ' ' || c == 0x7f {
			return "", false
		}
		switch c {
		case '.', '/', '\\', ';', '#', '?':
			return "", false
		}
		out = append(out, c)
		i += 2
	}
	return string(out), true
}

// unhex reads the two hexadecimal digits of s at i.
func unhex(s string, i int) (byte, bool) {
	if i+2 > len(s) {
		return 0, false
	}
	hi, ok1 := hexDigit(s[i])
	lo, ok2 := hexDigit(s[i+1])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// PlainQuery reports whether a query holds only what RFC 3986 lets stand in a request target:
// printable ASCII and no fragment. A raw byte could not be handed on as it was when the query is
// rewritten.
func PlainQuery(query string) bool {
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// DecodeQuery decodes a key or value of a query as HTML forms encode it.
func DecodeQuery(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			d, ok := unhex(s, i+1)
			if !ok {
				return "", false
			}
			c = d
			i += 2
		}
		out = append(out, c)
	}
	return string(out), true
}
