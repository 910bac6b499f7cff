package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// requester sends HTTP/1.1 requests, each caller over a connection of its own. It
// reads only the status and the end of an answer.
type requester struct {
	address string
	conns   []*httpConn
}

type httpConn struct {
	net.Conn
	in  *bufio.Reader
	out []byte
}

func newRequester(address string, callers int) *requester {
	return &requester{address: address, conns: make([]*httpConn, callers)}
}

func (r *requester) close() error {
	var errs []error
	for _, c := range r.conns {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// call sends one request for a caller and reads the answer. A connection that the
// server has closed is opened again at the next call.
func (r *requester) call(ctx context.Context, caller int, request [3][]byte, a *answer) error {
	c := r.conns[caller]
	if c == nil {
		network, address := "tcp", r.address
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			network, address = "unix", path
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		c = &httpConn{Conn: conn, in: bufio.NewReader(conn)}
		r.conns[caller] = c
	}
	last, err := c.call(request, a)
	if err != nil || last {
		r.conns[caller] = nil
		err = errors.Join(err, c.Close())
	}
	return err
}

// callTimeout bounds one request; an Envoy that does not answer must not keep the
// load for ever.
const callTimeout = 10 * time.Second

func (c *httpConn) call(request [3][]byte, a *answer) (last bool, err error) {
	c.out = c.out[:0]
	for _, part := range request {
		c.out = append(c.out, part...)
	}
	if err := c.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return true, err
	}
	if _, err := c.Write(c.out); err != nil {
		return true, err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return true, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return true, fmt.Errorf("no status line: %q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return true, fmt.Errorf("status: %w", err)
	}
	a.allowed = a.status == http.StatusOK
	length := -1
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return true, err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return true, fmt.Errorf("content-length: %w", err)
			}
		case bytes.EqualFold(name, []byte("connection")):
			last = bytes.EqualFold(bytes.TrimSpace(value), []byte("close"))
		}
	}
	if length < 0 {
		return true, errors.New("an answer without content-length")
	}
	_, err = io.CopyN(io.Discard, c.in, int64(length))
	return last, err
}
