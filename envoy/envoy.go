// Package envoy holds the Envoy bootstraps that Tollgate ships, one for each API and one for all of them,
// and the one Envoy version that everything here is pinned to. The files are embedded, so the binary can
// start an Envoy without the repository.
package envoy

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed VERSION http/envoy.yaml all.yaml genapi.yaml pictify.yaml pixelbyte.yaml pixelmagic.yaml
var files embed.FS

// Version returns the pinned Envoy version, such as "1.40.0": the one that fetch.sh gets by default and
// that docker-compose.yaml runs.
func Version() string {
	b, err := fs.ReadFile(files, "VERSION")
	if err != nil {
		panic("envoy: VERSION is embedded above, so it cannot be missing: " + err.Error())
	}
	return strings.TrimSpace(string(b))
}

// Names returns the names that Bootstrap knows, sorted.
func Names() []string {
	return []string{"all", "genapi", "pictify", "pixelbyte", "pixelmagic"}
}

// Bootstrap returns the shipped bootstrap (YAML, comments included) for one API, or for "all" of them.
// The error of an unknown name lists the known ones.
func Bootstrap(name string) ([]byte, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("no Envoy bootstrap named %q; there are %s", name, strings.Join(Names(), ", "))
	}
	return files.ReadFile(name + ".yaml")
}

// HTTPBootstrap returns the shipped bootstrap for all APIs whose Envoy asks Tollgate over HTTP. It needs Envoy 1.38
// or later.
func HTTPBootstrap() ([]byte, error) { return files.ReadFile("http/envoy.yaml") }
