// Package httpserver answers the same questions as grpcserver for proxies that ask over
// HTTP: Envoy's http_service, nginx's auth_request, Caddy's forward_auth and Traefik's
// ForwardAuth.
//
// message.go reads a request, request.go finds in it what the proxy asks about, reply.go
// writes the answer, and connection.go serves one after another.
package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/extauthz"
	"tollgate/policy"
)

const (
	// The server keeps a quiet connection longer than any proxy does (Envoy as we ship
	// it and nginx 60 s, Traefik 90 s, Caddy 120 s): a connection that we close while
	// a request is on its way costs that request.
	idleTime = 5 * time.Minute
	// A request head arrives in one piece from a proxy beside us; who sends it in
	// drops is no proxy.
	headTimeout = 5 * time.Second
	// deadlineStep is how old a connection's deadline may get before it is set
	// anew, so that a busy connection does not set one for each request.
	deadlineStep = 30 * time.Second
	// lastWait is how long a connection that waits for a request is served at the end: one
	// may be on its way, above all on a connection that was just made.
	lastWait = 100 * time.Millisecond
	// connectionEnd is how old a connection gets at most, as on the gRPC port: the certificate
	// that its peer has shown may be one of a CA that is trusted no more. From connectionAge on
	// (10 % more or less, so that not all end at once) an answer is the last of its
	// connection; by connectionEnd a proxy has closed one that it has not used since.
	connectionEnd = extauthz.MaxConnectionAge + extauthz.MaxConnectionAgeGrace
	connectionAge = connectionEnd - 150*time.Second
)

// Config says who may ask.
type Config struct {
	// Trusted holds the addresses of the proxies; connections from others are
	// closed unread. Empty trusts every peer, which is for mTLS. Unix sockets are
	// guarded by their permissions instead.
	Trusted []netip.Prefix
	// TLS of the port; nil serves plain text.
	TLS *tls.Config
}

// Server answers the same questions as the gRPC port to proxies that ask over HTTP:
// Envoy's http_service, nginx's auth_request, Caddy's forward_auth and Traefik's
// ForwardAuth.
//
// It speaks its own small part of HTTP/1.1 (message.go) because net/http reads
// the request target as a URL and answers by itself what is none, and because the
// server exists to cost less CPU.
type Server struct {
	authorizer *extauthz.Authorizer
	config     Config
	age, end   time.Duration // connectionAge and connectionEnd
	last       time.Duration // lastWait

	work     sync.WaitGroup
	draining atomic.Bool // answers are the last of their connections
	mu       sync.Mutex
	closing  bool // no connection is served that is not yet
	listener net.Listener
	conns    map[*connection]struct{}
}

// New builds a server of what the authorizer decides. It does not listen yet.
func New(a *extauthz.Authorizer, c Config) *Server {
	if c.TLS != nil {
		c.TLS = http1TLS(c.TLS)
	}
	return &Server{authorizer: a, config: c, age: connectionAge, end: connectionEnd, last: lastWait, conns: map[*connection]struct{}{}}
}

// http1TLS is a configuration for HTTP/1.1, which a client that offers HTTP/2 alone
// does not get.
func http1TLS(c *tls.Config) *tls.Config {
	http1 := func(c *tls.Config) *tls.Config {
		c = c.Clone()
		c.NextProtos = []string{"http/1.1"}
		return c
	}
	current := c.GetConfigForClient
	c = http1(c)
	if current != nil {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			now, err := current(hello)
			if now == nil || err != nil {
				return now, err
			}
			return http1(now), nil
		}
	}
	return c
}

// Serve answers requests on the listener until Shutdown, after which it returns nil.
func (s *Server) Serve(listener net.Listener) error {
	s.mu.Lock()
	s.listener = listener
	s.mu.Unlock()
	if s.draining.Load() {
		return listener.Close()
	}
	for {
		c, err := listener.Accept()
		switch {
		case err != nil && s.draining.Load():
			return nil
		case err != nil:
			if !temporary(err) {
				return err
			}
			s.authorizer.Trouble(context.Background(), "authz http: accept", slog.Any("error", err))
			time.Sleep(10 * time.Millisecond) // out of file descriptors: some will come back
		case !s.trusts(c.RemoteAddr()):
			s.authorizer.Metrics().HTTPRefused("peer")
			_ = c.Close()
		default:
			s.start(c)
		}
	}
}

func temporary(err error) bool {
	var e net.Error
	//lint:ignore SA1019 what Accept can recover from has no other name
	return errors.As(err, &e) && e.Temporary()
}

// trusts reports whether a peer may ask at all.
func (s *Server) trusts(peer net.Addr) bool {
	tcp, ok := peer.(*net.TCPAddr)
	if !ok || len(s.config.Trusted) == 0 {
		return true
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range s.config.Trusted {
		if p.Contains(address) {
			return true
		}
	}
	return false
}

func (s *Server) start(c net.Conn) {
	if s.config.TLS != nil {
		c = tls.Server(c, s.config.TLS)
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := &connection{server: s, conn: c, last: now.Add(s.age*9/10 + rand.N(s.age/5+1)), end: now.Add(s.end)}
	if s.closing {
		_ = c.Close()
		return
	}
	s.conns[conn] = struct{}{}
	s.work.Go(func() {
		defer func() {
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		}()
		conn.serve()
	})
}

// Shutdown takes no new connections, ends the idle ones and lets requests under way
// be answered; when the context ends first it cuts them off.
func (s *Server) Shutdown(ctx context.Context) {
	defer s.authorizer.Flush()
	s.mu.Lock()
	s.draining.Store(true)
	if s.listener != nil {
		_ = s.listener.Close()
	}
	open, last := len(s.conns), s.last
	s.mu.Unlock()
	if open > 0 {
		select {
		case <-time.After(last):
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	s.closing = true
	for c := range s.conns {
		c.closeIdle()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work.Wait()
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		_ = c.conn.Close()
	}
	s.mu.Unlock()
	<-done
}

// authorize decides as Check does over gRPC. ok is false where there is no answer to give:
// the proxy's time is up, the policy hands the decision to the proxy, or something
// broke.
func (s *Server) authorize(ctx context.Context, start time.Time, set *policy.Set, r *policy.Request, check *policy.Check) (d *policy.Decision, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.authorizer.Panicked("authz http", p)
			d, ok = nil, false
		}
	}()
	d = s.authorizer.Decide(ctx, start, set, r, check)
	if ctx.Err() != nil {
		s.authorizer.Abandon(check)
		return d, false
	}
	return d, !d.FailRPC
}

// deadlineContext carries the proxy's deadline without a timer: what is waited for
// makes its own.
type deadlineContext struct {
	context.Context
	end time.Time
}

// Deadline returns when the proxy stops waiting.
func (c *deadlineContext) Deadline() (time.Time, bool) { return c.end, true }

// Err returns context.DeadlineExceeded once the proxy has stopped waiting.
func (c *deadlineContext) Err() error {
	if time.Now().Before(c.end) {
		return nil
	}
	return context.DeadlineExceeded
}
