package grpcserver

import (
	"sync"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// healthService is grpc.health.v1, and what ends its streams and those of reflection.
type healthService struct {
	server *health.Server

	stopOnce sync.Once
	stopped  chan struct{} // closed when streams have to end
}

func newHealthService() *healthService {
	h := &healthService{server: health.NewServer(), stopped: make(chan struct{})}
	h.set(true)
	return h
}

// set says whether this server should get checks. It has no effect after drain.
func (h *healthService) set(ready bool) {
	answer := healthv1.HealthCheckResponse_SERVING
	if !ready {
		answer = healthv1.HealthCheckResponse_NOT_SERVING
	}
	for _, service := range []string{"", authv3.Authorization_ServiceDesc.ServiceName} {
		h.server.SetServingStatus(service, answer)
	}
}

// drain says no for good.
func (h *healthService) drain() { h.server.Shutdown() }

// stop ends the streams that are open.
func (h *healthService) stop() { h.stopOnce.Do(func() { close(h.stopped) }) }

// endStreams ends a stream (a health Watch, reflection) when the server stops: its
// client never would, and a graceful stop waits for it. The handler notices by the
// stream's context, which ends with it.
func (h *healthService) endStreams(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod == accesslogv3.AccessLogService_StreamAccessLogs_FullMethodName {
		return handler(server, stream) // ends by itself, so that nothing is lost
	}
	done := make(chan error, 1)
	go func() { done <- handler(server, stream) }()
	select {
	case err := <-done:
		return err
	case <-h.stopped:
		return status.Error(codes.Unavailable, "the server is stopping")
	}
}
