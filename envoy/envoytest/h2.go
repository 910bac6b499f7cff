package envoytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	h2Stream  = 1       // the only stream of a connection
	h2Window  = 1 << 30 // what the server may send without waiting for us, in bytes
	h2Initial = 65535   // what we may send before the server says more (RFC 9113 §6.9.2), in bytes
	h2Frame   = 16384   // the longest frame that every server takes (RFC 9113 §4.2), in bytes
)

// h2conn is one HTTP/2 connection with one request on it.
type h2conn struct {
	framer       *http2.Framer
	request      *Request
	response     Response
	unsent       []byte // what is left of the request's body
	connection   int64  // the send window of the connection, in bytes
	stream       int64  // the send window of the stream, in bytes
	streamWindow int64  // the server's initial window for streams, in bytes
}

// SendH2 sends the request over a new cleartext HTTP/2 connection with prior knowledge to addr
// (host:port or unix:PATH), after a PROXY line if asked, and returns the answer. A reset stream, a
// GOAWAY that covers the request and a connection that ends without a whole answer are errors.
func (r *Request) SendH2(ctx context.Context, addr string, proxyProtocol bool) (*Response, error) {
	conn, hangUp, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	c := newH2(conn, r)
	err = c.open(conn, proxyProtocol)
	for done := false; err == nil && !done; {
		done, err = c.step()
	}
	if err == nil {
		return &c.response, nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return nil, fmt.Errorf("HTTP/2 %s %s: %w", r.Method, r.Target, err)
}

// newH2 returns a connection that has sent nothing yet.
func newH2(conn net.Conn, r *Request) *h2conn {
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.AllowIllegalWrites = true // the point of a raw client
	return &h2conn{framer: framer, request: r, unsent: r.Body,
		connection: h2Initial, stream: h2Initial, streamWindow: h2Initial}
}

// open sends everything up to the first bytes of the body.
func (c *h2conn) open(w io.Writer, proxyProtocol bool) error {
	start := http2.ClientPreface
	if proxyProtocol {
		start = c.request.proxyLine() + start
	}
	if _, err := io.WriteString(w, start); err != nil {
		return err
	}
	err := c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2Window})
	if err != nil {
		return err
	}
	if err := c.framer.WriteWindowUpdate(0, h2Window); err != nil {
		return err
	}
	if err := c.sendHeaders(c.request.block()); err != nil {
		return err
	}
	return c.sendBody()
}

// block returns the encoded header block.
func (r *Request) block() []byte {
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	write := func(name, value string) {
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: value}) // a bytes.Buffer takes everything
	}
	write(":method", r.Method)
	// A plain CONNECT has neither (RFC 9113 §8.5), an extended one has both (RFC 8441).
	if r.Method != "CONNECT" || r.has(":protocol") {
		write(":scheme", "http")
		write(":path", r.Target)
	}
	write(":authority", r.Host)
	for _, pseudo := range []bool{true, false} { // pseudo-headers of the caller must come first
		for _, h := range r.Headers {
			if strings.HasPrefix(h[0], ":") == pseudo {
				write(strings.ToLower(h[0]), h[1])
			}
		}
	}
	if r.needsLength() {
		write("content-length", strconv.Itoa(len(r.Body)))
	}
	return b.Bytes()
}

// sendHeaders writes the block as one HEADERS frame and as many CONTINUATION frames as it needs.
func (c *h2conn) sendHeaders(block []byte) error {
	first := block[:min(len(block), h2Frame)]
	block = block[len(first):]
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: h2Stream, BlockFragment: first, EndHeaders: len(block) == 0, EndStream: len(c.unsent) == 0,
	})
	for err == nil && len(block) > 0 {
		next := block[:min(len(block), h2Frame)]
		block = block[len(next):]
		err = c.framer.WriteContinuation(h2Stream, len(block) == 0, next)
	}
	return err
}

// sendBody writes as much of the body as both windows take.
func (c *h2conn) sendBody() error {
	for {
		n := min(int64(len(c.unsent)), c.connection, c.stream, h2Frame)
		if n <= 0 {
			return nil
		}
		if err := c.framer.WriteData(h2Stream, n == int64(len(c.unsent)), c.unsent[:n]); err != nil {
			return err
		}
		c.unsent = c.unsent[n:]
		c.connection -= n
		c.stream -= n
	}
}

// step reads one frame, and reports whether the response is complete.
func (c *h2conn) step() (done bool, err error) {
	frame, err := c.framer.ReadFrame()
	if err != nil {
		return false, err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		return false, c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			return false, c.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.connection += int64(f.Increment)
		} else {
			c.stream += int64(f.Increment)
		}
		return false, c.sendBody()
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.DataFrame:
		c.response.Body = append(c.response.Body, f.Data()...)
		return f.StreamEnded(), nil
	case *http2.RSTStreamFrame:
		return false, fmt.Errorf("the server reset the stream: %s", f.ErrCode)
	case *http2.GoAwayFrame:
		// Without an error and with our stream included, it only asks for no further streams.
		if f.ErrCode != http2.ErrCodeNo || f.LastStreamID < h2Stream {
			return false, fmt.Errorf("the server sent GOAWAY: %s %s", f.ErrCode, f.DebugData())
		}
	}
	return false, nil
}

// settings takes the server's settings over and confirms them.
func (c *h2conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		c.stream += int64(v) - c.streamWindow
		c.streamWindow = int64(v)
	}
	if err := c.framer.WriteSettingsAck(); err != nil {
		return err
	}
	return c.sendBody()
}

// headers takes response headers, or trailers, over.
func (c *h2conn) headers(f *http2.MetaHeadersFrame) (done bool, err error) {
	if text := f.PseudoValue("status"); text != "" {
		status, err := strconv.Atoi(text)
		if err != nil {
			return false, fmt.Errorf("status %q is no number", text)
		}
		if status < 200 {
			return false, nil
		}
		c.response.Status = status
	}
	for _, h := range f.RegularFields() {
		c.response.Headers = append(c.response.Headers, [2]string{h.Name, h.Value})
	}
	return f.StreamEnded() || opensTunnel(c.request.Method, c.response.Status), nil
}
