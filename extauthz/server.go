package extauthz

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"tollgate/policy"
	"tollgate/policy/keys"
)

const (
	// Envoy's connection_keepalive pings every 30 s as commonly configured; a
	// server that allows fewer answers GOAWAY too_many_pings.
	minPing = 10 * time.Second
	// Connections end after a while so that they spread over new replicas.
	maxConnectionAge      = 5 * time.Minute
	maxConnectionAgeGrace = 30 * time.Second
	// Envoy's header limit can be raised to 8 MiB.
	maxCheckRequest = 9 << 20
	// Goroutines that wait for calls. One that is new for each call grows its stack
	// each time, which costs more than the decision; what finds none waiting gets a
	// new one all the same.
	streamWorkers = 128
	// A fixed window is one that HTTP/2 connections do not probe for with pings; no
	// check request is anywhere near as large.
	window = 64 << 10
)

// DefaultDeadline is how long a decision may take if Envoy does not ask for less.
const DefaultDeadline = 100 * time.Millisecond

// Config says what a Server is made of. All fields are required unless said.
type Config struct {
	Policies *Policies
	Decider  *policy.Decider
	// Keys is asked by Lookup, and by Find first if it is a KeyCache.
	Keys   KeyFinder
	Limits Spender
	// Breaker is around each spend; nil for none. Give the cache of Keys the same.
	Breaker *keys.Breaker
	// Usage notes the keys of allowed requests; nil for none.
	Usage *keys.Usage
	// Rehash is told of keys that were found by an older method of hashing; nil
	// for none. It must not wait.
	Rehash  func(id string, from, to keys.Digest)
	Metrics *Metrics
	Log     *slog.Logger
	// Decisions says which decisions are logged; default LogDenied.
	Decisions Decisions
	// Deadline bounds a decision; default DefaultDeadline.
	Deadline time.Duration
	// TLS of the gRPC port; nil serves plain text.
	TLS *tls.Config
	// Reflection adds gRPC server reflection.
	Reflection bool
}

// Server is the gRPC server: Authorization and grpc.health.v1.
type Server struct {
	grpc       *grpc.Server
	readiness  *readiness
	authorizer *authorizer // what the HTTP lane shares
}

// TransportOptions returns how a Server uses grpc-go: its goroutines, the windows
// and ages of its connections, and the largest request, in bytes. Codec,
// interceptor and TLS are not among them.
func TransportOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxCheckRequest),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: maxConnectionAgeGrace}),
	}
}

// New builds a Server. It does not listen yet.
func New(c Config) *Server {
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	if c.Decisions == "" {
		c.Decisions = LogDenied
	}
	cache, _ := c.Keys.(KeyCache)
	nodes, _ := c.Limits.(nodes)
	checks := newCheckService(&authorizer{
		policies: c.Policies, decider: c.Decider, keys: c.Keys, cache: cache, limits: c.Limits, nodes: nodes,
		breaker: c.Breaker, usage: c.Usage, rehash: c.Rehash, deadline: c.Deadline, metrics: c.Metrics,
		log: newDecisionLog(c.Log, c.Decisions),
	})
	ready := newReadiness()
	options := append(TransportOptions(),
		grpc.ForceServerCodecV2(checks),
		grpc.UnaryInterceptor(recoverPanics(c.Metrics, checks.authorizer.log)),
		grpc.StreamInterceptor(ready.endStreams))
	if c.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(c.TLS)))
	}
	s := &Server{grpc: grpc.NewServer(options...), readiness: ready}
	s.authorizer = checks.authorizer
	s.grpc.RegisterService(service(), checks)
	healthv1.RegisterHealthServer(s.grpc, ready.health)
	if c.Reflection {
		reflection.Register(s.grpc)
	}
	return s
}

// Serve answers calls on the listener until Shutdown, and returns nil then, also where
// Shutdown came first.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// SetReady says what health checks are told while the server runs; at first it is
// ready. After Drain it has no effect.
func (s *Server) SetReady(ready bool) { s.readiness.set(ready) }

// Drain tells health checks, over gRPC and over HTTP, that this server is leaving, and
// goes on serving: proxies need a moment to notice.
func (s *Server) Drain() { s.readiness.drain() }

// Shutdown says NOT_SERVING, ends streams, which have no end of their own, lets calls
// under way finish, and stops; when the context ends first it stops at once.
func (s *Server) Shutdown(ctx context.Context) {
	defer s.authorizer.log.end()
	s.readiness.drain()
	s.readiness.stop()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		s.grpc.Stop()
		<-drained
	}
}

// recoverPanics answers a panic in one of the small services.
func recoverPanics(m *Metrics, log *decisionLog) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				resp, err = nil, panicked(m, log, info.FullMethod, p)
			}
		}()
		return handler(ctx, req)
	}
}
