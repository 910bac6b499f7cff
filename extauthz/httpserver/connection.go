package httpserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"tollgate/policy"
)

const (
	bufferSize = 4 << 10
	// A head may be as large as what Envoy accepts from its client by default (60
	// KiB), with room for an Envoy that accepts more.
	maxHead = 256 << 10
	// No proxy sends us a body that matters; a small one is read and dropped.
	maxBody = 64 << 10
	// readyTarget is the target of health checks. No proxy's place begins like this.
	readyTarget = "/readyz"
)

// The states of a connection. Only between two requests may somebody else close it.
const (
	stateWaiting int32 = iota
	stateBusy
	stateClosed
)

// connection is one connection of a proxy. It answers one request after another, so
// its buffers and its request are reused.
type connection struct {
	server *Server
	conn   net.Conn
	state  atomic.Int32

	in      []byte // read and not yet used
	out     []byte
	message message
	request policy.Request
	check   policy.Check
	limited time.Time // when the deadline was last set
	last    time.Time // from when on an answer is the connection's last
	end     time.Time // when it is closed
}

// closeIdle closes the connection unless it has a request to answer.
func (c *connection) closeIdle() {
	if c.state.CompareAndSwap(stateWaiting, stateClosed) {
		_ = c.conn.Close()
	}
}

// serve answers requests until the proxy or a Shutdown ends the connection, or a
// request is not one.
func (c *connection) serve() {
	if t, ok := c.conn.(*tls.Conn); ok {
		c.limit(time.Now(), headTimeout)
		if t.Handshake() != nil {
			return
		}
		c.limited = time.Time{} // what comes has its own time
	}
	for {
		head, err := c.readHead()
		if err != nil {
			if fault := faultOf(err); fault != nil && c.state.CompareAndSwap(stateWaiting, stateBusy) {
				c.refuse(fault)
			}
			return
		}
		if !c.state.CompareAndSwap(stateWaiting, stateBusy) {
			return
		}
		if !c.answer(head) {
			return
		}
		c.state.Store(stateWaiting)
		if c.server.draining.Load() {
			return
		}
		if cap(c.in) > 4*bufferSize && len(c.in) == 0 {
			c.in = nil // one large head must not be kept for every connection
		}
	}
}

// readHead returns the bytes of the next head, its empty line included. They stay
// valid until the next read.
func (c *connection) readHead() ([]byte, error) {
	if c.in == nil {
		c.in = make([]byte, 0, bufferSize)
	}
	searched, hurried := 0, false
	if now := time.Now(); now.Sub(c.limited) > deadlineStep {
		c.limit(now, idleTime)
	}
	for {
		if end := bytes.Index(c.in[searched:], []byte("\r\n\r\n")); end >= 0 {
			head := c.in[:searched+end+4]
			return head, nil
		}
		searched = max(len(c.in)-3, 0)
		if len(c.in) > 0 && !hurried {
			hurried = true
			c.limit(time.Now(), headTimeout)
			c.limited = time.Time{} // the next request has its own time
		}
		if len(c.in) == cap(c.in) {
			if len(c.in) >= maxHead {
				return nil, &fault{431, "the request head is too large"}
			}
			c.in = append(make([]byte, 0, min(2*cap(c.in), maxHead)), c.in...)
		}
		n, err := c.conn.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+n]
		if err != nil && n == 0 {
			return nil, err
		}
	}
}

// limit sets the time by which reads and writes must have ended.
func (c *connection) limit(now time.Time, d time.Duration) {
	c.limited = now
	until := now.Add(d)
	if until.After(c.end) {
		until = c.end
	}
	_ = c.conn.SetDeadline(until) // a connection that has no deadlines any more is closed
}

// answer answers one request and reports whether the connection can go on.
func (c *connection) answer(head []byte) (more bool) {
	start := time.Now()
	if err := c.message.parse(head); err != nil {
		c.refuse(err)
		return false
	}
	if !c.dropBody(len(head)) {
		return false
	}
	// A proxy that is told so sends its next request elsewhere; one whose connection is
	// closed under its hands has lost the request.
	leaving := c.server.draining.Load() || c.server.authorizer.Readiness().Draining() || start.After(c.last)
	more = c.message.keepAlive && !leaving
	if c.message.target == readyTarget {
		return c.ready(more) && more
	}
	set := c.server.authorizer.Policy()
	place := c.message.fill(&c.request, set)

	var ctx context.Context = context.Background()
	if wait := c.message.timeout; wait > 0 && place.proxy == proxyEnvoy {
		ctx = &deadlineContext{ctx, start.Add(wait)}
	}
	if t := c.server.authorizer.Tracing(); t != nil {
		parent, _ := c.message.only("traceparent")
		ctx = t.Continue(ctx, parent, func() string { state, _ := c.message.only("tracestate"); return state })
	}
	reply := reply{out: c.out[:0], place: place, head: c.message.method == "HEAD", close: !more}
	d, ok := c.server.authorize(ctx, start, set, &c.request, &c.check)
	if ok {
		reply.decision(d)
	} else {
		reply.undecided()
	}
	c.out = reply.out
	_, err := c.conn.Write(c.out)
	c.forget()
	return err == nil && more
}

// ready answers a health check: whether the checks of proxies are wanted here.
func (c *connection) ready(more bool) (sent bool) {
	reply := reply{out: c.out[:0], head: c.message.method == "HEAD", close: !more}
	text := "ok\n"
	if c.server.authorizer.Readiness().Serving() {
		reply.status(http.StatusOK)
	} else {
		text = "not ready\n"
		reply.status(http.StatusServiceUnavailable)
	}
	reply.field("content-type", "text/plain")
	reply.body([]byte(text))
	c.out = reply.out
	_, err := c.conn.Write(c.out)
	c.forget()
	return err == nil
}

// forget drops what the connection still holds of the request it has answered: it may
// be quiet for minutes, and must not keep a secret alive.
func (c *connection) forget() {
	clear(c.message.fields)
	c.message = message{fields: c.message.fields[:0]}
	c.request.Forget()
	c.check.Forget()
}

// dropBody takes the head and the body of the request out of the buffer.
func (c *connection) dropBody(head int) bool {
	body := c.message.length
	if body > maxBody || body > 0 && c.message.expects {
		c.refuse(&fault{413, "this server takes no bodies"})
		return false
	}
	read := c.in
	defer func() { clear(read[len(c.in):]) }() // the secret is in there
	rest := c.in[head:]
	if have := int64(len(rest)); have < body {
		c.limit(time.Now(), headTimeout)
		c.limited = time.Time{}
		if _, err := io.CopyN(io.Discard, c.conn, body-have); err != nil {
			return false
		}
		c.in = c.in[:0]
		return true
	}
	c.in = c.in[:copy(c.in, rest[body:])]
	return true
}

// refuse answers what is no request that is taken, and what comes after it
// cannot be told from it: the connection ends.
func (c *connection) refuse(f *fault) {
	why := "malformed"
	if f.status == http.StatusRequestEntityTooLarge || f.status == http.StatusRequestHeaderFieldsTooLarge {
		why = "too_large"
	}
	c.server.authorizer.Metrics().HTTPRefused(why)
	out := append(c.out[:0], "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(f.status), 10)
	out = append(out, " \r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: "...)
	out = strconv.AppendInt(out, int64(len(f.text)+1), 10)
	out = append(out, "\r\n\r\n"...)
	out = append(out, f.text...)
	_, _ = c.conn.Write(append(out, '\n')) // who sends this may have gone
}
