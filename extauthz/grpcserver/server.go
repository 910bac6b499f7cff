// Package grpcserver answers Envoy's external authorization protocol
// (envoy.service.auth.v3) over gRPC: it turns a CheckRequest into a policy.Request, has
// the Authorizer decide, and turns the Decision into a CheckResponse. It is the only
// package of the server that knows Envoy's protocol buffers.
//
// decode.go and reply.go hold the two ends of a check on the wire, and call.go plugs them
// into gRPC.
package grpcserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"tollgate/extauthz"
)

const (
	// Envoy's connection_keepalive pings every 30 s as commonly configured; a
	// server that allows fewer answers GOAWAY too_many_pings.
	minPing = 10 * time.Second
	// Envoy's header limit can be raised to 8 MiB.
	maxCheckRequest = 9 << 20
	// Goroutines that wait for calls. A goroutine that is new for each call grows its
	// stack every time, which costs more than the decision. A call that finds none
	// waiting gets a new one all the same.
	streamWorkers = 512
	// A fixed window is one that HTTP/2 connections do not probe for with pings; no
	// check request is anywhere near as large.
	window = 64 << 10
)

// Config says how a Server serves.
type Config struct {
	// TLS of the gRPC port; nil serves plain text.
	TLS *tls.Config
	// Reflection adds gRPC server reflection.
	Reflection bool
	// ConnectionAge and LogStreamAge are when connections and the streams of access logs end, so
	// that Envoys spread over new replicas; default extauthz.MaxConnectionAge and 10 minutes.
	ConnectionAge, LogStreamAge time.Duration
}

// Server is the gRPC server: Authorization, AccessLogService and grpc.health.v1.
type Server struct {
	grpc       *grpc.Server
	health     *healthService
	logs       *logService
	authorizer *extauthz.Authorizer
}

// TransportOptions returns how a Server uses grpc-go: its goroutines, the windows
// and ages of its connections, and the largest request, in bytes. Codec,
// interceptor and TLS are not among them.
func TransportOptions() []grpc.ServerOption {
	return transportOptions(extauthz.MaxConnectionAge, logStreamAge)
}

// transportOptions gives a connection, when its age is reached, the time that the streams of access
// logs on it need: nothing else on it takes longer than a moment, and what is under way when
// it is cut is lost.
func transportOptions(age, logs time.Duration) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxCheckRequest),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: age, MaxConnectionAgeGrace: logs + logStreamAge/2}),
	}
}

// New builds a Server of what the authorizer decides. It does not listen yet.
func New(a *extauthz.Authorizer, c Config) *Server {
	c.ConnectionAge = cmp.Or(c.ConnectionAge, extauthz.MaxConnectionAge)
	c.LogStreamAge = cmp.Or(c.LogStreamAge, logStreamAge)
	checks, health := newCheckService(a), newHealthService()
	options := append(transportOptions(c.ConnectionAge, c.LogStreamAge),
		grpc.ForceServerCodecV2(checks),
		grpc.UnaryInterceptor(recoverPanics(a)),
		grpc.StreamInterceptor(health.endStreams))
	if c.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(c.TLS)))
	}
	s := &Server{grpc: grpc.NewServer(options...), health: health, logs: newLogService(a, c.LogStreamAge, health.stopped), authorizer: a}
	s.grpc.RegisterService(service(), checks)
	s.grpc.RegisterService(s.logs.desc(), s.logs)
	healthv1.RegisterHealthServer(s.grpc, health.server)
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
func (s *Server) SetReady(ready bool) {
	s.authorizer.Readiness().Set(ready)
	s.health.set(ready)
}

// Drain tells health checks, over gRPC and over HTTP, that this server is leaving, and
// goes on serving: proxies need a moment to notice.
func (s *Server) Drain() {
	s.authorizer.Readiness().Drain()
	s.health.drain()
}

// Shutdown says NOT_SERVING, ends streams, which have no end of their own, lets calls
// under way finish, and stops; when the context ends first it stops at once.
func (s *Server) Shutdown(ctx context.Context) {
	defer s.authorizer.Flush()
	s.Drain()
	s.health.stop()
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
	s.logs.reading.Wait()
}

// AccessLogs returns what is known of the access logs that Envoys send here, in the order of node,
// name and address.
func (s *Server) AccessLogs() []extauthz.AccessLog { return s.logs.senders.all(time.Now()) }

// recoverPanics answers a panic in one of the small services.
func recoverPanics(a *extauthz.Authorizer) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				resp, err = nil, panicked(a, info.FullMethod, p)
			}
		}()
		return handler(ctx, req)
	}
}
