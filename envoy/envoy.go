// Package envoy holds the Envoy bootstraps that Tollgate ships, one that asks Tollgate over gRPC
// and one that asks over HTTP, and the one Envoy version that everything here is pinned to. The
// files are embedded, so a binary can start an Envoy without the repository.
package envoy

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed VERSION envoy.yaml http/envoy.yaml
var files embed.FS

// Version returns the pinned Envoy version, such as "1.40.0": the one that fetch.sh gets by default
// and that docker-compose.yaml runs.
func Version() string {
	b, err := fs.ReadFile(files, "VERSION")
	if err != nil {
		panic("envoy: VERSION is embedded above, so it cannot be missing: " + err.Error())
	}
	return strings.TrimSpace(string(b))
}

// Bootstrap returns the shipped bootstrap (YAML, comments included). It has a virtual host for each
// API.
func Bootstrap() ([]byte, error) { return files.ReadFile("envoy.yaml") }

// HTTPBootstrap returns the shipped bootstrap for all APIs whose Envoy asks Tollgate over HTTP. It
// needs Envoy 1.38 or later.
func HTTPBootstrap() ([]byte, error) { return files.ReadFile("http/envoy.yaml") }
