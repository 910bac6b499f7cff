package envoytest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"tollgate/envoy"
)

// fault is what a broken replica does with a check whose head it has read.
type fault string

const (
	none        fault = "answers"
	refuses     fault = "RST_STREAM REFUSED_STREAM"
	cancels     fault = "RST_STREAM CANCEL"
	breaks      fault = "RST_STREAM INTERNAL_ERROR"
	closes      fault = "closes the connection"
	goesAway    fault = "GOAWAY with a last stream before this one"
	unavailable fault = "grpc-status UNAVAILABLE"
	internal    fault = "HTTP 503"
	silent      fault = "says nothing"
)

// standIn is a server that counts the checks that reach it, says that it is well, and has one
// fault. It speaks HTTP/2 by hand, because a gRPC server would not do these things.
type standIn struct {
	fault  fault
	checks atomic.Int64
}

func (s *standIn) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.connection(c)
		}
	}()
	return l.Addr().String()
}

func (s *standIn) connection(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	if _, err := io.CopyN(io.Discard, in, int64(len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(c, in)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if f.WriteSettings() != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		case *http2.MetaHeadersFrame:
			err = s.call(f, frame)
		}
		if err != nil {
			return
		}
	}
}

// call answers one call; an error ends the connection.
func (s *standIn) call(f *http2.Framer, head *http2.MetaHeadersFrame) error {
	id := head.StreamID
	if strings.HasPrefix(head.PseudoValue("path"), "/grpc.health.v1.Health/") {
		return reply(f, id, []byte{0x08, 1}) // SERVING
	}
	if strings.HasPrefix(head.PseudoValue("path"), "/envoy.service.accesslog.v3.") {
		return nil // what is logged is no check
	}
	s.checks.Add(1)
	switch s.fault {
	case refuses:
		return f.WriteRSTStream(id, http2.ErrCodeRefusedStream)
	case cancels:
		return f.WriteRSTStream(id, http2.ErrCodeCancel)
	case breaks:
		return f.WriteRSTStream(id, http2.ErrCodeInternal)
	case closes:
		return io.EOF
	case goesAway:
		return f.WriteGoAway(0, http2.ErrCodeNo, nil)
	case unavailable:
		return headers(f, id, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "14")
	case internal:
		return headers(f, id, true, ":status", "503")
	case silent:
		return nil
	}
	return reply(f, id, []byte{0x0a, 0x00, 0x1a, 0x00}) // a CheckResponse with status OK and an ok_response
}

func reply(f *http2.Framer, id uint32, message []byte) error {
	if err := headers(f, id, false, ":status", "200", "content-type", "application/grpc"); err != nil {
		return err
	}
	framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	if err := f.WriteData(id, false, framed); err != nil {
		return err
	}
	return headers(f, id, true, "grpc-status", "0")
}

func headers(f *http2.Framer, id uint32, last bool, fields ...string) error {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			return err
		}
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: last})
}

// Envoy sends a check again only where its server cannot have begun with it: the protocol says so
// of a refused stream and of streams after the last one of a GOAWAY. Whatever else goes wrong, each
// request is one check, because a check that is sent twice may be counted twice.
func TestNoCheckIsSentTwice(t *testing.T) {
	const requests = 12
	eachEnvoy(t, func(t *testing.T, binary string) {
		for _, f := range []fault{refuses, goesAway, cancels, breaks, closes, unavailable, internal, silent} {
			t.Run(string(f), func(t *testing.T) {
				t.Parallel()
				broken, well := &standIn{fault: f}, &standIn{fault: none}
				addresses := broken.serve(t) + "," + well.serve(t)
				e := newEdge(t, binary, func(s *Settings) { s.Tollgate = addresses })
				failed := 0
				for range requests {
					r, err := e.send(t, "h1", get("api.pixelbyte.io", "/"))
					if err != nil {
						t.Fatal(err)
					}
					if r.Status != http.StatusOK {
						failed++
					}
				}
				retried := f == refuses || f == goesAway
				sent, answered := int(broken.checks.Load()), int(well.checks.Load())
				switch {
				case sent == 0:
					t.Error("no check came to the broken replica: nothing is shown")
				case retried && (failed > 0 || answered != requests):
					t.Errorf("%d of %d requests failed, the other replica answered %d", failed, requests, answered)
				case !retried && (sent+answered != requests || failed != sent):
					t.Errorf("%d requests: %d checks to the broken replica and %d to the other, %d failed", requests, sent, answered, failed)
				}
			})
		}
	})
}

// Over HTTP/1.1 no server can say that it has not begun, so only a connection that was never made
// is another try.
func TestNoCheckOverHTTPIsSentTwice(t *testing.T) {
	const requests = 12
	shipped, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	var cut, answered atomic.Int64
	door := func(closes bool) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/readyz":
			case closes:
				cut.Add(1)
				panic(http.ErrAbortHandler)
			default:
				answered.Add(1)
			}
		})}
		go func() { _ = server.Serve(l) }()
		t.Cleanup(func() { _ = server.Close() })
		return l.Addr().String()
	}
	addresses := door(true) + "," + door(false)
	e := newEdge(t, requireEnvoy(t, Find), func(s *Settings) { s.Bootstrap, s.Tollgate = shipped, addresses })
	failed := 0
	for range requests {
		r, err := e.send(t, "h1", get("api.pixelbyte.io", "/"))
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != http.StatusOK {
			failed++
		}
	}
	if cut.Load() == 0 || int(cut.Load()+answered.Load()) != requests || failed != int(cut.Load()) {
		t.Errorf("%d requests: %d checks were cut off, %d answered, %d requests failed", requests, cut.Load(), answered.Load(), failed)
	}
}
