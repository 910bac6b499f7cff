//go:build linux

package kubetest

import (
	"log"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// serveLogs answers `kubectl logs`, and helm where it shows what a hook said. It does not follow.
func (n *node) serveLogs(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		p := n.find(r.PathValue("namespace"), r.PathValue("pod"))
		if p == nil {
			http.NotFound(w, r)
			return
		}
		text, err := os.ReadFile(filepath.Join(p.dir, filepath.Base(r.PathValue("container"))+".log"))
		if err != nil && !os.IsNotExist(err) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(text)
	})
	server := &http.Server{Addr: nodeServer, Handler: mux, ErrorLog: log.New(t.Output(), "node: ", 0)}
	go func() {
		_ = server.ListenAndServeTLS(filepath.Join(n.cluster.dir, "server.crt"), filepath.Join(n.cluster.dir, "server.key"))
	}()
	t.Cleanup(func() { _ = server.Close() })
}
