package envoytest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Received is what an Upstream answers: the request as it arrived. In a text that is not valid
// UTF-8 each offending byte is written as \xff, because JSON cannot carry it.
type Received struct {
	// Method is the request's method.
	Method string `json:"method"`
	// Path is the request target, byte for byte, query included.
	Path string `json:"path"`
	// Host is the Host header.
	Host string `json:"host"`
	// Headers are [name, value] pairs without Host: names in lower case and sorted, the values of
	// one name in the order they came.
	Headers [][2]string `json:"headers"`
}

// Value returns the value of the header with this lower-case name, its copies joined with a comma,
// and whether there was any.
func (r *Received) Value(name string) (string, bool) { return value(r.Headers, name) }

// Page is the origin of the page that an Upstream, like the shipped bootstraps, lets read its
// answers.
const Page = "https://app.example.com"

// Upstream is an HTTP/1.1 server that answers every request with 200 and the JSON of Received. It
// lets the page of one origin, Page, read that, and answers its preflights likewise, as an
// application does that knows CORS.
type Upstream struct {
	server *http.Server
	addr   string
	done   chan struct{} // closed when the accept loop has ended
}

// Serve starts an Upstream on addr: host:port (port 0 picks one) or unix:PATH.
func Serve(addr string) (*Upstream, error) {
	network, address := split(addr)
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	u := &Upstream{addr: listener.Addr().String(), done: make(chan struct{})}
	if network == "unix" {
		u.addr = addr
	}
	u.server = &http.Server{
		Handler:           http.HandlerFunc(echo),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    1 << 20,
		ErrorLog:          log.New(io.Discard, "", 0), // what goes wrong here, the client sees
	}
	go func() {
		defer close(u.done)
		_ = u.server.Serve(listener) // always an error, and always because of Close
	}()
	return u, nil
}

// Addr returns the address in the form that Settings.Upstream takes.
func (u *Upstream) Addr() string { return u.addr }

// Close stops the server and cuts its connections.
func (u *Upstream) Close() error {
	err := u.server.Close()
	<-u.done
	return err
}

// echo answers with the request that it got. The body is read first, so that Envoy can finish
// sending it.
func echo(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // a client that went away reads no answer either
	received := Received{Method: r.Method, Path: printable(r.RequestURI), Host: printable(r.Host), Headers: [][2]string{}}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		for _, v := range r.Header[name] {
			received.Headers = append(received.Headers, [2]string{strings.ToLower(name), printable(v)})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if origin := r.Header.Get("Origin"); origin == Page {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Methods", r.Header.Get("Access-Control-Request-Method"))
		w.Header().Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(&received) // as above
}

// printable returns s with each byte that is no UTF-8 written as \xff.
func printable(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// split returns the network and address of host:port or unix:PATH.
func split(addr string) (network, address string) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return "unix", path
	}
	return "tcp", addr
}

// dial connects to addr and makes ctx bound everything that is done on the connection. The returned
// func closes it.
func dial(ctx context.Context, addr string) (net.Conn, func(), error) {
	network, address := split(addr)
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, nil, err
	}
	// A deadline in the past ends a read or write that is under way.
	undo := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() {
		undo()
		_ = conn.Close() // the answer has been read, or the error is already known
	}, nil
}
