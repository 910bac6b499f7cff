package server

import (
	"net"
	"net/http"
	"net/http/pprof"
)

// profiler serves Go's profiler on an address of its own, because it is for users of
// this machine, and the HTTP port is for the cluster.
type profiler struct {
	listener net.Listener
	server   *http.Server
	ended    chan struct{}
}

// startProfiler listens on address; an empty one starts nothing.
func startProfiler(address string) (*profiler, error) {
	if address == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index) // heap, allocs, goroutine, …
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	p := &profiler{listener: listener, ended: make(chan struct{}),
		// No WriteTimeout: a profile is sent when its time is over.
		server: &http.Server{Handler: mux, ReadHeaderTimeout: httpHeaderTimeout}}
	go func() {
		defer close(p.ended)
		_ = p.server.Serve(listener) // it ends by stop; without it the server goes on
	}()
	return p, nil
}

// stop ends it, even in the middle of a request.
func (p *profiler) stop() {
	if p == nil {
		return
	}
	_ = p.server.Close()
	<-p.ended
}

// address returns where it listens, or nothing.
func (p *profiler) address() string {
	if p == nil {
		return ""
	}
	return p.listener.Addr().String()
}
