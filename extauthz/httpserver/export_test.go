package httpserver

import (
	"bytes"
	"errors"
	"net"
	"reflect"
	"testing"
	"time"

	"tollgate/extauthz"
	"tollgate/policy"
	"tollgate/policy/policyfile"
)

// Message is what is read of the head of a request.
type Message struct {
	Method, Target, Host string
	Length               int64
}

// ParseMessage reads a head; it changes the bytes.
func ParseMessage(head []byte) (Message, error) {
	var m message
	if f := m.parse(head); f != nil {
		return Message{}, f
	}
	return Message{m.method, m.target, m.host, m.length}, nil
}

// RequestOf returns what the policy is asked about a request.
func RequestOf(t testing.TB, file policyfile.File, head string) policy.Request {
	t.Helper()
	set, err := policyfile.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	var m message
	if f := m.parse([]byte(head)); f != nil {
		t.Fatal(f)
	}
	var r policy.Request
	m.fill(&r, set)
	return r
}

// Directly returns what a connection answers to these bytes.
func Directly(a *extauthz.Authorizer) func(sent []byte) []byte {
	l := New(a, Config{})
	return func(sent []byte) []byte {
		c := &scriptedConn{in: bytes.NewReader(sent)}
		(&connection{server: l, conn: c, last: time.Now().Add(connectionAge), end: time.Now().Add(connectionEnd)}).serve()
		return c.out.Bytes()
	}
}

// scriptedConn gives out bytes a few at a time and keeps what is written.
type scriptedConn struct {
	net.Conn
	in      *bytes.Reader
	out     bytes.Buffer
	drained func() // called, unless nil, when all has been given out and more is asked for
}

func (c *scriptedConn) Read(p []byte) (int, error) {
	if c.in.Len() == 0 && c.drained != nil {
		c.drained()
	}
	return c.in.Read(p[:min(len(p), 777)])
}
func (c *scriptedConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *scriptedConn) SetDeadline(time.Time) error { return nil }
func (c *scriptedConn) Close() error                { return errors.New("closed by the test") }

// HeldByConnection returns the texts that a connection holds when it has
// answered these bytes and waits for more.
func HeldByConnection(a *extauthz.Authorizer, sent []byte, textsIn func(reflect.Value) []string) (texts []string) {
	c := &connection{server: New(a, Config{}), last: time.Now().Add(connectionAge), end: time.Now().Add(connectionEnd)}
	c.conn = &scriptedConn{in: bytes.NewReader(sent), drained: func() {
		texts = nil
		for _, part := range []any{c.in, c.message, c.request, c.check} {
			texts = append(texts, textsIn(reflect.ValueOf(part))...)
		}
	}}
	c.serve()
	return texts
}

// SetAges gives the connections that are opened from now on other ages.
func (l *Server) SetAges(age, end time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.age, l.end = age, end
}

// SetLast sets for how long a connection that waits for a request is served at the end.
func (l *Server) SetLast(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = d
}

// Ages returns the shipped ages of the connections, and how old those of
// the gRPC port get.
func Ages() (age, end, grpc time.Duration) {
	return connectionAge, connectionEnd, extauthz.MaxConnectionAge + extauthz.MaxConnectionAgeGrace
}
