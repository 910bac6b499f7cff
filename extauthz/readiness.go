package extauthz

import (
	"sync"
	"sync/atomic"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// readiness is what health checks are told, on the gRPC port and on the HTTP lane.
type readiness struct {
	health   *health.Server
	unready  atomic.Bool
	draining atomic.Bool

	stopOnce sync.Once
	stopped  chan struct{} // closed when streams have to end
}

func newReadiness() *readiness {
	r := &readiness{health: health.NewServer(), stopped: make(chan struct{})}
	r.set(true)
	return r
}

// set says whether this server should get checks. It has no effect after drain.
func (r *readiness) set(ready bool) {
	r.unready.Store(!ready)
	answer := healthv1.HealthCheckResponse_SERVING
	if !ready {
		answer = healthv1.HealthCheckResponse_NOT_SERVING
	}
	for _, service := range []string{"", authv3.Authorization_ServiceDesc.ServiceName} {
		r.health.SetServingStatus(service, answer)
	}
}

// drain says no for good.
func (r *readiness) drain() {
	r.draining.Store(true)
	r.health.Shutdown()
}

// stop ends the streams that are open.
func (r *readiness) stop() { r.stopOnce.Do(func() { close(r.stopped) }) }

// serving is the answer to a health check.
func (r *readiness) serving() bool { return !r.unready.Load() && !r.draining.Load() }

// endStreams ends a stream (a health Watch, reflection) when the server stops: its
// client never would, and a graceful stop waits for it. The handler notices by the
// stream's context, which ends with it.
func (r *readiness) endStreams(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	done := make(chan error, 1)
	go func() { done <- handler(server, stream) }()
	select {
	case err := <-done:
		return err
	case <-r.stopped:
		return status.Error(codes.Unavailable, "the server is stopping")
	}
}
