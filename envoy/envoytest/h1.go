package envoytest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// SendH1 sends the request over a new HTTP/1.1 connection to addr (host:port or unix:PATH), after a
// PROXY line if asked, and returns the answer. A connection that ends without a whole answer is an
// error.
func (r *Request) SendH1(ctx context.Context, addr string, proxyProtocol bool) (*Response, error) {
	conn, hangUp, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	// Sent from the side: a server may answer, and stop reading, before it has the whole request.
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(r.h1(proxyProtocol))
		sent <- err
	}()
	response, err := r.readH1(bufio.NewReader(conn))
	if err == nil {
		return response, nil
	}
	select {
	case writeErr := <-sent:
		if writeErr != nil {
			err = fmt.Errorf("%w (while sending: %w)", err, writeErr)
		}
	default:
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return nil, fmt.Errorf("HTTP/1.1 %s %s: %w", r.Method, r.Target, err)
}

// h1 returns the bytes of the request.
func (r *Request) h1(proxyProtocol bool) []byte {
	var b bytes.Buffer
	if proxyProtocol {
		b.WriteString(r.proxyLine())
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.Target, r.Host)
	for _, h := range r.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	if r.needsLength() {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	return b.Bytes()
}

// readH1 reads the final response.
func (r *Request) readH1(in *bufio.Reader) (*Response, error) {
	for {
		// The method matters: an answer to HEAD has no body, whatever its content-length says.
		res, err := http.ReadResponse(in, &http.Request{Method: r.Method})
		if err != nil {
			return nil, err
		}
		if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		response := &Response{Status: res.StatusCode, Headers: pairs(res.Header)}
		if opensTunnel(r.Method, res.StatusCode) {
			return response, nil // what follows belongs to another protocol and has no end
		}
		response.Body, err = io.ReadAll(res.Body)
		if err != nil {
			return nil, err
		}
		response.Headers = append(response.Headers, pairs(res.Trailer)...)
		return response, nil
	}
}

// opensTunnel reports whether an answer is followed by bytes of another protocol instead of a body.
func opensTunnel(method string, status int) bool {
	return status == http.StatusSwitchingProtocols || method == http.MethodConnect && status/100 == 2
}

// pairs returns a header map as pairs, sorted by name.
func pairs(h http.Header) [][2]string {
	var list [][2]string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			list = append(list, [2]string{strings.ToLower(name), v})
		}
	}
	return list
}
