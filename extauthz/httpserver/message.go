package httpserver

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// maxFields bounds the header fields of a request; Envoy takes 100 from its
// client.
const maxFields = 256

// fault is a request that is not taken. Its text quotes nothing.
type fault struct {
	status int
	text   string
}

// Error returns what is wrong with the request.
func (f *fault) Error() string { return f.text }

func faultOf(err error) *fault {
	var f *fault
	errors.As(err, &f)
	return f
}

// message is the head of an HTTP/1.1 request, of which we read the small
// part that proxies send. What two parsers could read differently is a fault: bare
// LF, folded lines, spaces around a name, repeated Host or Content-Length, and
// Transfer-Encoding.
//
// Its texts are parts of one string that is made for each request.
type message struct {
	method, target, host string
	fields               []field

	length    int64 // of the body
	timeout   time.Duration
	keepAlive bool
	expects   bool
	hosts     int
	lengths   int
}

// field is a header field with its name in lower case.
type field struct{ name, value string }

// parse reads a head that ends with its empty line. It lower-cases the names in
// place.
func (m *message) parse(head []byte) *fault {
	*m = message{fields: m.fields[:0]}
	lowerNames(head)
	text := string(head)
	line, rest, _ := strings.Cut(text, "\r\n")
	if f := m.requestLine(line); f != nil {
		return f
	}
	for rest != "\r\n" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !token(name) || !fieldValue(value) {
			return &fault{400, "a header field is malformed"}
		}
		if len(m.fields) == maxFields {
			return &fault{431, "too many header fields"}
		}
		m.fields = append(m.fields, field{name, value})
		if f := m.framing(name, value); f != nil {
			return f
		}
	}
	if m.hosts > 1 || m.lengths > 1 {
		return &fault{400, "Host or Content-Length is repeated"}
	}
	return nil
}

// lowerNames lower-cases the names of the header fields in place; the request line
// and the values stay as they are.
func lowerNames(head []byte) {
	name := false
	for i, c := range head {
		switch {
		case c == '\n':
			name = true
		case c == ':':
			name = false
		case name && c >= 'A' && c <= 'Z':
			head[i] = c + 'a' - 'A'
		}
	}
}

func (m *message) requestLine(line string) *fault {
	method, rest, ok1 := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	switch {
	case !ok1 || !ok2 || !token(method) || target == "" || !visible(target):
		return &fault{400, "the request line is malformed"}
	case version == "HTTP/1.1":
		m.keepAlive = true
	case version != "HTTP/1.0":
		return &fault{505, "this server speaks HTTP/1.1"}
	}
	m.method, m.target = method, target
	return nil
}

// framing takes in the fields that say where the request ends and how long its
// proxy waits.
func (m *message) framing(name, value string) *fault {
	switch name {
	case "host":
		m.host = value
		m.hosts++
	case "content-length":
		m.lengths++
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return &fault{400, "Content-Length is no number"}
		}
		m.length = int64(n)
	case "transfer-encoding":
		return &fault{400, "this server takes no Transfer-Encoding"}
	case "expect":
		m.expects = true
	case "connection":
		switch {
		case strings.EqualFold(value, "keep-alive"):
			m.keepAlive = true
		case strings.EqualFold(value, "close"):
			m.keepAlive = false
		}
	case "x-envoy-expected-rq-timeout-ms":
		if n, err := strconv.ParseUint(value, 10, 31); err == nil {
			m.timeout = time.Duration(n) * time.Millisecond
		}
	}
	return nil
}

// only returns the value of a field that must not be repeated. A proxy that sets a
// field leaves one copy of it; two mean that one of them is the client's.
func (m *message) only(name string) (value string, ok bool) {
	found := false
	for _, f := range m.fields {
		if f.name != name {
			continue
		}
		if found {
			return "", false
		}
		value, found = f.value, true
	}
	return value, found
}

func (m *message) has(name string) bool {
	for _, f := range m.fields {
		if f.name == name {
			return true
		}
	}
	return false
}

// token reports whether s is a method or a field name (RFC 9110 section 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		case strings.IndexByte("!#$%&'*+.^`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// visible reports whether s holds neither spaces nor control bytes. Bytes that are
// not ASCII may stand in it: they are what the client sent.
func visible(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// fieldValue reports whether s can be the value of a header field.
func fieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
